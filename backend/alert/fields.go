package alert

import (
	"fmt"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// Fields are the fields of Change.
var Fields = schema.Fields{
	"name": schema.Str("Name of the alert.").Must(),
	"url": schema.Str("URL of the receiver. A read returns the URL without the path, which may be a secret. A change " +
		"requires headers again, if there are any.").Titled("URL").Secret(),
	"allow_http": schema.Flag("Allow a url of the scheme http, which is not encrypted. Default: false.").
		Titled("Allow HTTP"),
	"ca_cert": schema.Str("CA certificates of the receiver, in PEM. A change requires headers again, if there are any. " +
		"Default: the system's.").Titled("CA certificate").Edited("file"),
	"headers": schema.Pairs("Headers of each delivery, such as Authorization. A write replaces all headers. A read " +
		"returns the names only. Default: none.").Titled("Headers").Secret(),
	"format": schema.Str("Body of a delivery: cloudevents, or slack for a text in the form of Slack's incoming "+
		"webhooks. Default: cloudevents.").
		Titled("Format").OneOf(CloudEvents, Slack).Preset(CloudEvents),
	"secret": schema.Str("Secret that signs each delivery: whsec_ and the Base64 of 24 to 64 random bytes. A read " +
		"never returns the secret. Default: a random secret, which only the answer of this write returns.").
		Titled("Secret").Secret(),
	"events": schema.Commas("What to send: " + strings.Join(kindNames(), ", ") + ". Default: " +
		strings.Join(DefaultEvents, ", ") + ".").Titled("Events"),
	"rules": schema.Commas("Send only findings of these rules of config/detection. Default: all rules.").Titled("Rules"),
	"roles": schema.Commas("Send only findings about tokens of these roles. Default: all findings, also those without " +
		"a role.").Titled("Roles"),
	"min_severity": schema.Str("Send only findings of this severity or higher: low, medium or high. Default: low.").
		Titled("Minimum severity").OneOf(detect.Low, detect.Medium, detect.High).Preset(detect.Low),
	"disabled": schema.Flag("Send nothing, and drop what waits. The engine disables the alert if the receiver answers " +
		"410 Gone. Default: false.").Titled("Disabled"),
	"description": schema.Str("Purpose of the alert.").Titled("Description"),
	"owner":       review.Fields["owner"],
}

func kindNames() []string {
	names := make([]string, len(detect.Kinds))
	for i, kind := range detect.Kinds {
		names[i] = string(kind)
	}
	return names
}

// Answer are the members of an alert.
var Answer = schema.Read(schema.Fields{
	"header_names":               schema.Strs("Names of the headers.").Must(),
	"previous_secret_expires_at": schema.Str("Until when the previous secret signs, too; absent if only one secret signs."),
	"disabled_reason":            schema.Str("Why the engine has disabled the alert; absent if an operator has."),
	"disabled_at":                schema.Str("When the alert was disabled; absent if it is not."),
	"queue": schema.Object("Notices that wait: count, oldest (when the oldest was queued), next_try after a failure, " +
		"dropped (notices given up), last_error, last_error_at, last_success_at. The last four are those of this process.").
		Must(),
}, Fields, "name", "secret", "headers")

// WriteAnswer are the members of the answer of a write.
var WriteAnswer = schema.Fields{
	"secret": schema.Str("Secret that signs the deliveries, if the engine has generated the secret. No other answer " +
		"returns the secret."),
}

// RotateAnswer are the members of the answer of rotate-secret.
var RotateAnswer = schema.Joined(WriteAnswer, schema.Fields{
	"previous_secret_expires_at": schema.Str("Until when the previous secret signs, too; absent if only the new secret " +
		"signs."),
})

// TestAnswer are the members of the answer of test.
var TestAnswer = schema.Fields{
	"id":     schema.Str("ID of the test event, in the header webhook-id.").Must(),
	"status": schema.Num("HTTP status of the receiver's answer.").Must(),
}

// RotateFields are the fields of Rotation.
var RotateFields = schema.Fields{
	"name": Fields["name"],
	"secret": schema.Str("The new secret: whsec_ and the Base64 of 24 to 64 random bytes. Default: a random secret, " +
		"which only the answer returns.").Secret(),
	"overlap": schema.Secs(fmt.Sprintf("How long the previous secret signs, too, at most %s. 0: not at all, for a secret that "+
		"has leaked. Default: %s.", refusal.Short(MaxOverlap), refusal.Short(DefaultOverlap))),
}

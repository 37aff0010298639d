package backend

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/alert"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// alertFields are the fields of an alert.
func alertFields() fields {
	kinds := make([]string, len(detect.Kinds))
	for i, kind := range detect.Kinds {
		kinds[i] = string(kind)
	}
	return fields{
		"name": must(str("Name of the alert.")),
		"url": secret(titled("URL", str("URL of the receiver. A read returns the URL without the path, which may be a secret. "+
			"A change requires headers again, if there are any."))),
		"allow_http": titled("Allow HTTP", flag("Allow a url of the scheme http, which is not encrypted. Default: false.")),
		"ca_cert": edited("file", titled("CA certificate", str("CA certificates of the receiver, in PEM. A change requires "+
			"headers again, if there are any. Default: the system's."))),
		"headers": secret(titled("Headers", pairs("Headers of each delivery, such as Authorization. A write replaces all headers. "+
			"A read returns the names only. Default: none."))),
		"format": preset(oneOf(titled("Format", str("Body of a delivery: cloudevents, or slack for a text in the form of Slack's "+
			"incoming webhooks. Default: cloudevents.")), alert.CloudEvents, alert.Slack), alert.CloudEvents),
		"secret": secret(titled("Secret", str("Secret that signs each delivery: whsec_ and the Base64 of 24 to 64 random bytes. "+
			"A read never returns the secret. Default: a random secret, which only the answer of this write returns."))),
		"events": titled("Events", commas("What to send: "+strings.Join(kinds, ", ")+". Default: "+
			strings.Join(alert.DefaultEvents, ", ")+".")),
		"rules": titled("Rules", commas("Send only findings of these rules of config/detection. Default: all rules.")),
		"roles": titled("Roles", commas("Send only findings about tokens of these roles. Default: all findings, also those "+
			"without a role.")),
		"min_severity": preset(oneOf(titled("Minimum severity", str("Send only findings of this severity or higher: low, medium "+
			"or high. Default: low.")), detect.Low, detect.Medium, detect.High), detect.Low),
		"disabled": titled("Disabled", flag("Send nothing, and drop what waits. The engine disables the alert if the receiver "+
			"answers 410 Gone. Default: false.")),
		"description": titled("Description", str("Purpose of the alert.")),
		"owner":       ownerField,
	}
}

// alertAnswer are the members of an alert.
var alertAnswer = readFields(fields{
	"header_names":               must(strs("Names of the headers.")),
	"previous_secret_expires_at": str("Until when the previous secret signs, too; absent if only one secret signs."),
	"disabled_reason":            str("Why the engine has disabled the alert; absent if an operator has."),
	"disabled_at":                str("When the alert was disabled; absent if it is not."),
	"queue": must(object("Notices that wait: count, oldest (when the oldest was queued), next_try after a failure, dropped (notices " +
		"given up), last_error, last_error_at, last_success_at. The last four are those of this process.")),
}, alertFields(), "name", "secret", "headers")

// alertWriteAnswer are the members of the answer of a write.
var alertWriteAnswer = fields{
	"secret": str("Secret that signs the deliveries, if the engine has generated the secret. No other answer returns the secret."),
}

// alertRotateAnswer are the members of the answer of rotate-secret.
var alertRotateAnswer = joined(alertWriteAnswer, fields{
	"previous_secret_expires_at": str("Until when the previous secret signs, too; absent if only the new secret signs."),
})

// alertTestAnswer are the members of the answer of test.
var alertTestAnswer = fields{
	"id":     must(str("ID of the test event, in the header webhook-id.")),
	"status": must(num("HTTP status of the receiver's answer.")),
}

func (b *backend) pathsAlerts() []*framework.Path {
	all := alertFields()
	nameOnly := fields{"name": all["name"]}
	rotateFields := joined(nameOnly, fields{
		"secret": secret(str("The new secret: whsec_ and the Base64 of 24 to 64 random bytes. Default: a random secret, which only " +
			"the answer returns.")),
		"overlap": secs(fmt.Sprintf("How long the previous secret signs, too, at most %s. 0: not at all, for a secret that has leaked. "+
			"Default: %s.", refusal.Short(alert.MaxOverlap), refusal.Short(alert.DefaultOverlap))),
	})
	one := "alerts/" + framework.GenericNameRegex("name")
	return append(b.pathsEntries("alerts", func(st *state) entries { return st.Alerts.Entries }, all,
		crud(
			forward(b.answer(b.pathAlertsRead, "Read an alert without secrets, and the state of its queue.", ok(alertAnswer))),
			forward(b.answer(b.pathAlertsWrite, "Create or change an alert. Omitted fields keep their values.",
				ok(alertWriteAnswer))),
			b.change(b.pathAlertsDelete, "Delete an alert, and what waits for a delivery."),
		),
		"A webhook that is called about findings of misuse.",
		"An alert sends a notice about each finding that its fields select, signed as Standard Webhooks say, as a CloudEvent or as "+
			"a text for Slack. A notice waits in storage until the receiver takes the notice, at most three days."),
		path(one+"/test", "test", "alert", nameOnly,
			only(logical.UpdateOperation, forward(b.answer(b.pathAlertsTest, "Send a test event at once.", ok(alertTestAnswer)))),
			"Send a test event at once, and return the receiver's status.",
			"A failure is an error with the reason. A success has the queue of the alert tried again at once."),
		path(one+"/rotate-secret", "rotate", "alert-secret", rotateFields,
			only(logical.UpdateOperation,
				forward(b.answer(b.pathAlertsRotate, "Replace the secret of an alert.", ok(alertRotateAnswer)))),
			"Replace the secret of an alert.",
			"Both secrets sign each delivery until overlap has passed: the receiver can change to the new secret meanwhile."))
}

func (b *backend) pathAlertsRead(_ context.Context, st *state, _ *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	a := st.Alerts.Entries.Get(name)
	if a == nil {
		return nil, refusal.Wrap(st.Alerts.Entries.Broken(name))
	}
	return members(alertAnswer, a.Members(b.Now()), map[string]any{"queue": st.Alerts.Describe(a)}), nil
}

func (b *backend) pathAlertsWrite(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	change := given[alert.Change](d)
	change.MountPoint = req.MountPoint
	generated, err := st.Alerts.Write(ctx, req.Storage, d.Get("name").(string), change)
	if err != nil || generated == "" {
		return nil, err
	}
	return members(alertWriteAnswer, map[string]any{"secret": generated}), nil
}

func (b *backend) pathAlertsDelete(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	return nil, st.Alerts.Delete(ctx, req.Storage, d.Get("name").(string))
}

func (b *backend) pathAlertsTest(ctx context.Context, st *state, _ *request, d *input) (*response, error) {
	id, status, err := st.Alerts.Test(ctx, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	return members(alertTestAnswer, map[string]any{"id": id, "status": status}), nil
}

func (b *backend) pathAlertsRotate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	rotation := &alert.Rotation{Overlap: alert.DefaultOverlap, Secret: d.Get("secret").(string)}
	if _, given := d.GetOk("overlap"); given {
		rotation.Overlap = seconds(d, "overlap")
	}
	generated, until, err := st.Alerts.Rotate(ctx, req.Storage, d.Get("name").(string), rotation)
	if err != nil {
		return nil, err
	}
	resp := members(alertRotateAnswer, map[string]any{"secret": generated, "previous_secret_expires_at": until})
	if len(resp.Data) == 0 {
		return nil, nil
	}
	return resp, nil
}

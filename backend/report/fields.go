package report

import (
	"fmt"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// Answer are the members of Page.
var Answer = schema.Fields{
	"items": schema.Slice("Items of the page: kind, name, reasons, detail (the reasons in sentences) and command (what to " +
		"do); further members where they apply.").Must(),
	"next": schema.Str("Value of after for the next page; absent on the last page. A page before the last page may be " +
		"empty."),
	"caveats": schema.Strs("What the report cannot know.").Must(),
}

// The fields of each report, see Request.
var (
	StaleFields = fieldsOf(Kinds, schema.Fields{
		"unused_for": schema.Secs("Return what was not used for this long. Default: 45d.").Query(),
	})
	BroadFields = fieldsOf(BroadKinds, schema.Fields{
		"max_life": schema.Secs("Longest life of a token that is not long. Default: 30d.").Query(),
		"checks": schema.Commas("Checks: " + strings.Join(Checks, ", ") + ". Default: " + strings.Join(DefaultChecks, ", ") +
			".").Query(),
	})
	RightSizeFields = fieldsOf(RightSizeKinds, schema.Fields{
		"role":        schema.Str("Return only this role. Default: all.").Query(),
		"watched_for": schema.Secs("Leave out roles that the engine has watched for a shorter time. Default: 14d.").Query(),
	})
	OrphanFields  = fieldsOf(OrphanKinds, nil)
	UnownedFields = fieldsOf(UnownedKinds, nil)
)

// fieldsOf returns the fields of a report of these kinds of items, with further fields.
func fieldsOf(kinds []string, more schema.Fields) schema.Fields {
	return schema.Joined(schema.Fields{
		"after": schema.Str("next of the previous page. Default: the first page.").Query(),
		"limit": schema.Num(fmt.Sprintf("Maximum number of items to return, at most %d. Default: %[1]d. With format=jsonl: %d.",
			MaxLimit, schema.MaxLines)).Query(),
		"format": schema.Format(),
		"kind": schema.Str("Return only items of this kind: " + strings.Join(kinds, ", ") + ". Default: all.").
			Query().OneOf(schema.Any(kinds)...),
	}, more)
}

// SummaryFields are the fields of a request for a Summary.
var SummaryFields = schema.Fields{"format": schema.Format()}

// SummaryAnswer are the members of Summary.
var SummaryAnswer = schema.Fields{
	"as_of":              schema.Date("Time of the count.").Must(),
	"roles":              schema.Num("Number of roles.").Must(),
	"connections":        schema.Num("Number of connections.").Must(),
	"static_roles":       schema.Num("Number of static roles.").Must(),
	"live_tokens":        schema.Num("Number of live grants in the inventory.").Must(),
	"live_opaque":        schema.Num("Live grants of opaque tokens.").Must(),
	"live_jwt":           schema.Num("Live grants of JWTs.").Must(),
	"live_of_services":   schema.Num("Live tokens of services.").Must(),
	"issued_last_day":    schema.Num("Grants of the inventory that were issued within 24 hours.").Must(),
	"expire_next_day":    schema.Num("Live grants that expire within 24 hours.").Must(),
	"used_last_day":      schema.Num("Live grants with a known use within 24 hours.").Must(),
	"never_used":         schema.Num("Live native grants without a known use.").Must(),
	"stale_tokens":       schema.Num("Live grants that report/stale lists by default.").Must(),
	"uses":               schema.Num64("Known uses of the live grants.").Must(),
	"refusals":           schema.Num64("Known refusals of the live grants.").Must(),
	"revocation_queue":   schema.Num("Tokens of services that are to be revoked.").Must(),
	"unreadable_entries": schema.Num("Stored entries that cannot be read; see broken.").Must(),
	"unowned":            schema.Num("Roles, connections and static roles without an owner.").Must(),
	"overdue_reviews":    schema.Num("Roles, connections and static roles whose review_by has passed.").Must(),
	"privileged_roles":   schema.Num("Roles with scopes that match privileged_scopes.").Must(),
	"top_roles":          schema.Slice("The ten roles with the most live grants: role, live_tokens.").Must(),
}

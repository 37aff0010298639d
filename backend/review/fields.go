package review

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// Fields are the fields of a review in a request to write an entry.
var Fields = schema.Fields{
	"owner": schema.Str("Team or person that answers for this entry. Default: none.").Titled("Owner"),
	"review_by": schema.Str("Last day, in UTC, to confirm by attest that this entry is still needed, such as 2027-03-31. " +
		"Default: none.").Titled("Review by"),
}

// Attested is the member of an answer that Review.Attested returns.
var Attested = schema.Object("Last attestation: at, by (display name of the Vault token), entity_id, note; absent if none.")

// AttestFields are the fields of Attestation.
var AttestFields = schema.Fields{
	"kind":      schema.Str("Kind of the entry: roles, connections or static-roles.").Must(),
	"name":      schema.Str("Name of the entry.").Must(),
	"review_by": schema.Str("Last day, in UTC, for the next review, such as 2027-03-31. Default: in 90 days."),
	"note":      schema.Str("Remark for the next review, in at most 512 bytes. No token may be in it. Default: none."),
}

// AttestAnswer are the members of the review after an attestation.
var AttestAnswer = schema.Fields{
	"owner":     schema.Str("Team or person that answers for the entry; empty if none.").Must(),
	"review_by": schema.Str("Last day for the next review.").Must(),
	"attested":  schema.Object("The attestation: at, by, entity_id, note.").Must(),
}

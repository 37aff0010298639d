package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
)

// The fields of a review, the same for roles, connections and static roles.
var (
	ownerField    = titled("Owner", str("Team or person that answers for this entry. Default: none."))
	reviewByField = titled("Review by", str("Last day, in UTC, to confirm by attest that this entry is still needed, such as "+
		"2027-03-31. Default: none."))
	attestedField = object("Last attestation: at, by (display name of the Vault token), entity_id, note; absent if none.")
)

// attested returns the last attestation; nil if there is none.
func attested(r *review.Review) map[string]any {
	if r.AttestedAt.IsZero() {
		return nil
	}
	last := map[string]any{"at": rfc3339(r.AttestedAt), "by": r.AttestedBy}
	if r.AttestedByEntity != "" {
		last["entity_id"] = r.AttestedByEntity
	}
	if r.AttestedNote != "" {
		last["note"] = r.AttestedNote
	}
	return last
}

func (b *backend) pathsAttest() []*framework.Path {
	attest := forward(b.answer(b.pathAttestUpdate, "Confirm that a role, connection or static role is still needed.", ok(fields{
		"owner":     must(str("Team or person that answers for the entry; empty if none.")),
		"review_by": must(str("Last day for the next review.")),
		"attested":  must(object("The attestation: at, by, entity_id, note.")),
	})))
	return []*framework.Path{path("attest/(?P<kind>roles|connections|static-roles)/"+framework.GenericNameRegex("name"), "attest", "entry", fields{
		"kind":      must(str("Kind of the entry: roles, connections or static-roles.")),
		"name":      must(str("Name of the entry.")),
		"review_by": str("Last day, in UTC, for the next review, such as 2027-03-31. Default: in 90 days."),
		"note":      str("Remark for the next review, in at most 512 bytes. No token may be in it. Default: none."),
	},
		only(logical.UpdateOperation, attest),
		"Confirm that a role, connection or static role is still needed.",
		"Records who has confirmed the need and when, and sets the next review_by. A policy can allow attest without allowing changes. With "+
			"enforce_review in config, an overdue entry issues no tokens until somebody attests the entry.")}
}

func (b *backend) pathAttestUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	a := given[review.Attestation](d)
	a.Kind, a.Name, a.By, a.Entity = d.Get("kind").(string), d.Get("name").(string), req.DisplayName, req.EntityID
	r, err := b.Attest(ctx, req.Storage, st, a)
	if err != nil {
		return nil, err
	}
	return &response{Data: map[string]any{"owner": r.Owner, "review_by": r.ReviewBy, "attested": attested(r)}}, nil
}

package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
)

func (b *backend) pathsAttest() []*framework.Path {
	attest := forward(b.answer(b.pathAttestUpdate, "Confirm that a role, connection or static role is still needed.",
		ok(review.AttestAnswer)))
	return []*framework.Path{path("attest/(?P<kind>roles|connections|static-roles)/"+framework.GenericNameRegex("name"),
		"attest", "entry", review.AttestFields,
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
	return members(review.AttestAnswer, r, map[string]any{"attested": r.Attested()}), nil
}

package native

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// AttestRole records that somebody has confirmed that a role is still needed; nil if there is no role.
func (t *Tokens) AttestRole(ctx context.Context, s logical.Storage, a *review.Attestation) (*review.Review, error) {
	t.Roles.Writing.Lock()
	defer t.Roles.Writing.Unlock()
	r, err := t.Roles.Latest(ctx, s, a.Name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, refusal.Wrap(t.Roles.Broken(a.Name))
	}
	entry := r.Entry
	if err := entry.Attest(a, t.Now()); err != nil {
		return nil, err
	}
	if r, err = role.New(a.Name, entry); err != nil {
		return nil, err
	}
	return &r.Review, t.Roles.Put(ctx, s, r)
}

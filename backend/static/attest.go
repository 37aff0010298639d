package static

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
)

// Attest records that somebody has confirmed that a static role is still needed; nil if there is no static role.
func (k *Keeper) Attest(ctx context.Context, s logical.Storage, a *review.Attestation) (*review.Review, error) {
	t, err := k.begin(ctx, s, a.Name)
	if err != nil {
		return nil, err
	}
	defer t.unlock()
	if t.stored == nil {
		return nil, refusal.Wrap(t.Entries.Broken(a.Name))
	}
	e := *t.stored
	if err := e.Review.Attest(a, k.now()); err != nil {
		return nil, err
	}
	return &e.Review, t.put(ctx, &e)
}

package upstream

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
)

// Attest records that somebody has confirmed that a connection is still needed; nil if there is no connection.
func (cs *Connections) Attest(ctx context.Context, s logical.Storage, a *review.Attestation, now time.Time) (*review.Review, error) {
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	c, err := cs.Latest(ctx, s, a.Name)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, refusal.Wrap(cs.Broken(a.Name))
	}
	changed := *c
	if err := changed.Review.Attest(a, now); err != nil {
		return nil, err
	}
	return &changed.Review, cs.Put(ctx, s, &changed)
}

package mount

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
)

// holdings implements leavers.Holdings. The tokens of a mount that stay valid outside the engine until revoked are JWTs with
// a place in a status list, upstream tokens, and tokens of static roles.
type holdings struct{ m *Mount }

// Entities implements leavers.Holdings.
func (h holdings) Entities(ctx context.Context) ([]string, error) {
	if !h.m.MayWrite() {
		return nil, nil
	}
	st, err := h.m.Load(ctx, h.m.Storage)
	if err != nil {
		return nil, err
	}
	now := h.m.now()
	found := make(map[string]bool)
	for row := range st.LiveJWTs(now) {
		found[row.Subject] = true
	}
	kept, err := h.m.Statics.Entities(ctx)
	if err != nil {
		return nil, err
	}
	for _, entity := range slices.Concat(kept, st.Upstreams.Subjects()) {
		found[entity] = true
	}
	return slices.Collect(maps.Keys(found)), nil
}

// Revoke implements leavers.Holdings.
func (h holdings) Revoke(ctx context.Context, entities map[string]bool) (tokens int, _ error) {
	st, err := h.m.Load(ctx, h.m.Storage)
	if err != nil {
		return 0, err
	}
	defer h.m.Statics.Wake() // a static role may have kept a revoked token
	now := h.m.now()
	var failed error
	count := func(err error) {
		if err == nil {
			tokens++
		}
		failed = errors.Join(failed, err)
	}
	for row := range st.LiveJWTs(now) {
		if entities[row.Subject] {
			count(st.RevokeLease(ctx, h.m.Storage, row.ID, row.Status, row.ExpiresAt, time.Time{}))
		}
	}
	for entity := range entities {
		for _, id := range st.Upstreams.OfSubject(entity) {
			_, err := h.m.Upstreams.Revoke(ctx, id)
			count(err)
		}
	}
	kept, err := h.m.Statics.RevokeOf(ctx, entities)
	h.m.Counters.Revoked(metrics.ByEntity, tokens+kept)
	return tokens + kept, errors.Join(failed, err)
}

package backend

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// mountHoldings implements leavers.Holdings. The tokens of a mount that stay valid outside the engine until revoked are JWTs with
// a place in a status list, upstream tokens, and tokens of static roles.
type mountHoldings struct{ b *backend }

// Entities implements leavers.Holdings.
func (h mountHoldings) Entities(ctx context.Context) ([]string, error) {
	if !h.b.WriteSafeReplicationState() {
		return nil, nil
	}
	st, err := h.b.load(ctx, h.b.storage)
	if err != nil {
		return nil, err
	}
	now := h.b.now()
	found := make(map[string]bool)
	for row := range st.LiveJWTs(now) {
		found[row.Subject] = true
	}
	kept, err := h.b.statics.Entities(ctx)
	if err != nil {
		return nil, err
	}
	for _, entity := range slices.Concat(kept, st.upstreams.Subjects()) {
		found[entity] = true
	}
	return slices.Collect(maps.Keys(found)), nil
}

// Revoke implements leavers.Holdings.
func (h mountHoldings) Revoke(ctx context.Context, entities map[string]bool) (tokens int, _ error) {
	st, err := h.b.load(ctx, h.b.storage)
	if err != nil {
		return 0, err
	}
	defer h.b.statics.Wake() // a static role may have kept a revoked token
	now := h.b.now()
	var failed error
	count := func(err error) {
		if err == nil {
			tokens++
		}
		failed = errors.Join(failed, err)
	}
	for row := range st.LiveJWTs(now) {
		if entities[row.Subject] {
			count(st.RevokeLease(ctx, h.b.storage, row.ID, row.Status, row.ExpiresAt))
		}
	}
	for entity := range entities {
		for _, id := range st.upstreams.OfSubject(entity) {
			_, err := h.b.upstreams.Revoke(ctx, id)
			count(err)
		}
	}
	kept, err := h.b.statics.RevokeOf(ctx, entities)
	return tokens + kept, errors.Join(failed, err)
}

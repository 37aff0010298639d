package static

import (
	"context"
	"errors"
)

// Entities returns the Vault entities of the valid tokens of static roles. An entity may be returned twice.
func (k *Keeper) Entities(ctx context.Context) ([]string, error) {
	st, err := k.mount.Load(ctx, k.storage)
	if err != nil {
		return nil, err
	}
	var entities []string
	for _, e := range st.Entries.All() {
		if e.EntityID != "" && st.works(e) {
			entities = append(entities, e.EntityID)
		}
	}
	return entities, nil
}

// RevokeOf revokes the tokens that static roles keep for entities, and returns the number of these static roles. Run makes
// no new token until the entity is enabled again.
func (k *Keeper) RevokeOf(ctx context.Context, entities map[string]bool) (revoked int, failed error) {
	st, err := k.mount.Load(ctx, k.storage)
	if err != nil {
		return 0, err
	}
	for _, e := range st.Entries.All() {
		if !entities[e.EntityID] || !st.works(e) {
			continue
		}
		if err := k.revokeOne(ctx, e.name, entities); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		revoked++
	}
	return revoked, failed
}

func (k *Keeper) revokeOne(ctx context.Context, name string, entities map[string]bool) error {
	t, err := k.begin(ctx, k.storage, name)
	if err != nil {
		return err
	}
	defer t.unlock()
	if t.stored == nil || !entities[t.stored.EntityID] {
		return nil
	}
	return t.revokeAll(ctx)
}

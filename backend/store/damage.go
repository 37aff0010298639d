package store

import (
	"context"
	"maps"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// Damage lists the stored entries of a room that cannot be read. Other entries stay usable. The zero value is ready to use, and
// safe for concurrent use.
type Damage struct {
	mu   sync.RWMutex
	keys map[string]error // storage key -> why it cannot be read
}

// NoteDamage records why an entry cannot be read. A nil error means that the entry is readable or deleted.
func (d *Damage) NoteDamage(key string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.keys, key)
		return
	}
	if d.keys == nil {
		d.keys = make(map[string]error)
	}
	d.keys[key] = err
}

// Intact reports whether all entries are readable.
func (d *Damage) Intact() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.keys) == 0
}

// DamageOf returns why an entry cannot be read; nil if the entry is readable.
func (d *Damage) DamageOf(key string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.keys[key]
}

// Damaged returns the storage keys of the unreadable entries, each with the reason.
func (d *Damage) Damaged() map[string]error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return maps.Clone(d.keys)
}

// DropDamaged deletes an unreadable entry.
func (d *Damage) DropDamaged(ctx context.Context, s logical.Storage, key string) error {
	if d.DamageOf(key) == nil {
		return nil
	}
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	d.NoteDamage(key, nil)
	return nil
}

package ledger

import (
	"context"
	"maps"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// damage is what a part of the ledger knows of its stored entries that cannot be read. Each costs only what needs
// it.
type damage struct {
	mu   sync.Mutex
	keys map[string]error // storage key -> why it cannot be read
}

// note remembers why an entry cannot be read; nil: it can, or is gone.
func (d *damage) note(key string, err error) {
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

// Damaged returns the entries that cannot be read, by key, and why.
func (d *damage) Damaged() map[string]error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.keys)
}

// DropDamaged deletes an entry that cannot be read.
func (d *damage) DropDamaged(ctx context.Context, s logical.Storage, key string) error {
	if d.Damaged()[key] == nil {
		return nil
	}
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	d.note(key, nil)
	return nil
}

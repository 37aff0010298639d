package detect

import (
	"context"
	"maps"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"
)

// damage lists the stored entries that cannot be read. Other entries stay usable.
type damage struct {
	mu   sync.Mutex
	keys map[string]error // storage key -> why it cannot be read
}

// note records why an entry cannot be read; nil: it can, or it was deleted.
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

// Damaged returns the storage keys of the unreadable entries, each with the reason.
func (d *Detector) Damaged() map[string]error {
	d.damage.mu.Lock()
	defer d.damage.mu.Unlock()
	return maps.Clone(d.damage.keys)
}

// DropDamaged deletes an unreadable entry. A finding is lost; of the settings, the defaults apply.
func (d *Detector) DropDamaged(ctx context.Context, s logical.Storage, key string) error {
	if d.Damaged()[key] == nil {
		return nil
	}
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	d.damage.note(key, nil)
	return nil
}

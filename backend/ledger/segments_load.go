package ledger

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

// Load reads the segments of all other writers from storage. Another call brings memory up to date. Memory always has the
// rows of this writer.
func (inv *Inventory) Load(ctx context.Context, s logical.Storage, _ time.Time) error {
	inv.storing.Lock()
	defer inv.storing.Unlock()
	return inv.load(ctx, s)
}

// maxLoads is how often load lists the segments. Rows are moved seldom, and not during each of several listings.
const maxLoads = 10

// load is Load. Another process may move rows to a segment of its own meanwhile: it writes that segment, and then deletes the
// old segment. load forgets an old segment only after reading the segments that were listed later. The caller holds storing.
func (inv *Inventory) load(ctx context.Context, s logical.Storage) error {
	for try := 1; ; try++ {
		names, err := s.List(ctx, InventoryPrefix)
		if err != nil {
			return err
		}
		complete, err := inv.readAll(ctx, s, names)
		if err != nil {
			return err
		}
		if complete || try == maxLoads { // storage lists what it does not have
			inv.retain(names)
			return nil
		}
	}
}

// readAll reads segments, and reports whether storage still had all of them. The caller holds storing.
func (inv *Inventory) readAll(ctx context.Context, s logical.Storage, names []string) (complete bool, _ error) {
	var moved atomic.Bool
	err := store.Each(ctx, names, func(ctx context.Context, name string) error {
		_, there, err := inv.read(ctx, s, name)
		if !there {
			moved.Store(true)
		}
		return err
	})
	return !moved.Load(), err
}

// retain forgets the segments of other writers that are not among the names. The caller holds storing.
func (inv *Inventory) retain(names []string) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for name := range inv.segments {
		if !inv.owns(name) && !slices.Contains(names, name) {
			inv.forget(name)
		}
	}
}

// Reload reads a segment that another process has written or deleted.
func (inv *Inventory) Reload(ctx context.Context, s logical.Storage, key string, _ time.Time) error {
	inv.storing.Lock()
	defer inv.storing.Unlock()
	name := strings.TrimPrefix(key, InventoryPrefix)
	_, there, err := inv.read(ctx, s, name)
	if err == nil && !there {
		inv.mu.Lock()
		defer inv.mu.Unlock()
		inv.forget(name)
	}
	return err
}

// has reports whether memory has a segment.
func (inv *Inventory) has(name string) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.segments[name] != nil
}

// forget removes a segment, and the rows that no other segment has, from memory. The caller holds mu.
func (inv *Inventory) forget(name string) {
	seg := inv.segments[name]
	delete(inv.segments, name)
	inv.dropRows(seg)
}

// dropRows removes the rows of a segment from memory that no other segment has. The caller holds mu.
func (inv *Inventory) dropRows(seg *segment) {
	if seg == nil {
		return
	}
	for _, id := range seg.ids {
		if e, known := inv.rows.Get(entry{id: id}); known && e.segment == seg {
			inv.drop(e)
		}
	}
}

// read brings the rows of another writer's segment in memory up to date, and returns the stored segment. If storage does not
// have the segment, memory keeps the rows, since another process may have moved them. The caller holds storing.
func (inv *Inventory) read(ctx context.Context, s logical.Storage, name string) (value []byte, there bool, _ error) {
	if inv.owns(name) {
		return nil, true, nil
	}
	stored, err := s.Get(ctx, InventoryPrefix+name)
	if err != nil {
		return nil, true, err
	}
	if stored == nil {
		inv.NoteDamage(InventoryPrefix+name, nil)
		return nil, false, nil
	}
	var rows []storedRow
	damage := cbor.Unmarshal(stored.Value, &rows) // the rows of an unreadable segment are missing from the inventory
	inv.NoteDamage(InventoryPrefix+name, damage)
	if damage != nil {
		return stored.Value, true, nil
	}
	seg := &segment{name: name, size: len(stored.Value)}
	entries := make([]entry, len(rows))
	for i := range rows {
		entries[i] = rows[i].entry(seg)
	}

	inv.mu.Lock()
	defer inv.mu.Unlock()
	old := inv.segments[name]
	inv.segments[name] = seg
	for _, e := range entries {
		seg.ids = append(seg.ids, e.id)
		if known, has := inv.rows.Get(e); !has || known.issuedAt < e.issuedAt || known.issuedAt == e.issuedAt && !inv.keeps(known) {
			inv.place(e)
		}
	}
	inv.dropRows(old)
	return stored.Value, true, nil
}

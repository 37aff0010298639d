package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"time"
	"unique"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/tidwall/btree"
	"golang.org/x/sync/errgroup"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// InventoryPrefix is where Inventory keeps its segments in storage.
const InventoryPrefix = "ledger/inventory/"

const (
	// segmentRows is how many rows a segment holds before the next one is begun: about 100 kB.
	segmentRows = 1000

	// maxPending is how many rows may wait for storage. Beyond it, while storage refuses writes, the
	// oldest are no longer written, only remembered in memory.
	maxPending = 100_000
)

// A Row says who got which token, and when. It never holds the token.
type Row struct {
	ID        token.ID
	IssuedAt  time.Time // to the second
	ExpiresAt time.Time // to the second; what the token says, renewals apart
	Status    token.StatusRef
	Holder
}

// Holder is the part of a row that many tokens share.
type Holder struct {
	Role        string // the role's name
	RoleID      token.RoleID
	RoleVersion uint32
	Scopes      string // what was granted, separated by spaces
	Subject     string // Vault entity id; empty where there is none
	DisplayName string // of the Vault token that asked
}

// Inventory lists the tokens that may still be live. All rows are in memory, in the order of their ids,
// and in segments in storage. Add returns at once; Flush writes what was added since. A crash loses the
// rows that no Flush has written, which are no part of a token's validity or of its revocation.
//
// Use it from many goroutines. Only Flush and Prune touch storage, one at a time.
type Inventory struct {
	mu       sync.Mutex
	rows     *btree.BTreeG[entry] // by id
	ofRole   map[token.RoleID]int // how many rows each life of a role has
	segments map[uint64]*segment
	pending  []entry // not in storage yet, oldest first
	lost     int     // rows that were dropped from pending since the last Flush

	storing sync.Mutex // held while storage is written; before mu
	tail    tail
}

// entry is a row as it is kept in memory: 56 bytes and a shared holder.
type entry struct {
	id        token.ID
	holder    unique.Handle[Holder]
	issuedAt  int64
	expiresAt int64
	segment   uint64 // where it is stored; 0: nowhere yet
	status    token.StatusRef
}

func byID(a, b entry) bool { return a.id.Compare(b.id) < 0 }

type segment struct {
	stored int // rows in storage
	live   int // of these, rows in memory
}

// tail is the segment that is being filled. It is written whole each time.
type tail struct {
	number uint64
	rows   []storedRow
}

// storedRow is the stored form: a segment is a CBOR array of these, in the order of issue.
type storedRow struct {
	_           struct{} `cbor:",toarray"`
	ID          token.ID
	IssuedAt    int64
	ExpiresAt   int64
	Role        string
	RoleID      token.RoleID
	RoleVersion uint32
	Scopes      string
	Subject     string
	DisplayName string
	Status      token.StatusRef
}

func (e entry) stored() storedRow {
	h := e.holder.Value()
	return storedRow{
		ID: e.id, IssuedAt: e.issuedAt, ExpiresAt: e.expiresAt,
		Role: h.Role, RoleID: h.RoleID, RoleVersion: h.RoleVersion,
		Scopes: h.Scopes, Subject: h.Subject, DisplayName: h.DisplayName, Status: e.status,
	}
}

func (r *storedRow) entry(segment uint64) entry {
	return entry{
		id: r.ID,
		holder: unique.Make(Holder{
			Role: r.Role, RoleID: r.RoleID, RoleVersion: r.RoleVersion,
			Scopes: r.Scopes, Subject: r.Subject, DisplayName: r.DisplayName,
		}),
		issuedAt: r.IssuedAt, expiresAt: r.ExpiresAt, segment: segment, status: r.Status,
	}
}

func (e entry) row() Row {
	return Row{ID: e.id, IssuedAt: time.Unix(e.issuedAt, 0), ExpiresAt: time.Unix(e.expiresAt, 0), Status: e.status, Holder: e.holder.Value()}
}

// segmentKey sorts as its number does.
func segmentKey(number uint64) string { return fmt.Sprintf("%s%016x", InventoryPrefix, number) }

// LoadInventory reads it all from storage.
func LoadInventory(ctx context.Context, s logical.Storage) (*Inventory, error) {
	names, err := s.List(ctx, InventoryPrefix)
	if err != nil {
		return nil, err
	}
	inv := &Inventory{
		rows:     btree.NewBTreeGOptions(byID, btree.Options{NoLocks: true}),
		ofRole:   make(map[token.RoleID]int),
		segments: make(map[uint64]*segment, len(names)),
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for _, name := range names {
		group.Go(func() error {
			number, err := strconv.ParseUint(name, 16, 64)
			if err != nil {
				return fmt.Errorf("%s%s is not a segment of the inventory", InventoryPrefix, name)
			}
			stored, err := s.Get(ctx, InventoryPrefix+name)
			if err != nil || stored == nil {
				return err
			}
			var rows []storedRow
			if err := cbor.Unmarshal(stored.Value, &rows); err != nil {
				return fmt.Errorf("%s%s: %w", InventoryPrefix, name, err)
			}
			inv.mu.Lock()
			defer inv.mu.Unlock()
			inv.segments[number] = &segment{stored: len(rows)}
			for i := range rows {
				inv.place(rows[i].entry(number))
			}
			if number >= inv.tail.number {
				inv.tail = tail{number: number, rows: rows}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if inv.tail.number == 0 {
		inv.tail.number = 1
	}
	return inv, nil
}

// place puts a row into memory and counts it for its segment. A row that is stored twice, as after a
// crash while segments were merged, counts for one of them. The caller holds mu.
func (inv *Inventory) place(e entry) {
	if old, replaced := inv.rows.Set(e); replaced {
		inv.count(old, -1)
	}
	inv.count(e, +1)
}

// drop takes a row out of memory. The caller holds mu.
func (inv *Inventory) drop(e entry) {
	if old, known := inv.rows.Delete(e); known {
		inv.count(old, -1)
	}
}

// count counts a row for its role and its segment. The caller holds mu.
func (inv *Inventory) count(e entry, change int) {
	role := e.holder.Value().RoleID
	if inv.ofRole[role] += change; inv.ofRole[role] == 0 {
		delete(inv.ofRole, role)
	}
	inv.countLive(e.segment, change)
}

func (inv *Inventory) countLive(number uint64, change int) {
	if number != 0 {
		inv.segments[number].live += change
	}
}

// Add notes that a token was issued. It does not wait for storage.
func (inv *Inventory) Add(r Row) {
	e := entry{id: r.ID, holder: unique.Make(r.Holder), issuedAt: r.IssuedAt.Unix(), expiresAt: r.ExpiresAt.Unix(), status: r.Status}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.place(e)
	if len(inv.pending) >= maxPending {
		inv.pending = inv.pending[1:]
		inv.lost++
	}
	inv.pending = append(inv.pending, e)
}

// Flush writes what was added. After an error everything unwritten is still pending.
func (inv *Inventory) Flush(ctx context.Context, s logical.Storage) error {
	inv.storing.Lock()
	defer inv.storing.Unlock()
	inv.mu.Lock()
	pending, lost := inv.pending, inv.lost
	inv.pending, inv.lost = nil, 0
	inv.mu.Unlock()

	written, err := inv.append(ctx, s, pending)
	if err != nil {
		inv.mu.Lock()
		inv.pending = append(pending[written:len(pending):len(pending)], inv.pending...)
		inv.mu.Unlock()
	}
	if lost > 0 {
		err = errors.Join(err, fmt.Errorf("%d rows of the inventory were not written: storage has refused writes for too long", lost))
	}
	return err
}

// append writes rows behind the last one stored and says how many it has written. The caller holds
// storing.
func (inv *Inventory) append(ctx context.Context, s logical.Storage, rows []entry) (written int, _ error) {
	for written < len(rows) {
		if len(inv.tail.rows) >= segmentRows {
			inv.tail = tail{number: inv.tail.number + 1}
		}
		n := min(len(rows)-written, segmentRows-len(inv.tail.rows))
		batch := rows[written : written+n]
		// The tail's own slice is left as it is until the write has succeeded.
		filled := inv.tail.rows[:len(inv.tail.rows):len(inv.tail.rows)]
		for _, row := range batch {
			filled = append(filled, row.stored())
		}
		value, err := cbor.Marshal(filled)
		if err != nil {
			return written, err
		}
		if err := s.Put(ctx, &logical.StorageEntry{Key: segmentKey(inv.tail.number), Value: value}); err != nil {
			return written, err
		}
		inv.tail.rows = filled
		written += n

		inv.mu.Lock()
		if inv.segments[inv.tail.number] == nil {
			inv.segments[inv.tail.number] = new(segment)
		}
		inv.segments[inv.tail.number].stored = len(filled)
		for _, row := range batch {
			if current, ok := inv.rows.Get(row); ok {
				current.segment = inv.tail.number
				inv.place(current)
			}
		}
		inv.mu.Unlock()
	}
	return written, nil
}

// Get finds the row of a token.
func (inv *Inventory) Get(id token.ID) (Row, bool) {
	inv.mu.Lock()
	e, ok := inv.rows.Get(entry{id: id})
	inv.mu.Unlock()
	if !ok {
		return Row{}, false
	}
	return e.row(), true
}

// Page lists up to limit rows in the order of their ids, those behind after, of one role or, where role
// is empty, of all. It tells whether there are more.
func (inv *Inventory) Page(after token.ID, limit int, role string) (page []Row, more bool) {
	inv.snapshot().Ascend(entry{id: after}, func(e entry) bool {
		if e.id == after || (role != "" && e.holder.Value().Role != role) {
			return true
		}
		if len(page) == limit {
			more = true
			return false
		}
		page = append(page, e.row())
		return true
	})
	return page, more
}

// Count returns the number of rows of one life of a role. A row leaves with Prune, so that the number may
// include tokens that ended since.
func (inv *Inventory) Count(id token.RoleID) int {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.ofRole[id]
}

// OfRole gives the rows of one life of a role.
func (inv *Inventory) OfRole(id token.RoleID) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		inv.snapshot().Scan(func(e entry) bool {
			return e.holder.Value().RoleID != id || yield(e.row())
		})
	}
}

// WithStatus gives the rows of an entity's tokens that have a place in a status list: who asked for them, and not just
// the engine, is told of their revocation.
func (inv *Inventory) WithStatus() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		inv.snapshot().Scan(func(e entry) bool {
			return e.status.IsZero() || e.holder.Value().Subject == "" || yield(e.row())
		})
	}
}

// snapshot is a copy to read without holding mu. Copying costs nothing until a row is changed.
func (inv *Inventory) snapshot() *btree.BTreeG[entry] {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.rows.Copy()
}

// Len is the number of rows.
func (inv *Inventory) Len() int {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.rows.Len()
}

// Prune drops the rows of tokens that have ended, as ended tells, and gives their storage back: a
// segment without live rows is deleted, one with few is merged into the last.
func (inv *Inventory) Prune(ctx context.Context, s logical.Storage, ended func(token.ID, time.Time) bool) error {
	inv.storing.Lock()
	defer inv.storing.Unlock()

	var dead []entry
	inv.snapshot().Scan(func(e entry) bool {
		if ended(e.id, time.Unix(e.expiresAt, 0)) {
			dead = append(dead, e)
		}
		return true
	})
	inv.mu.Lock()
	for _, e := range dead {
		inv.drop(e)
	}
	sparse := make(map[uint64][]entry) // segment -> its live rows
	for number, seg := range inv.segments {
		if number != inv.tail.number && seg.live < seg.stored/2 {
			sparse[number] = nil
		}
	}
	inv.mu.Unlock()
	if len(sparse) == 0 {
		return nil
	}
	inv.snapshot().Scan(func(e entry) bool {
		if _, ok := sparse[e.segment]; ok {
			sparse[e.segment] = append(sparse[e.segment], e)
		}
		return true
	})

	// A row is written to its new place before its old one is deleted.
	for number, rows := range sparse {
		if _, err := inv.append(ctx, s, rows); err != nil {
			return err
		}
		if err := s.Delete(ctx, segmentKey(number)); err != nil {
			return err
		}
		inv.mu.Lock()
		delete(inv.segments, number)
		inv.mu.Unlock()
	}
	return nil
}

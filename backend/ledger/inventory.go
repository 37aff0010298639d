package ledger

import (
	"iter"
	"sync"
	"time"
	"unique"

	"github.com/tidwall/btree"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// InventoryPrefix is where the segments of the inventory are stored.
const InventoryPrefix = "ledger/inventory/"

// maxPending is how many rows may wait for storage. If storage rejects writes for so long that more rows wait, the oldest
// are kept in memory only.
const maxPending = 100_000

// A Row says who got which token, and when. A Row never contains the token.
type Row struct {
	ID        token.ID
	IssuedAt  time.Time // to the second
	ExpiresAt time.Time // to the second; without renewals
	Status    token.StatusRef
	Holder
}

// Holder is the part of a row that many tokens share.
type Holder struct {
	Role        string // the role's name
	RoleID      token.RoleID
	RoleVersion uint32
	Scopes      string // granted scopes, separated by spaces
	Subject     string // Vault entity ID; empty if there is none
	DisplayName string // of the Vault token that made the request
	StaticRole  string // static role that holds the token; empty if none
	Key         string // name of the key that made the token, or the refresh token of a grant that has one
}

// Inventory lists the tokens that may still be live. All rows are in memory, in the order of their IDs, and in segments in
// storage (segments.go). Add does not wait for storage. Flush writes the added rows. A crash loses rows that Flush has
// not written, but neither the validity nor the revocation of a token depends on its row.
//
// Inventory is safe for concurrent use. Only Load, Reload, Flush and Prune access storage, one at a time.
type Inventory struct {
	store.Damage
	writer string

	mu       sync.Mutex
	rows     *btree.BTreeG[entry] // by ID
	ofRole   map[token.RoleID]int // number of rows
	segments map[string]*segment  // by name
	pending  []entry              // not in storage yet, oldest first
	lost     int                  // rows that were dropped from pending since the last Flush

	storing sync.Mutex // held while storage is written or read; locked before mu
	tail    tail
}

// entry is a row in memory: 56 bytes and a shared holder.
type entry struct {
	id        token.ID
	holder    unique.Handle[Holder]
	issuedAt  int64
	expiresAt int64
	segment   *segment // where the row is stored; nil if it is not stored yet
	status    token.StatusRef
}

func byID(a, b entry) bool { return a.id.Compare(b.id) < 0 }

func (e entry) row() Row {
	return Row{ID: e.id, IssuedAt: time.Unix(e.issuedAt, 0), ExpiresAt: time.Unix(e.expiresAt, 0), Status: e.status, Holder: e.holder.Value()}
}

// NewInventory returns an empty inventory of a writer. Load fills it.
func NewInventory(writer string) *Inventory {
	return &Inventory{
		writer:   writer,
		rows:     btree.NewBTreeGOptions(byID, btree.Options{NoLocks: true}),
		ofRole:   make(map[token.RoleID]int),
		segments: make(map[string]*segment),
	}
}

// place puts a row into memory and counts the row. It replaces another row of the same token. The caller holds mu.
func (inv *Inventory) place(e entry) {
	if old, replaced := inv.rows.Set(e); replaced {
		inv.count(old, -1)
	}
	inv.count(e, +1)
}

// drop removes a row from memory. The caller holds mu.
func (inv *Inventory) drop(e entry) {
	if old, known := inv.rows.Delete(e); known {
		inv.count(old, -1)
	}
}

// count adds change to the number of rows of a row's role and segment. The caller holds mu.
func (inv *Inventory) count(e entry, change int) {
	role := e.holder.Value().RoleID
	if inv.ofRole[role] += change; inv.ofRole[role] == 0 {
		delete(inv.ofRole, role)
	}
	if e.segment != nil {
		e.segment.live += change
	}
}

// Add adds the row of an issued token. Add does not wait for storage.
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

// Get returns the row of a token.
func (inv *Inventory) Get(id token.ID) (Row, bool) {
	inv.mu.Lock()
	e, ok := inv.rows.Get(entry{id: id})
	inv.mu.Unlock()
	if !ok {
		return Row{}, false
	}
	return e.row(), true
}

// End returns when a token of the inventory expires, without renewals; false if the inventory does not have the token.
func (inv *Inventory) End(id token.ID) (_ time.Time, known bool) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	e, known := inv.rows.Get(entry{id: id})
	return time.Unix(e.expiresAt, 0), known
}

// Page returns up to limit rows with IDs after a given one, in the order of their IDs, of which keep is true. An empty
// role means all roles, a nil keep all rows. Page also reports whether there are more rows.
func (inv *Inventory) Page(after token.ID, limit int, role string, keep func(id token.ID, issuedAt time.Time) bool) (page []Row, more bool) {
	inv.snapshot().Ascend(entry{id: after}, func(e entry) bool {
		if e.id == after || (role != "" && e.holder.Value().Role != role) {
			return true
		}
		if keep != nil && !keep(e.id, time.Unix(e.issuedAt, 0)) {
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

// Count returns the number of rows of a role. The number may include tokens that have expired since the last Prune.
func (inv *Inventory) Count(id token.RoleID) int {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.ofRole[id]
}

// OfRole returns the rows of a role.
func (inv *Inventory) OfRole(id token.RoleID) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		inv.snapshot().Scan(func(e entry) bool {
			return e.holder.Value().RoleID != id || yield(e.row())
		})
	}
}

// After returns the rows with IDs after a given one, in the order of their IDs.
func (inv *Inventory) After(id token.ID) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		inv.snapshot().Ascend(entry{id: id}, func(e entry) bool {
			return e.id == id || yield(e.row())
		})
	}
}

// OfSubject returns the rows of a Vault entity.
func (inv *Inventory) OfSubject(entity string) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		inv.snapshot().Scan(func(e entry) bool {
			return e.holder.Value().Subject != entity || yield(e.row())
		})
	}
}

// WithStatus returns the rows of tokens that have a Vault entity and a place in a status list.
func (inv *Inventory) WithStatus() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		inv.snapshot().Scan(func(e entry) bool {
			return e.status.IsZero() || e.holder.Value().Subject == "" || yield(e.row())
		})
	}
}

// snapshot returns a copy of the rows to read without mu. The copy is cheap: nodes are copied only when a row changes.
func (inv *Inventory) snapshot() *btree.BTreeG[entry] {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.rows.Copy()
}

// Stored returns the number of segments, which are entries in storage, and their size in bytes.
func (inv *Inventory) Stored() (segments, bytes int) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for _, s := range inv.segments {
		bytes += s.size
	}
	return len(inv.segments), bytes
}

// Len returns the number of rows.
func (inv *Inventory) Len() int {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.rows.Len()
}

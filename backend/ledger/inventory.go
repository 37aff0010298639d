package ledger

import (
	"iter"
	"sync"
	"time"
	"unique"

	"github.com/tidwall/btree"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// InventoryPrefix is where Inventory keeps its segments in storage.
const InventoryPrefix = "ledger/inventory/"

// maxPending is how many rows may wait for storage. Beyond it, while storage refuses writes, the oldest are no
// longer written, only remembered in memory.
const maxPending = 100_000

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
	StaticRole  string // that keeps the token; empty: none
	Key         string // name of the key that the token was made with; of a grant with a refresh token, that one's
}

// Inventory lists the tokens that may still be live. All rows are in memory, in the order of their ids,
// and in segments in storage (segments.go). Add returns at once; Flush writes what was added since. A crash loses
// the rows that no Flush has written, which are no part of a token's validity or of its revocation.
//
// Use it from many goroutines. Only Load, Reload, Flush and Prune touch storage, one at a time.
type Inventory struct {
	damage
	writer string

	mu       sync.Mutex
	rows     *btree.BTreeG[entry] // by id
	ofRole   map[token.RoleID]int // how many rows each life of a role has
	segments map[string]*segment  // by name
	pending  []entry              // not in storage yet, oldest first
	lost     int                  // rows that were dropped from pending since the last Flush

	storing sync.Mutex // held while storage is written or read; before mu
	tail    tail
}

// entry is a row as it is kept in memory: 56 bytes and a shared holder.
type entry struct {
	id        token.ID
	holder    unique.Handle[Holder]
	issuedAt  int64
	expiresAt int64
	segment   *segment // where it is stored; nil: nowhere yet
	status    token.StatusRef
}

func byID(a, b entry) bool { return a.id.Compare(b.id) < 0 }

func (e entry) row() Row {
	return Row{ID: e.id, IssuedAt: time.Unix(e.issuedAt, 0), ExpiresAt: time.Unix(e.expiresAt, 0), Status: e.status, Holder: e.holder.Value()}
}

// NewInventory returns that of one process, which has no rows until Load.
func NewInventory(writer string) *Inventory {
	return &Inventory{
		writer:   writer,
		rows:     btree.NewBTreeGOptions(byID, btree.Options{NoLocks: true}),
		ofRole:   make(map[token.RoleID]int),
		segments: make(map[string]*segment),
	}
}

// place puts a row into memory and counts it for its role and its segment, in place of another row of the token.
// The caller holds mu.
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
	if e.segment != nil {
		e.segment.live += change
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

package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// A segment of the inventory is full when it has segmentRows rows or segmentBytes bytes. The segment that is being filled
// is rewritten each second, and an entry must stay far below the 1 MiB limit of storage. A row is 15 kB at most.
const (
	segmentRows  = 1000
	segmentBytes = 1 << 18
)

// segment is an entry in storage. Only the writer in its name writes a segment.
type segment struct {
	name string     // <writer>-<n>
	size int        // in bytes
	ids  []token.ID // of the rows
	live int        // number of rows that are in memory and in no other segment
}

// tail is the segment that this writer is filling. Each write rewrites the whole segment.
type tail struct {
	number  int
	segment *segment // nil if the segment is not stored yet
	rows    []cbor.RawMessage
	bytes   int
}

func (t *tail) full() bool { return len(t.rows) >= segmentRows || t.bytes >= segmentBytes }

// storedRow is the stored form of a row. A segment is a CBOR array of rows, in the order of issue.
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
	StaticRole  string
	Status      token.StatusRef
	Key         string
}

func (e entry) stored() (cbor.RawMessage, error) {
	h := e.holder.Value()
	return cbor.Marshal(storedRow{
		ID: e.id, IssuedAt: e.issuedAt, ExpiresAt: e.expiresAt,
		Role: h.Role, RoleID: h.RoleID, RoleVersion: h.RoleVersion,
		Scopes: h.Scopes, Subject: h.Subject, DisplayName: h.DisplayName, StaticRole: h.StaticRole, Key: h.Key, Status: e.status,
	})
}

func (r *storedRow) entry(seg *segment) entry {
	return entry{
		id: r.ID,
		holder: unique.Make(Holder{
			Role: r.Role, RoleID: r.RoleID, RoleVersion: r.RoleVersion,
			Scopes: r.Scopes, Subject: r.Subject, DisplayName: r.DisplayName, StaticRole: r.StaticRole, Key: r.Key,
		}),
		issuedAt: r.IssuedAt, expiresAt: r.ExpiresAt, segment: seg, status: r.Status,
	}
}

// owns reports whether a segment is this writer's.
func (inv *Inventory) owns(name string) bool { return strings.HasPrefix(name, inv.writer) }

// keeps reports whether this writer has written or will write a row.
func (inv *Inventory) keeps(e entry) bool { return e.segment == nil || inv.owns(e.segment.name) }

// Flush writes the rows that were added since the last Flush. After an error the unwritten rows stay pending.
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
		err = errors.Join(err, fmt.Errorf("%d rows of the inventory were not written: storage has rejected writes for too long", lost))
	}
	return err
}

// append appends rows to the tail in storage, and returns how many rows it has written. The caller holds storing.
func (inv *Inventory) append(ctx context.Context, s logical.Storage, rows []entry) (written int, _ error) {
	for written < len(rows) {
		if inv.tail.full() {
			inv.tail = tail{number: inv.tail.number + 1}
		}
		// The tail must not change before the write has succeeded.
		next := inv.tail
		next.rows = next.rows[:len(next.rows):len(next.rows)]
		batch := rows[written:]
		for i := range batch {
			row, err := batch[i].stored()
			if err != nil {
				return written, err
			}
			next.rows = append(next.rows, row)
			next.bytes += len(row)
			if next.full() {
				batch = batch[:i+1]
				break
			}
		}
		value, err := cbor.Marshal(next.rows)
		if err != nil {
			return written, err
		}
		name := inv.writer + "-" + strconv.Itoa(next.number)
		if err := s.Put(ctx, &logical.StorageEntry{Key: InventoryPrefix + name, Value: value}); err != nil {
			return written, err
		}
		written += len(batch)

		inv.mu.Lock()
		if next.segment == nil {
			next.segment = &segment{name: name}
			inv.segments[name] = next.segment
		}
		next.segment.size = len(value)
		for _, row := range batch {
			next.segment.ids = append(next.segment.ids, row.id)
			if current, known := inv.rows.Get(row); known {
				current.segment = next.segment
				inv.place(current)
			}
		}
		inv.mu.Unlock()
		inv.tail = next
	}
	return written, nil
}

// Prune drops the rows for which ended is true, and frees storage. It deletes segments without live rows. It dissolves
// segments with few live rows, and small segments of other writers.
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
	var sparse []*segment
	for _, seg := range inv.segments {
		small := seg.size < segmentBytes/4 && len(seg.ids) < segmentRows/4 && !inv.owns(seg.name)
		if seg != inv.tail.segment && (seg.live < len(seg.ids)/2 || seg.live == 0 || small) {
			sparse = append(sparse, seg)
		}
	}
	inv.mu.Unlock()
	for _, seg := range sparse {
		if !inv.has(seg.name) { // forgotten with another segment that a replaced process has moved
			continue
		}
		if err := inv.dissolve(ctx, s, seg.name, ended); err != nil {
			return err
		}
	}
	return nil
}

// dissolve copies the live rows of a segment to this writer's tail, and then deletes the segment. The caller holds
// storing.
func (inv *Inventory) dissolve(ctx context.Context, s logical.Storage, name string, ended func(token.ID, time.Time) bool) error {
	// Another writer may have written the segment since it was read.
	before, there, err := inv.read(ctx, s, name)
	if err != nil {
		return err
	}
	if !there { // a replaced process has moved the rows
		return inv.load(ctx, s)
	}
	inv.mu.Lock()
	seg := inv.segments[name]
	var rows []entry
	for _, id := range seg.ids {
		if e, known := inv.rows.Get(entry{id: id}); known && e.segment == seg {
			rows = append(rows, e)
		}
	}
	inv.mu.Unlock()
	live := slices.DeleteFunc(rows, func(e entry) bool { return ended(e.id, time.Unix(e.expiresAt, 0)) })
	if _, err := inv.append(ctx, s, live); err != nil {
		return err
	}
	if !inv.owns(name) {
		if after, err := s.Get(ctx, InventoryPrefix+name); err != nil || after == nil || !bytes.Equal(before, after.Value) {
			return err // another process still writes the segment
		}
	}
	if err := s.Delete(ctx, InventoryPrefix+name); err != nil {
		return err
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.forget(name) // with the rows of ended tokens
	return nil
}

package insight

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Prefix is where the counts are stored, in segments.
const Prefix = "usage/"

const (
	// segmentRows is the maximum number of rows of a segment. A row has at most 150 bytes without its scopes.
	segmentRows = 1 << 12

	// maxStoredScopes bounds the sets of scopes in a segment, in bytes. A segment stays below 1 MiB, the limit of storage.
	maxStoredScopes = 192 << 10
)

// segment is an entry in storage: the counts of some tokens. Only the process in its name writes a segment. A process
// moves the counts of a token to a segment of its own when they change.
type segment struct {
	name    string // <writer>-<n>
	own     bool
	ids     []token.ID    // that were placed in the segment; Usage.mu guards it
	live    atomic.Int32  // number of entries that have the segment
	dirty   atomic.Int64  // since when entries have unwritten changes, in nanoseconds since 1970; 0: there are none
	moved   atomic.Uint64 // tick when an entry was last moved to another segment
	retired atomic.Bool   // takes no changes any more: its entries move
	saved   uint64        // tick of the last written snapshot; only Run and Flush use it
	digest  [32]byte      // of what another process stored
}

// stored forms; new fields come last.
type (
	storedSegment struct {
		_         struct{} `cbor:",toarray"`
		Reporters []storedReporter
		Scopes    []string // sets that rows refer to, each separated by spaces
		Rows      []storedRow
	}
	storedReporter struct {
		_        struct{} `cbor:",toarray"`
		Name     string
		Sequence uint64
		At       int64 // seconds since 1970
	}
	storedRow struct {
		_        struct{} `cbor:",toarray"`
		ID       token.ID
		Uses     uint64
		First    uint32
		Last     uint32
		End      uint32
		Address  []byte // 16 bytes, or empty
		Region   string
		Network  uint32
		Refusals []uint32 // in the order of reasons, without trailing zeros
		Scopes   uint     // number of the set, from 1; 0: none
		More     bool
	}
)

// snapshot returns the stored form of the entries of a segment. The reporters come last: a stored count must not exist
// without the sequence of its batch.
func (u *Usage) snapshot(seg *segment) storedSegment {
	u.mu.Lock()
	ids := seg.ids
	u.mu.Unlock()
	stored := storedSegment{Rows: make([]storedRow, 0, len(ids))}
	sets := make(map[*scopeSet]uint)
	bytes := 0
	for _, id := range ids {
		row, scopes, is := u.rowOf(id, seg)
		if !is {
			continue
		}
		if number, listed := sets[scopes]; listed {
			row.Scopes = number
		} else if scopes != nil {
			text := strings.Join(scopes.list, " ")
			if bytes += len(text); bytes > maxStoredScopes {
				row.More = true
			} else {
				stored.Scopes = append(stored.Scopes, text)
				sets[scopes] = uint(len(stored.Scopes))
				row.Scopes = sets[scopes]
			}
		}
		stored.Rows = append(stored.Rows, row)
	}
	stored.Reporters = u.reporters.stored()
	return stored
}

// rowOf returns the stored form and the scopes of the entry of an ID if the entry belongs to a segment.
func (u *Usage) rowOf(id token.ID, seg *segment) (_ storedRow, _ *scopeSet, is bool) {
	s := &u.shards[id[0]]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil && e.segment == seg {
		return e.stored(id), e.scopes, true
	}
	return storedRow{}, nil, false
}

func (e *entry) stored(id token.ID) storedRow {
	row := storedRow{ID: id, Uses: e.uses, First: e.first, Last: e.last, End: e.end, Network: e.network, More: e.more}
	if e.address != [16]byte{} {
		row.Address = slices.Clone(e.address[:]) // the entry goes on changing
	}
	if e.region != [2]byte{} {
		row.Region = string(e.region[:])
	}
	if e.refusals == nil {
		return row
	}
	counts := e.counts()
	for i, n := range counts {
		if n > 0 {
			row.Refusals = counts[:i+1]
		}
	}
	return row
}

// entry returns the entry of a row, without its scopes.
func (r *storedRow) entry() *entry {
	e := &entry{uses: r.Uses, first: r.First, last: r.Last, end: r.End, network: r.Network, region: regionOf(r.Region), more: r.More}
	copy(e.address[:], r.Address)
	for i, n := range r.Refusals {
		if n > 0 && i < len(reasons) {
			e.refused(i).count = n
		}
	}
	return e
}

// decodeSegment decodes a stored segment.
func decodeSegment(value []byte) (storedSegment, error) {
	var stored storedSegment
	if err := cbor.Unmarshal(value, &stored); err != nil {
		return stored, err
	}
	for i := range stored.Rows {
		r := &stored.Rows[i]
		size := len(r.Address)
		if r.Scopes > uint(len(stored.Scopes)) || size != 0 && size != 16 || r.First > r.Last {
			return stored, errors.New("a row is not one that this engine writes")
		}
	}
	return stored, nil
}

// read brings memory up to date with a segment of another process.
func (u *Usage) read(ctx context.Context, s logical.Storage, name string) error {
	if u.owns(name) || name == "" {
		return nil
	}
	reading := &u.reading[name[len(name)-1]%readLocks]
	reading.Lock()
	defer reading.Unlock()
	value, err := s.Get(ctx, Prefix+name)
	if err != nil {
		return err
	}
	var stored storedSegment
	if value != nil {
		if stored, err = decodeSegment(value.Value); err != nil {
			u.NoteDamage(Prefix+name, err)
			return nil
		}
	}
	u.NoteDamage(Prefix+name, nil)
	u.merging.Lock() // a batch that is counted meanwhile could count twice
	defer u.merging.Unlock()
	u.reporters.merge(stored.Reporters)
	var seg *segment
	if value != nil {
		seg = &segment{name: name, digest: sha256.Sum256(value.Value)}
	}
	sets := make([][]string, len(stored.Scopes))
	for i, text := range stored.Scopes {
		sets[i] = strings.Fields(text)
	}
	for i := range stored.Rows {
		seg.ids = append(seg.ids, stored.Rows[i].ID)
		u.merge(&stored.Rows[i], sets, seg)
	}
	u.replace(name, seg)
	return nil
}

// owns reports whether a segment is this process's.
func (u *Usage) owns(name string) bool { return strings.HasPrefix(name, u.Writer+"-") }

// replace puts another process's segment in the place of what was read before; nil: the segment was deleted.
func (u *Usage) replace(name string, seg *segment) {
	u.mu.Lock()
	old := u.segments[name]
	delete(u.segments, name)
	if seg != nil {
		u.segments[name] = seg
	}
	u.mu.Unlock()
	if old != nil {
		u.forget(old)
	}
}

// merge adds a row of another process's segment to memory.
func (u *Usage) merge(row *storedRow, sets [][]string, seg *segment) {
	read := row.entry()
	if row.Scopes > 0 {
		read.scopes = &scopeSet{list: sets[row.Scopes-1]}
	}
	s := &u.shards[row.ID[0]]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[row.ID]
	if e == nil {
		e = &entry{end: read.end}
		s.entries[row.ID] = e
	}
	changed := e.merge(read, &u.scopes)
	switch {
	case e.segment == nil || !e.segment.own:
		if e.segment != nil {
			e.segment.live.Add(-1)
		}
		e.segment = seg
		seg.live.Add(1)
	case changed:
		u.changed(row.ID, e)
		seg.moved.Store(u.tick.Load())
	}
}

// forget drops the entries of a segment that is no longer stored.
func (u *Usage) forget(old *segment) {
	for _, id := range old.ids {
		s := &u.shards[id[0]]
		s.mu.Lock()
		if e := s.entries[id]; e != nil && e.segment == old {
			u.drop(id, e)
		}
		s.mu.Unlock()
	}
}

// drop drops an entry. The caller holds the lock of the entry's shard.
func (u *Usage) drop(id token.ID, e *entry) {
	delete(u.shards[id[0]].entries, id)
	u.scopes.release(e.scopes)
	if e.segment != nil {
		e.segment.live.Add(-1)
	}
}

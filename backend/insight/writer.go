package insight

import (
	"cmp"
	"context"
	"crypto/sha256"
	"slices"
	"strconv"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// writeInterval is the minimum time between two writes.
	writeInterval = time.Second

	// writeDelay is how long changes of a segment are gathered. With 100,000 tokens in use there are 25 segments: all
	// changes are stored within a minute.
	writeDelay = 30 * time.Second

	// retryDelay is how long Run waits after a failed write.
	retryDelay = 10 * time.Second

	// adoptions is how many segments of other processes one Prune moves to segments of this process at most.
	adoptions = 8
)

// changed notes that the counts of a token have changed. The caller holds the lock of the token's shard.
func (u *Usage) changed(id token.ID, e *entry) {
	if e.segment == nil || !e.segment.own || e.segment.retired.Load() {
		u.move(id, e)
	}
	u.touch(e.segment)
}

// touch notes that a segment has unwritten changes.
func (u *Usage) touch(seg *segment) {
	if seg.dirty.Load() == 0 && seg.dirty.CompareAndSwap(0, u.Now().UnixNano()) {
		u.Wake()
	}
}

// move moves an entry to the segment that is being filled. The caller holds the lock of the token's shard.
func (u *Usage) move(id token.ID, e *entry) {
	u.mu.Lock()
	if !u.fills(u.filling) {
		u.filling = &segment{name: u.Writer + "-" + strconv.Itoa(u.made), own: true}
		u.made++
		u.segments[u.filling.name] = u.filling
	}
	u.filling.ids = append(u.filling.ids, id)
	u.filling.live.Add(1)
	old := e.segment
	e.segment = u.filling
	u.mu.Unlock()
	if old != nil { // now that the ID is listed: a snapshot with a higher tick has the entry
		u.touch(e.segment)
		old.moved.Store(u.tick.Load())
		old.live.Add(-1)
	}
}

// Run does at most one write, and returns when to run again.
func (u *Usage) Run(ctx context.Context) time.Duration {
	u.writing.Lock()
	defer u.writing.Unlock()
	now := u.Now()
	if wait := u.nextWrite.Sub(now); wait > 0 && wait <= retryDelay {
		return wait
	}
	due, wait := u.due(now)
	if due == nil {
		return wait
	}
	if err := u.write(ctx, due); err != nil {
		u.nextWrite = now.Add(retryDelay)
		if !u.failing && ctx.Err() == nil {
			u.Log().Warn("usage of tokens not written, retried", "error", err)
		}
		u.failing = true
		return retryDelay
	}
	u.failing = false
	u.nextWrite = now.Add(writeInterval)
	return writeInterval
}

// Flush writes a segment that has changes, if a write is due by now. The caller has closed the worker.
func (u *Usage) Flush(ctx context.Context) {
	u.writing.Lock()
	defer u.writing.Unlock()
	now := u.Now()
	if now.Before(u.nextWrite) {
		return
	}
	if due, _ := u.due(now.Add(writeDelay)); due != nil {
		_ = u.write(ctx, due) // the counts of the last minute may be lost
	}
}

// due returns the segment that has to be written or deleted now; nil if there is none yet, and then how long to wait.
func (u *Usage) due(now time.Time) (*segment, time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var oldest, empty *segment
	unsaved := ^uint64(0) // the lowest tick of the last snapshot of a segment with unwritten changes
	for _, seg := range u.segments {
		if since := seg.dirty.Load(); since != 0 && !u.empty(seg) {
			if oldest == nil || since < oldest.dirty.Load() {
				oldest = seg
			}
			unsaved = min(unsaved, seg.saved)
		}
	}
	for _, seg := range u.segments {
		if u.empty(seg) && seg.moved.Load() < unsaved {
			empty = seg
		}
	}
	wait := time.Duration(0)
	if oldest != nil {
		if wait = writeDelay - time.Duration(now.UnixNano()-oldest.dirty.Load()); wait <= 0 || wait > writeDelay {
			return oldest, 0
		}
	}
	return empty, wait
}

// empty reports whether a segment has no entries, and never will again. The caller holds mu.
func (u *Usage) empty(seg *segment) bool { return seg.live.Load() == 0 && !u.fills(seg) }

// fills reports whether a segment still takes entries. The caller holds mu.
func (u *Usage) fills(seg *segment) bool {
	return seg != nil && seg == u.filling && len(seg.ids) < segmentRows
}

// write writes a segment; it deletes a segment without entries.
func (u *Usage) write(ctx context.Context, seg *segment) error {
	u.mu.Lock()
	empty := u.empty(seg)
	u.mu.Unlock()
	if empty {
		return u.remove(ctx, seg)
	}
	since := seg.dirty.Swap(0)
	tick := u.tick.Add(1)
	value, err := cbor.Marshal(u.snapshot(seg))
	if err == nil {
		err = u.Storage.Put(ctx, &logical.StorageEntry{Key: Prefix + seg.name, Value: value})
	}
	if err != nil {
		seg.dirty.Store(since)
		return err
	}
	seg.saved = tick
	return nil
}

// remove deletes a segment whose entries are stored in other segments or have ended.
func (u *Usage) remove(ctx context.Context, seg *segment) error {
	if !seg.own {
		stored, err := u.Storage.Get(ctx, Prefix+seg.name)
		if err != nil {
			return err
		}
		if stored != nil && sha256.Sum256(stored.Value) != seg.digest {
			return u.read(ctx, u.Storage, seg.name) // its process goes on, since it has not noticed that it was replaced
		}
	}
	if err := u.Storage.Delete(ctx, Prefix+seg.name); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.segments[seg.name] == seg {
		delete(u.segments, seg.name)
	}
	return nil
}

// Prune drops the counts of tokens for which ended is true, and frees storage: the worker deletes segments without
// entries. Prune moves the entries of segments with few entries, and of some segments of other processes.
func (u *Usage) Prune(now time.Time, ended func(token.ID, time.Time) bool) {
	u.reporters.prune(now)
	u.unknown.prune(now)
	for i := range u.shards {
		s := &u.shards[i]
		s.mu.Lock()
		for id, e := range s.entries {
			if end := fromSeconds(e.end); !now.Before(end) && ended(id, end) {
				u.drop(id, e)
			}
		}
		s.mu.Unlock()
	}
	for _, seg := range u.sparse() {
		seg.retired.Store(true)
		for _, id := range seg.ids {
			s := &u.shards[id[0]]
			s.mu.Lock()
			if e := s.entries[id]; e != nil && e.segment == seg {
				u.changed(id, e)
			}
			s.mu.Unlock()
		}
	}
	u.Wake()
}

// sparse returns segments whose entries should move: segments of this process with few entries, and those of other
// processes with the fewest.
func (u *Usage) sparse() []*segment {
	u.mu.Lock()
	defer u.mu.Unlock()
	var own, others []*segment
	for _, seg := range u.segments {
		switch live := int(seg.live.Load()); {
		case live == 0 || u.fills(seg):
		case !seg.own:
			others = append(others, seg)
		case live < len(seg.ids)/2:
			own = append(own, seg)
		}
	}
	slices.SortFunc(others, func(a, b *segment) int {
		return cmp.Or(cmp.Compare(a.live.Load(), b.live.Load()), cmp.Compare(a.name, b.name))
	})
	return append(own, others[:min(adoptions, len(others))]...)
}

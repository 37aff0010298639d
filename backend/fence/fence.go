// Package fence guards the writes of one process to the storage of a mount. Vault may have replaced the process as the
// active node without the process knowing: the process then must not write what it has only in memory.
package fence

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
)

// Fence is the state of a process's right to write storage.
type Fence struct {
	writer   string
	now      func() time.Time
	outdated func()

	mu   sync.RWMutex  // read-held during a write
	term atomic.Uint64 // incremented when storage rejects a write for lack of leadership

	proven                   atomic.Bool   // storage accepted a write, and rejected no write since
	refused                  atomic.Bool   // storage rejected a write, and accepted no write since
	written, rejected, bytes atomic.Uint64 // Stats

	restful atomic.Int64 // until then another rejection does not make memory stale, in nanoseconds since 1970
}

// New returns the fence of a process that writes the ledger as writer. The fence calls outdated when another node may have
// written storage, so that memory is stale.
func New(writer string, now func() time.Time, outdated func()) *Fence {
	return &Fence{writer: writer, now: now, outdated: outdated}
}

// restFactor bounds how often all of storage is read again while storage rejects write after write: the pause between two
// reads is restFactor times as long as a read. A large mount must keep answering introspection meanwhile.
const restFactor = 10

// Reread tells the fence that memory was read from storage again, from began until now.
func (f *Fence) Reread(began time.Time) {
	end := f.now()
	f.restful.Store(end.Add(restFactor * end.Sub(began)).UnixNano())
}

// storage is the mount's storage behind a fence. A write that storage rejects for lack of leadership makes all memory
// stale, since another node may have written. The fence then rejects the writes of requests that began before: such a
// write would be based on stale memory.
type storage struct {
	logical.Storage
	fence      *Fence
	term       uint64 // when the request began
	background bool   // the writer is no request; the term is not checked
}

// Request returns the storage of a request that begins now.
func (f *Fence) Request(s logical.Storage) logical.Storage {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return &storage{Storage: s, fence: f, term: f.term.Load()}
}

// Background returns the storage of background work.
func (f *Fence) Background(s logical.Storage) logical.Storage {
	return &storage{Storage: s, fence: f, background: true}
}

// Put implements logical.Storage.
func (s *storage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	err := s.write(ctx, func(ctx context.Context) error { return s.Storage.Put(ctx, entry) })
	if err == nil {
		s.fence.bytes.Add(uint64(len(entry.Value)))
	}
	return err
}

// Delete implements logical.Storage.
func (s *storage) Delete(ctx context.Context, key string) error {
	return s.write(ctx, func(ctx context.Context) error { return s.Storage.Delete(ctx, key) })
}

// writeWait is the time limit of a write.
const writeWait = 30 * time.Second

// write runs a write, and completes the write even if the client hangs up. After an abandoned write nobody would know
// whether storage holds the new value, and memory could contradict storage.
func (s *storage) write(ctx context.Context, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWait)
	defer cancel()
	f := s.fence
	f.mu.RLock()
	term := f.term.Load()
	if s.term != term && !s.background {
		f.mu.RUnlock()
		return ErrOutdated
	}
	err := do(ctx)
	f.mu.RUnlock()
	if err == nil {
		f.written.Add(1)
	} else {
		f.rejected.Add(1)
	}
	switch {
	case ledger.NotLeader(err):
		f.refused.Store(true)
		f.proven.Store(false)
		f.end(term)
	case err == nil && f.refused.Load() && f.refused.CompareAndSwap(true, false):
		f.outdated() // another node may have written since the last rejection
	}
	return err
}

// Stats are counts of the process since its start.
type Stats struct {
	Written  uint64 // writes and deletes that storage accepted
	Rejected uint64 // writes and deletes that storage rejected
	Bytes    uint64 // size of the written values
}

// Stats returns the counts of writes.
func (f *Fence) Stats() Stats { return Stats{f.written.Load(), f.rejected.Load(), f.bytes.Load()} }

// end ends a term: memory is stale. If memory was read again just now, end does nothing.
func (f *Fence) end(term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if term == f.term.Load() && f.now().UnixNano() >= f.restful.Load() {
		f.term.Add(1)
		f.outdated()
	}
}

// ErrOutdated is returned to requests that began before storage rejected a write for lack of leadership.
var ErrOutdated = logical.CodedError(http.StatusServiceUnavailable, "this node may have lost its leadership meanwhile, and nothing was written: try again")

// ProveWritable returns an error unless storage accepts writes: a token issued without writable storage could neither be
// renewed nor revoked. After the first success ProveWritable costs nothing until storage rejects a write.
func (f *Fence) ProveWritable(ctx context.Context, s logical.Storage) error {
	if f.proven.Load() {
		return nil
	}
	if err := ledger.RegisterWriter(ctx, s, f.writer, f.now()); err != nil {
		return logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("no token was issued, since none could be revoked: "+
			"the storage of this mount cannot be written (%s). If that lasts, have Vault set the mount up again with \"vault operator step-down\", "+
			"or seal and unseal it: reloading the plugin does not help", err))
	}
	f.proven.Store(true)
	return nil
}

package backend

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

// leadership is the state of this process's right to write storage.
type leadership struct {
	mu   sync.RWMutex  // read-held during a write
	term atomic.Uint64 // incremented when storage rejects a write for lack of leadership

	proven  atomic.Bool  // storage accepted a write, and rejected no write since
	refused atomic.Bool  // storage rejected a write, and accepted no write since
	restful atomic.Int64 // until then another rejection does not make memory stale, in nanoseconds since 1970
}

// restFactor bounds how often all of storage is read again while storage rejects write after write: the pause between two
// reads is restFactor times as long as a read. A large mount must keep answering introspection meanwhile.
const restFactor = 10

// fence is the mount's storage. A write that storage rejects for lack of leadership makes all memory stale, since another
// node may have written. The fence then rejects the writes of requests that began before: such a write would be based on
// stale memory.
type fence struct {
	logical.Storage
	b          *backend
	term       uint64 // when the request began
	background bool   // the writer is no request; the term is not checked
}

// fenced returns the storage of a request that begins now.
func (b *backend) fenced(s logical.Storage) logical.Storage {
	b.leadership.mu.RLock()
	defer b.leadership.mu.RUnlock()
	return &fence{Storage: s, b: b, term: b.leadership.term.Load()}
}

func (f *fence) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return f.write(ctx, func(ctx context.Context) error { return f.Storage.Put(ctx, entry) })
}

func (f *fence) Delete(ctx context.Context, key string) error {
	return f.write(ctx, func(ctx context.Context) error { return f.Storage.Delete(ctx, key) })
}

// writeWait is the time limit of a write.
const writeWait = 30 * time.Second

// write runs a write, and completes the write even if the client hangs up. After an abandoned write nobody would know
// whether storage holds the new value, and memory could contradict storage.
func (f *fence) write(ctx context.Context, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWait)
	defer cancel()
	l := &f.b.leadership
	l.mu.RLock()
	term := l.term.Load()
	if f.term != term && !f.background {
		l.mu.RUnlock()
		return errOutdated
	}
	err := do(ctx)
	l.mu.RUnlock()
	switch {
	case ledger.NotLeader(err):
		l.refused.Store(true)
		l.proven.Store(false)
		f.b.outdate(term)
	case err == nil && l.refused.Load() && l.refused.CompareAndSwap(true, false):
		f.b.staleEverything() // another node may have written since the last rejection
	}
	return err
}

// outdate ends a term and marks all memory as stale. If memory was read again just now, outdate does nothing.
func (b *backend) outdate(term uint64) {
	l := &b.leadership
	l.mu.Lock()
	defer l.mu.Unlock()
	if term == l.term.Load() && b.now().UnixNano() >= l.restful.Load() {
		l.term.Add(1)
		b.staleEverything()
	}
}

func (b *backend) staleEverything() {
	b.staleMu.Lock()
	defer b.staleMu.Unlock()
	b.staleAll = true
	b.stale.Store(true)
}

// errOutdated is returned to requests that began before storage rejected a write for lack of leadership.
var errOutdated = logical.CodedError(http.StatusServiceUnavailable, "this node may have lost its leadership meanwhile, and nothing was written: try again")

// proveWritable returns an error unless storage accepts writes: a token issued without writable storage could neither be
// renewed nor revoked. After the first success proveWritable costs nothing until storage rejects a write.
func (b *backend) proveWritable(ctx context.Context, s logical.Storage) error {
	l := &b.leadership
	if l.proven.Load() {
		return nil
	}
	if err := ledger.RegisterWriter(ctx, s, b.writer, b.now()); err != nil {
		return logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("no token was issued, since none could be revoked: "+
			"the storage of this mount cannot be written (%s). If that lasts, have Vault set the mount up again with \"vault operator step-down\", "+
			"or seal and unseal it: reloading the plugin does not help", err))
	}
	l.proven.Store(true)
	return nil
}

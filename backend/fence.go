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

// leadership is what this process knows of its right to write storage.
type leadership struct {
	mu   sync.RWMutex  // read-held during a write
	term atomic.Uint64 // counts the writes that failed because this node may not write

	proven  atomic.Bool  // storage has taken a write, and refused none since
	refused atomic.Bool  // storage has refused a write, and taken none since
	restful atomic.Int64 // until when memory is not read again for another refusal, in nanoseconds since 1970
}

// restFactor is how much longer than it took to read all of storage it is not read again, while write after write
// is refused: a large mount must go on answering introspection meanwhile.
const restFactor = 10

// fence is the mount's storage. A write that fails because this node may not write makes all memory stale: another
// node has written meanwhile, or will. Whoever began before that is then refused to write, since what it would
// write is based on the stale memory.
type fence struct {
	logical.Storage
	b          *backend
	term       uint64 // of the request that writes
	background bool   // what writes belongs to no request, and to every term
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

// writeWait bounds a write, whoever has asked for it.
const writeWait = 30 * time.Second

// write does a write. It goes on where the client hangs up meanwhile: of a write that is given up nobody knows whether
// storage takes it, now or later, and memory would contradict storage.
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
		f.b.staleEverything() // another node may have written since the last refusal
	}
	return err
}

// outdate makes stale what is known since a term began, unless that was read just now, and ends the term.
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

// errOutdated is returned to whoever has begun before this node was told that it may not write.
var errOutdated = logical.CodedError(http.StatusServiceUnavailable, "this node may have lost its leadership meanwhile, and nothing was written: try again")

// proveWritable makes sure, before the first token is issued, that storage takes writes: a token that is issued
// while it does not could neither be renewed nor revoked. Once that is proven it costs nothing.
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

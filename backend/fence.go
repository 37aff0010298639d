package backend

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
)

// leadership is what this process knows of its right to write storage.
type leadership struct {
	mu   sync.RWMutex  // read-held during a write
	term atomic.Uint64 // counts the writes that failed because this node may not write

	proven atomic.Uint64 // one more than the term in which storage has taken a write; 0: in none
}

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
	return f.write(func() error { return f.Storage.Put(ctx, entry) })
}

func (f *fence) Delete(ctx context.Context, key string) error {
	return f.write(func() error { return f.Storage.Delete(ctx, key) })
}

func (f *fence) write(do func() error) error {
	l := &f.b.leadership
	l.mu.RLock()
	term := l.term.Load()
	if f.term != term && !f.background {
		l.mu.RUnlock()
		return errOutdated
	}
	err := do()
	l.mu.RUnlock()
	if !ledger.NotLeader(err) {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if term == l.term.Load() {
		l.term.Add(1)
		f.b.staleMu.Lock()
		f.b.staleAll = true
		f.b.stale.Store(true)
		f.b.staleMu.Unlock()
	}
	return err
}

// errOutdated is returned to whoever has begun before this node was told that it may not write.
var errOutdated = logical.CodedError(http.StatusServiceUnavailable, "this node may have lost its leadership meanwhile, and nothing was written: try again")

// proveWritable makes sure, before the first token is issued, that storage takes writes: a token that is issued
// while it does not could neither be renewed nor revoked. Once that is proven it costs nothing.
func (b *backend) proveWritable(ctx context.Context, s logical.Storage) error {
	l := &b.leadership
	term := l.term.Load()
	if l.proven.Load() == term+1 {
		return nil
	}
	if err := ledger.RegisterWriter(ctx, s, b.writer, b.now()); err != nil {
		return logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("no token was issued, since none could be revoked: "+
			"the storage of this mount cannot be written (%s). If that lasts, run \"vault plugin reload -mounts=<mount>\" or \"vault operator step-down\"", err))
	}
	l.proven.Store(term + 1)
	return nil
}

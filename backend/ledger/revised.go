package ledger

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// revised are pages that count what may concern any status list: status lists are made anew when the count has changed.
type revised[V value[V]] struct {
	pages[V]
	revision atomic.Uint64
}

// Load reads all values from storage. Another call brings memory up to date.
func (r *revised[V]) Load(ctx context.Context, s logical.Storage, now time.Time) error {
	defer r.revision.Add(1)
	return r.pages.Load(ctx, s, now)
}

// Reload reads a file that another process has written. It returns an error if the key is not the key of a file.
func (r *revised[V]) Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	defer r.revision.Add(1)
	return r.pages.Reload(ctx, s, key, now)
}

// DropDamaged deletes an unreadable file. The values in the file are lost.
func (r *revised[V]) DropDamaged(ctx context.Context, s logical.Storage, key string) error {
	defer r.revision.Add(1)
	return r.pages.DropDamaged(ctx, s, key)
}

package insight

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

// Load reads the segments of all other processes from storage. Another call brings memory up to date. Memory always has
// what this process counts.
func (u *Usage) Load(ctx context.Context, s logical.Storage, _ time.Time) error {
	names, err := s.List(ctx, Prefix)
	if err != nil {
		return err
	}
	slices.Sort(names)
	u.mu.Lock()
	for name, seg := range u.segments { // deleted segments, too
		if _, stored := slices.BinarySearch(names, name); !stored && seg.own {
			u.touch(seg) // not written yet, or deleted by another node
		}
	}
	names = slices.AppendSeq(names, maps.Keys(u.segments))
	u.mu.Unlock()
	slices.Sort(names)
	return store.Each(ctx, slices.Compact(names), func(ctx context.Context, name string) error { return u.read(ctx, s, name) })
}

// Reload reads a segment that another process has written.
func (u *Usage) Reload(ctx context.Context, s logical.Storage, key string, _ time.Time) error {
	return u.read(ctx, s, strings.TrimPrefix(key, Prefix))
}

// Invalidate notes that another node has written a segment, and reports whether the key is a segment's. The segment is
// read when somebody asks for counts: introspection must not wait for it.
func (u *Usage) Invalidate(key string) bool {
	if !strings.HasPrefix(key, Prefix) {
		return false
	}
	u.staleMu.Lock()
	defer u.staleMu.Unlock()
	u.staleKeys[key] = true
	return true
}

// Refresh reads what other nodes have written since.
func (u *Usage) Refresh(ctx context.Context) error {
	u.staleMu.Lock()
	defer u.staleMu.Unlock()
	for key := range u.staleKeys {
		if err := u.read(ctx, u.Storage, strings.TrimPrefix(key, Prefix)); err != nil {
			return err
		}
		delete(u.staleKeys, key)
	}
	return nil
}

package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Load reads all tokens and holds from storage. Another call brings memory up to date.
func (ts *Tokens) Load(ctx context.Context) error {
	keys, err := ts.stored(ctx)
	if err != nil {
		return err
	}
	maps.Copy(keys, ts.remembered())
	return ts.reloadAll(ctx, keys)
}

// Sync reads the tokens and holds that are only in storage or only in memory. After a failover, the old process may still
// have stored or deleted entries that Load did not see.
func (ts *Tokens) Sync(ctx context.Context) error {
	keys, err := ts.difference(ctx)
	if err != nil {
		return err
	}
	return ts.reloadAll(ctx, keys)
}

// Discover returns the token with a text. If memory does not know the text, Discover lists the tokens in storage, and reads
// those that another process may have issued since memory read them.
func (ts *Tokens) Discover(ctx context.Context, text string) (_ Token, known bool, _ error) {
	if t, known := ts.Known(text); known {
		return t, true, nil
	}
	if err := ts.readIssuedElsewhere(ctx); err != nil {
		return Token{}, false, err
	}
	t, known := ts.Known(text)
	return t, known, nil
}

// readIssuedElsewhere lists the tokens in storage, and reads those that another process may have issued.
func (ts *Tokens) readIssuedElsewhere(ctx context.Context) error {
	ids, err := ts.storage.List(ctx, Prefix)
	if err != nil {
		return err
	}
	keys := make(map[string]bool)
	for _, id := range ids {
		if ts.issuedElsewhere(id) {
			keys[Prefix+id] = true
		}
	}
	return ts.reloadAll(ctx, keys)
}

// issuedElsewhere reports whether another process may have issued a stored token that memory lacks, or has as Creating.
func (ts *Tokens) issuedElsewhere(stored string) bool {
	id, err := token.ParseID(stored)
	if err != nil {
		return false
	}
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	i := ts.all[id]
	return i == nil && ts.damaged.DamageOf(Prefix+stored) == nil || i != nil && i.State == Creating && !ts.busy[id]
}

// syncParts is in how many parts the queue reads the tokens again that storage and memory both have.
const syncParts = 3

// syncPart is Sync, and reads one of syncParts parts of the other Live tokens, and all Lost tokens: the old process may
// still have changed them.
func (ts *Tokens) syncPart(ctx context.Context, part int) error {
	keys, err := ts.difference(ctx)
	if err != nil {
		return err
	}
	for _, t := range ts.Where(func(t *Token) bool {
		return t.State == Lost || t.State == Live && int(t.ID[len(t.ID)-1])%syncParts == part%syncParts
	}) {
		keys[Prefix+t.ID.String()] = true
	}
	return ts.reloadAll(ctx, keys)
}

// difference returns the keys of the tokens and holds that are only in storage or only in memory.
func (ts *Tokens) difference(ctx context.Context) (map[string]bool, error) {
	keys, err := ts.stored(ctx)
	if err != nil {
		return nil, err
	}
	for key := range ts.remembered() {
		if keys[key] {
			delete(keys, key)
		} else {
			keys[key] = true
		}
	}
	return keys, nil
}

func (ts *Tokens) reloadAll(ctx context.Context, keys map[string]bool) error {
	return store.Each(ctx, slices.Collect(maps.Keys(keys)), ts.Reload)
}

// stored returns the keys of all tokens and holds in storage.
func (ts *Tokens) stored(ctx context.Context) (map[string]bool, error) {
	keys := make(map[string]bool)
	ids, err := ts.storage.List(ctx, Prefix)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		keys[Prefix+id] = true
	}
	held, err := ts.storage.List(ctx, HoldsPrefix)
	if err != nil {
		return nil, err
	}
	for _, id := range held {
		holds, err := ts.storage.List(ctx, HoldsPrefix+id)
		if err != nil {
			return nil, err
		}
		for _, hold := range holds {
			keys[HoldsPrefix+id+hold] = true
		}
	}
	return keys, nil
}

// remembered returns the keys of all tokens and holds in memory.
func (ts *Tokens) remembered() map[string]bool {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	keys := make(map[string]bool, len(ts.all))
	for id := range ts.all {
		keys[Prefix+id.String()] = true
	}
	for id, hs := range ts.holds {
		for hold := range hs.all {
			keys[holdKey(id, hold)] = true
		}
	}
	return keys
}

// Reload reads one token or hold again after another process has written the entry. It returns an error for any other
// key.
func (ts *Tokens) Reload(ctx context.Context, key string) error {
	if rest, ok := strings.CutPrefix(key, HoldsPrefix); ok {
		return ts.reloadHold(ctx, key, rest)
	}
	id, err := token.ParseID(strings.TrimPrefix(key, Prefix))
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	defer ts.lock(id)()
	t, err := ts.read(ctx, id)
	if errors.Is(err, errDamaged) {
		ts.damaged.NoteDamage(key, err)
		return nil
	}
	if err != nil {
		return err
	}
	ts.show(id, t)
	return nil
}

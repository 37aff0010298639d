package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// errDamaged says that storage holds something of a token that cannot be read. Nothing is done with such a token: it
// may be alive at its service, and cannot be revoked there.
var errDamaged = errors.New("the stored entry cannot be read")

// damage notes a storage key of which nothing can be read.
func (ts *Tokens) damage(key string, err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.damaged[key] = err
}

// mend notes that a storage key is written again, or deleted.
func (ts *Tokens) mend(key string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.damaged, key)
}

// Unreadable says why it is not known what has become of a token; nil where it is.
func (ts *Tokens) Unreadable(id token.ID) error {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if len(ts.damaged) == 0 {
		return nil
	}
	key := Prefix + id.String()
	if err := ts.damaged[key]; err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// Damaged returns the storage keys that cannot be read, and why.
func (ts *Tokens) Damaged() map[string]error {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return maps.Clone(ts.damaged)
}

// DropDamaged deletes what cannot be read. Where it was a token, the token is left behind at its service.
func (ts *Tokens) DropDamaged(ctx context.Context, key string) (left bool, _ error) {
	if ts.Damaged()[key] == nil {
		return false, nil
	}
	if err := ts.storage.Delete(ctx, key); err != nil {
		return false, err
	}
	ts.mend(key)
	return strings.HasPrefix(key, Prefix), nil
}

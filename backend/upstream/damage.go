package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// errDamaged is returned if the entry of a token or a hold cannot be decoded. The queue leaves such a token alone: the
// token may exist at its service, but cannot be revoked.
var errDamaged = errors.New("the stored entry cannot be read")

// damage records a storage key whose entry cannot be read.
func (ts *Tokens) damage(key string, err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.damaged[key] = err
}

// mend records that the entry of a storage key is readable again or deleted.
func (ts *Tokens) mend(key string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.damaged, key)
}

// Unreadable returns an error if the entry of a token cannot be read.
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

// Damaged returns the storage keys of the unreadable entries, each with the reason.
func (ts *Tokens) Damaged() map[string]error {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return maps.Clone(ts.damaged)
}

// DropDamaged deletes an unreadable entry. It returns left if the entry was a token: the token may exist at its service.
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

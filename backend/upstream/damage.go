package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// errDamaged is returned if the entry of a token or a hold cannot be decoded. The queue leaves such a token alone: the
// token may exist at its service, but cannot be revoked.
var errDamaged = errors.New("the stored entry cannot be read")

// Unreadable returns an error if the entry of a token cannot be read.
func (ts *Tokens) Unreadable(id token.ID) error {
	if ts.damaged.Intact() {
		return nil
	}
	key := Prefix + id.String()
	if err := ts.damaged.DamageOf(key); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// Damaged returns the storage keys of the unreadable entries, each with the reason.
func (ts *Tokens) Damaged() map[string]error { return ts.damaged.Damaged() }

// DropDamaged deletes an unreadable entry. It returns left if the entry was a token: the token may exist at its service.
func (ts *Tokens) DropDamaged(ctx context.Context, key string) (left bool, _ error) {
	if ts.damaged.DamageOf(key) == nil {
		return false, nil
	}
	return strings.HasPrefix(key, Prefix), ts.damaged.DropDamaged(ctx, ts.storage, key)
}

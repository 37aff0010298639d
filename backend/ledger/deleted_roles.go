package ledger

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// DeletedRolesPrefix is where deleted roles are stored.
const DeletedRolesPrefix = "ledger/deleted-roles/"

// DeletedRoles holds the deleted roles for as long as their tokens may live. Status lists show all tokens of a deleted
// role as revoked. The entry is written before the role is deleted: it has no effect while the role exists.
type DeletedRoles struct {
	store.Damage
	mu       sync.RWMutex
	until    map[token.RoleID]int64 // seconds since 1970
	revision atomic.Uint64
}

// NewDeletedRoles returns an empty DeletedRoles. Load fills it.
func NewDeletedRoles() *DeletedRoles { return &DeletedRoles{until: make(map[token.RoleID]int64)} }

// Load reads all deleted roles from storage. Another call brings memory up to date.
func (d *DeletedRoles) Load(ctx context.Context, s logical.Storage, now time.Time) error {
	names, err := s.List(ctx, DeletedRolesPrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.Reload(ctx, s, DeletedRolesPrefix+name, now); err != nil {
			return err
		}
	}
	return nil
}

// Reload reads a deleted role that another process has written. If the entry is gone, the role stays in memory until its
// tokens must have expired.
func (d *DeletedRoles) Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	defer d.Changed()
	var role token.RoleID
	if err := role.UnmarshalText([]byte(strings.TrimPrefix(key, DeletedRolesPrefix))); err != nil {
		d.NoteDamage(key, fmt.Errorf("%s is not a deleted role: %w", key, err))
		return nil
	}
	stored, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	d.NoteDamage(key, nil)
	if stored == nil {
		return nil
	}
	var until int64
	if err := cbor.Unmarshal(stored.Value, &until); err != nil {
		d.NoteDamage(key, err) // the role is in the key, only the time is lost
		until = now.Add(10 * 365 * 24 * time.Hour).Unix()
	}
	d.show(role, until)
	return nil
}

func (d *DeletedRoles) show(role token.RoleID, until int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until[role] = max(d.until[role], until)
}

// Add stores a role that is about to be deleted. The tokens of the role have expired at until.
func (d *DeletedRoles) Add(ctx context.Context, s logical.Storage, role token.RoleID, until time.Time) error {
	encoded, err := cbor.Marshal(until.Unix())
	if err != nil {
		return err
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: DeletedRolesPrefix + role.String(), Value: encoded}); err != nil {
		return err
	}
	d.show(role, until.Unix())
	d.Changed()
	return nil
}

// Has reports whether a role was deleted or was about to be deleted.
func (d *DeletedRoles) Has(role token.RoleID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, deleted := d.until[role]
	return deleted
}

// Changed records that a role was deleted: status lists may have changed.
func (d *DeletedRoles) Changed() { d.revision.Add(1) }

// Revision returns a number that changes whenever a status list may have changed.
func (d *DeletedRoles) Revision() uint64 { return d.revision.Load() }

// Prune deletes the roles whose tokens must have expired.
func (d *DeletedRoles) Prune(ctx context.Context, s logical.Storage, now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for role, until := range d.until {
		if lasts(until, now) {
			continue
		}
		if err := s.Delete(ctx, DeletedRolesPrefix+role.String()); err != nil {
			return err
		}
		delete(d.until, role)
	}
	return nil
}

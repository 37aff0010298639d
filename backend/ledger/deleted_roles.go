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

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// DeletedRolesPrefix is where DeletedRoles keeps them in storage.
const DeletedRolesPrefix = "ledger/deleted-roles/"

// DeletedRoles remembers the roles that were deleted for as long as tokens of them may live: status lists show all
// their tokens as revoked. One is written before its role is deleted, so that it says nothing while there is the role.
type DeletedRoles struct {
	damage
	mu       sync.RWMutex
	until    map[token.RoleID]int64 // seconds since 1970
	revision atomic.Uint64
}

// NewDeletedRoles returns those of one process, which knows none until Load.
func NewDeletedRoles() *DeletedRoles { return &DeletedRoles{until: make(map[token.RoleID]int64)} }

// Load reads all from storage, also again.
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

// Reload reads one that somebody else has written. One that is gone is kept in memory until it has run out.
func (d *DeletedRoles) Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	defer d.Changed()
	var role token.RoleID
	if err := role.UnmarshalText([]byte(strings.TrimPrefix(key, DeletedRolesPrefix))); err != nil {
		d.note(key, fmt.Errorf("%s is not a deleted role: %w", key, err))
		return nil
	}
	stored, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	d.note(key, nil)
	if stored == nil {
		return nil
	}
	var until int64
	if err := cbor.Unmarshal(stored.Value, &until); err != nil {
		d.note(key, err) // the key says it all but for how long
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

// Add remembers a role that is about to be deleted, whose tokens live until then at the latest.
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

// Has reports whether a role was deleted, or was about to be.
func (d *DeletedRoles) Has(role token.RoleID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, deleted := d.until[role]
	return deleted
}

// Changed notes that a role was deleted: a status list may have to show something else.
func (d *DeletedRoles) Changed() { d.revision.Add(1) }

// Revision changes whenever a status list may have to show something else.
func (d *DeletedRoles) Revision() uint64 { return d.revision.Load() }

// Prune forgets the roles whose tokens must have expired.
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

package native

import (
	"context"
	"crypto/rand"
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Upstreams is what roles need of the tokens of upstream services.
type Upstreams interface {
	// CheckConnection refuses a connection that does not exist or cannot be used.
	CheckConnection(name string) error

	// Params returns the params that a connection's provider takes, with their defaults. An error is a refusal.
	Params(connection string, params map[string]any) (map[string]any, error)

	// RevokeRole revokes all tokens of a role. A revocation that fails is retried in the background.
	RevokeRole(ctx context.Context, id token.RoleID) error
}

// WriteRoleRequest is a request to create or change a role.
type WriteRoleRequest struct {
	Name       string
	Connection *string `json:"connection"` // nil: as it is
	Change     *role.Change
	Given      []string // names of all fields that the request gives
	MountPoint string
	Upstreams  Upstreams

	// CheckDetection refuses modes by rules of misuse that a role cannot set.
	CheckDetection func(modes map[string]string, connected bool) error
}

// WriteRole creates or changes a role, based on what storage holds.
func (t *Tokens) WriteRole(ctx context.Context, s logical.Storage, q *WriteRoleRequest) (*role.Role, error) {
	if err := refusal.CheckLen("name", q.Name, role.MaxNameLen); err != nil {
		return nil, err
	}
	t.Roles.Writing.Lock()
	defer t.Roles.Writing.Unlock()
	entry := role.Entry{TokenFormat: role.FormatOpaque}
	old, err := t.Roles.Latest(ctx, s, q.Name)
	if err != nil {
		return nil, err
	}
	if old != nil {
		entry = old.Entry
	}
	if err := q.apply(&entry, old); err != nil {
		return nil, err
	}
	if err := t.nextVersion(&entry, old); err != nil {
		return nil, err
	}
	r, err := role.New(q.Name, entry)
	if err != nil {
		return nil, err
	}
	if err := t.checkIssuable(ctx, s, r, q.MountPoint); err != nil {
		return nil, err
	}
	if err := t.dropBrokenRole(ctx, s, q.Name, q.Upstreams); err != nil {
		return nil, err
	}
	return r, t.Roles.Put(ctx, s, r)
}

// apply applies the request to an entry.
func (q *WriteRoleRequest) apply(entry *role.Entry, old *role.Role) error {
	if q.Connection != nil {
		if old != nil && *q.Connection != old.Connection {
			return refusal.Field("connection", "of role %q is %q and cannot be changed: delete the role and write another", q.Name, old.Connection)
		}
		entry.Connection = *q.Connection
	}
	if modes := q.Change.Detection; modes != nil {
		if err := q.CheckDetection(*modes, entry.Connection != ""); err != nil {
			return err
		}
	}
	if entry.Connection == "" {
		return entry.Change(q.Change)
	}
	if err := q.Upstreams.CheckConnection(entry.Connection); err != nil {
		return err
	}
	for _, field := range q.Given {
		if !slices.Contains(role.ConnectionFields, field) {
			return refusal.Field(field, "is for native tokens; a role with a connection has %s", strings.Join(role.ConnectionFields, ", "))
		}
	}
	return entry.ChangeConnected(q.Change, func(params map[string]any) (map[string]any, error) {
		return q.Upstreams.Params(entry.Connection, params)
	})
}

// nextVersion makes an entry the successor of old, or the first version of a role if old is nil.
func (t *Tokens) nextVersion(entry *role.Entry, old *role.Role) (err error) {
	if field, err := entry.CheckSize(); field != "" {
		return refusal.Field(field, "%s", err)
	} else if err != nil {
		return err
	}
	now := t.Now().UTC()
	if old != nil {
		return entry.Succeed(&old.Entry, t.LongestOf(&old.Entry), now)
	}
	entry.Version, entry.Since = 1, now
	entry.ID, err = token.NewRoleID(rand.Reader)
	return err
}

// checkIssuable refuses a role of native tokens that could issue none.
func (t *Tokens) checkIssuable(ctx context.Context, s logical.Storage, r *role.Role, mountPoint string) error {
	stored, err := ReadConfig(ctx, s) // which another process may have changed
	if err != nil {
		return err
	}
	c, err := stored.Get()
	if err != nil {
		return err
	}
	if err := r.Privileged(c.PrivilegedScopes); err != nil {
		return err
	}
	if r.TokenFormat != role.FormatJWT {
		return nil
	}
	if c.Issuer == "" {
		return refusal.Field("token_format", "JWTs need an issuer: vault write %sconfig issuer=<URL of this mount, such as https://vault.example.com:8200/v1/%s>",
			mountPoint, strings.TrimSuffix(mountPoint, "/"))
	}
	return t.Prepare(ctx, s, c, r, mountPoint)
}

// DeleteRole deletes a role and revokes its tokens. refuse returns an error for a role that something still needs.
func (t *Tokens) DeleteRole(ctx context.Context, s logical.Storage, name string, refuse func(*role.Role) error, up Upstreams) error {
	r, err := t.deleteRole(ctx, s, name, refuse, up)
	if r == nil || err != nil {
		return err
	}
	// Other roles can be written meanwhile. If this is cut short, the queue completes it.
	return up.RevokeRole(ctx, r.ID)
}

// deleteRole deletes a role without the tokens of upstream services. It returns nil if there is no role that can be read.
func (t *Tokens) deleteRole(ctx context.Context, s logical.Storage, name string, refuse func(*role.Role) error, up Upstreams) (*role.Role, error) {
	t.Roles.Writing.Lock()
	defer t.Roles.Writing.Unlock()
	r, err := t.Roles.Latest(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, t.dropBrokenRole(ctx, s, name, up)
	}
	if err := refuse(r); err != nil {
		return nil, err
	}
	// Status lists show the tokens as revoked once the role is gone, too, however this is cut short.
	if err := t.noteDeleted(ctx, s, r.ID); err != nil {
		return nil, err
	}
	if err := t.Roles.Delete(ctx, s, r.Name()); err != nil {
		return nil, err
	}
	t.DeletedRoles.Changed()
	t.Limits.Forget(r.ID)
	return r, nil
}

// noteDeleted remembers a deleted role for as long as one of its tokens may live.
func (t *Tokens) noteDeleted(ctx context.Context, s logical.Storage, id token.RoleID) error {
	return t.DeletedRoles.Add(ctx, s, id, t.Now().Add(t.LongestOf(new(role.Entry))))
}

// DropBrokenRole deletes a role that cannot be read, and revokes its tokens as far as they are known. It does nothing if
// there is no such role.
func (t *Tokens) DropBrokenRole(ctx context.Context, s logical.Storage, name string, up Upstreams) error {
	t.Roles.Writing.Lock()
	defer t.Roles.Writing.Unlock()
	if _, err := t.Roles.Latest(ctx, s, name); err != nil {
		return err
	}
	return t.dropBrokenRole(ctx, s, name, up)
}

// dropBrokenRole is DropBrokenRole for a caller that holds Roles.Writing and has read the entry.
func (t *Tokens) dropBrokenRole(ctx context.Context, s logical.Storage, name string, up Upstreams) error {
	if t.Roles.Broken(name) == nil {
		return nil
	}
	ids := make(map[token.RoleID]bool)
	if id := t.Roles.DamagedID(name); id != (token.RoleID{}) {
		ids[id] = true
	} else {
		rows, _ := t.Inventory.Page(token.ID{}, math.MaxInt, name, nil)
		for i := range rows {
			ids[rows[i].RoleID] = true
		}
	}
	for id := range ids {
		if err := t.noteDeleted(ctx, s, id); err != nil {
			return err
		}
		if err := up.RevokeRole(ctx, id); err != nil {
			return err
		}
	}
	defer t.DeletedRoles.Changed()
	return t.Roles.Delete(ctx, s, name)
}

package backend

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// state is a mount's storage in memory.
type state struct {
	now func() time.Time

	config     *configStore
	keys       *native.Sealing
	signers    *native.Signing
	roles      *role.Store
	deviations *ledger.Deviations
	refreshes  *ledger.Refreshes
	indexes    *ledger.StatusIndexes
	deleted    *ledger.DeletedRoles
	inventory  *ledger.Inventory

	connections *upstream.Connections // the same for the life of the backend
	upstreams   *upstream.Tokens      // the same for the life of the backend
	statics     *static.Store
}

// load gives the state, reading from storage what is not in memory yet or not any more.
func (b *backend) load(ctx context.Context, s logical.Storage) (*state, error) {
	if st := b.state.Load(); st != nil && !b.stale.Load() {
		return st, nil
	}
	select {
	case b.loading <- struct{}{}:
		defer func() { <-b.loading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if st := b.state.Load(); st != nil && !b.stale.Load() {
		return st, nil // read while this request waited
	}

	// Memory counts as stale until all is read: a request that begins meanwhile waits, and does not answer by what
	// is being read anew.
	b.staleMu.Lock()
	keys, all := b.staleKeys, b.staleAll
	b.staleKeys, b.staleAll = nil, false
	b.staleMu.Unlock()

	began := b.now()
	st, err := b.reload(ctx, s, b.state.Load(), keys, all)
	if all {
		end := b.now()
		b.leadership.restful.Store(end.Add(restFactor * end.Sub(began)).UnixNano())
	}
	if err != nil {
		b.staleMu.Lock()
		b.staleKeys, b.staleAll = append(keys, b.staleKeys...), all || b.staleAll
		b.stale.Store(true)
		b.staleMu.Unlock()
		return nil, err
	}
	b.state.Store(st)
	b.staleMu.Lock()
	b.stale.Store(b.staleAll || len(b.staleKeys) > 0)
	b.staleMu.Unlock()
	return st, nil
}

// room is a part of the ledger. It stays the same when its storage is read again, since requests may be
// changing it: it adds to what it knows.
type room interface {
	Load(ctx context.Context, s logical.Storage, now time.Time) error
	Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error
	Damaged() map[string]error
	DropDamaged(ctx context.Context, s logical.Storage, key string) error
}

// rooms are the parts of the ledger, by the prefix of their keys.
func (st *state) rooms() map[string]room {
	return map[string]room{
		ledger.DeviationsPrefix:   st.deviations,
		ledger.RefreshesPrefix:    st.refreshes,
		ledger.StatusPrefix:       st.indexes,
		ledger.DeletedRolesPrefix: st.deleted,
		ledger.InventoryPrefix:    st.inventory,
	}
}

// reload gives a state in which the stale keys have been read anew; all of them when all is set or old is nil.
func (b *backend) reload(ctx context.Context, s logical.Storage, old *state, stale []string, all bool) (*state, error) {
	st := new(state)
	if old == nil {
		*st = state{
			now: b.Now, deviations: ledger.NewDeviations(b.writer), refreshes: ledger.NewRefreshes(b.writer),
			indexes: ledger.NewStatusIndexes(), deleted: ledger.NewDeletedRoles(), inventory: ledger.NewInventory(b.writer),
		}
	} else {
		*st = *old
	}
	switch {
	case old == nil || all:
		for _, room := range st.rooms() {
			if err := room.Load(ctx, s, b.now()); err != nil {
				return nil, err
			}
		}
	default:
		for _, key := range stale {
			if err := b.reloadKey(ctx, s, st, key); err != nil {
				return nil, err
			}
		}
	}
	if old != nil && all {
		b.Logger().Warn("everything is read from storage again: a write failed because this node may not write")
		if err := b.reloadAll(ctx, s, st); err != nil {
			return nil, err
		}
	}
	if err := b.fill(ctx, s, st); err != nil {
		return nil, err
	}
	if old == nil || all {
		for key, err := range st.brokenKeys() {
			b.Logger().Error("stored entry cannot be read", "key", key, "error", err)
		}
	}
	return st, nil
}

// reloadAll reads anew all but the ledger. What work in the background may be changing stays the same.
func (b *backend) reloadAll(ctx context.Context, s logical.Storage, st *state) error {
	st.config, st.keys, st.signers, st.connections, st.upstreams = nil, nil, nil, nil, nil
	defer st.deleted.Changed()
	for _, refresh := range []func(context.Context, logical.Storage) error{st.roles.ReloadAll, st.statics.ReloadAll} {
		if err := refresh(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// reloadKey reads anew what another node wrote at a key, or has fill do so.
func (b *backend) reloadKey(ctx context.Context, s logical.Storage, st *state, key string) error {
	for prefix, room := range st.rooms() {
		if strings.HasPrefix(key, prefix) {
			return room.Reload(ctx, s, key, b.now())
		}
	}
	switch {
	case key == configKey:
		st.config = nil
	case st.keys.Owns(key):
		return st.keys.Reload(ctx, s, key)
	case st.signers.Owns(key):
		return st.signers.Reload(ctx, s, key)
	case strings.HasPrefix(key, role.Prefix):
		defer st.deleted.Changed()
		return st.roles.Reload(ctx, s, key)
	case strings.HasPrefix(key, upstream.ConnectionsPrefix):
		return st.connections.Reload(ctx, s, key)
	case strings.HasPrefix(key, upstream.ProvidersPrefix):
		return st.connections.ReloadProvider(ctx, s, key)
	case strings.HasPrefix(key, upstream.Prefix), strings.HasPrefix(key, upstream.HoldsPrefix):
		return st.upstreams.Reload(ctx, key)
	case strings.HasPrefix(key, static.Prefix):
		return st.statics.Reload(ctx, s, key)
	}
	return nil
}

// fill reads what the state does not have.
func (b *backend) fill(ctx context.Context, s logical.Storage, st *state) (err error) {
	if st.config == nil {
		if st.config, err = loadConfig(ctx, s); err != nil {
			return err
		}
	}
	if st.keys == nil {
		if st.keys, err = native.LoadSealing(ctx, s, b.Now); err != nil {
			return err
		}
	}
	if st.signers == nil {
		if st.signers, err = native.LoadSigning(ctx, s, b.Now); err != nil {
			return err
		}
	}
	if st.roles == nil {
		if st.roles, err = role.Load(ctx, s); err != nil {
			return err
		}
	}
	if st.connections == nil {
		if err := b.upstreams.Connections.Load(ctx, s); err != nil {
			return err
		}
		st.connections = b.upstreams.Connections
	}
	if st.upstreams == nil {
		if err := b.upstreams.Tokens.Load(ctx); err != nil {
			return err
		}
		st.upstreams = b.upstreams.Tokens
	}
	if st.statics == nil {
		st.statics, err = static.Load(ctx, s)
	}
	return err
}

// life is what the ledger and the roles know of a token of a grant that ends at ownEnd by itself. Whether
// its subject is disabled is not looked up.
func (st *state) life(id, grant token.ID, role token.RoleID, ownEnd time.Time) access.State {
	r := st.roles.ByID(role)
	life := access.State{ExpiresAt: ownEnd, RoleDeleted: r == nil}
	if r != nil && r.Connection != "" {
		u, known := st.upstreams.Get(id)
		if known {
			life.ExpiresAt = u.EndsAt
		}
		life.Revoked = known && u.State != upstream.Live || !known && st.upstreams.Unreadable(id) == nil
		return life
	}
	if d, ok := st.deviations.Get(id); ok {
		life.ExpiresAt = time.Unix(d.ExpiresAt, 0)
		life.Revoked = d.Revoked
	}
	if grant == id {
		return life
	}
	if d, ok := st.deviations.Get(grant); ok {
		life.Revoked = life.Revoked || d.Revoked
		if end := time.Unix(d.ExpiresAt, 0); end.Before(life.ExpiresAt) {
			life.ExpiresAt = end
		}
	}
	return life
}

// readable returns an error where it is not known what has become of a token, since storage holds something of it
// that cannot be read.
func (st *state) readable(id, grant token.ID, role token.RoleID) error {
	return cmp.Or(st.roles.BrokenID(role), st.deviations.Unreadable(id), st.deviations.Unreadable(grant), st.upstreams.Unreadable(id))
}

// statusRevision changes whenever a status list may have to show something else.
func (st *state) statusRevision(list uint32) uint64 {
	return st.deviations.Revision(list) + st.deleted.Revision()
}

// revokedIn lists the places of a status list whose tokens were revoked, or may be tokens of deleted roles.
func (st *state) revokedIn(list uint32) []uint32 {
	deleted := func(id token.RoleID) bool { return st.deleted.Has(id) && st.roles.ByID(id) == nil }
	return append(st.deviations.RevokedIn(list), st.indexes.PlacesOf(list, deleted)...)
}

// destroyedKeys are the keys that were destroyed, with when each retired.
func (st *state) destroyedKeys() map[string]time.Time {
	var destroyed map[string]time.Time
	for _, keys := range []token.Keys{st.keys.Keys(), st.signers.Keys()} {
		for i := range keys {
			if keys[i].Destroyed {
				if destroyed == nil {
					destroyed = make(map[string]time.Time)
				}
				destroyed[keys[i].Name] = keys[i].RetiredAt
			}
		}
	}
	return destroyed
}

// rowLife is the life of a grant of the inventory. A grant whose key was destroyed is revoked, unless it was refreshed
// with another key.
func (st *state) rowLife(row *ledger.Row, destroyed map[string]time.Time) access.State {
	life := st.life(row.ID, row.ID, row.RoleID, row.ExpiresAt)
	if retiredAt, gone := destroyed[row.Key]; gone {
		last, refreshed := st.refreshes.Get(row.ID)
		life.Revoked = life.Revoked || !refreshed || retiredAt.IsZero() || time.UnixMilli(last.At).Before(retiredAt)
	}
	return life
}

// keyIsGone reports whether a sealing key opens its tokens no more, for whatever reason.
func (st *state) keyIsGone(name string) bool {
	key := st.keys.Keys().Find(name)
	return key != nil && (key.Secret == nil || key.Broken != nil)
}

// longestLifetime returns how long a live token may live at most, renewals included. The keys alone do not suffice: a
// process that is behind does not know what other processes made with them.
func (b *backend) longestLifetime(st *state) time.Duration {
	return max(st.keys.LongestLifetime(), st.signers.LongestLifetime(), b.System().MaxLeaseTTL(), role.MaxLeaselessTTL)
}

// ended tells of a token in the inventory whether it is over for good.
func (st *state) ended(now time.Time) func(token.ID, time.Time) bool {
	return func(id token.ID, ownEnd time.Time) bool {
		if d, ok := st.deviations.Get(id); ok {
			return d.KeepUntil <= now.Unix()
		}
		if _, known := st.upstreams.Get(id); known {
			return false
		}
		return !now.Before(ownEnd)
	}
}

// longestOf returns how long a token of a role may live that was issued up to now, also by a process whose keys this
// process does not know.
func (b *backend) longestOf(st *state, e *role.Entry) time.Duration {
	longest := b.System().MaxLeaseTTL()
	if e.MaxTTL > 0 {
		longest = min(longest, e.MaxTTL)
	}
	return max(longest, st.keys.LongestLifetime(), st.signers.LongestLifetime()) + ledger.ClockSkew
}

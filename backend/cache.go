package backend

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// state is a mount's storage in memory.
type state struct {
	native.Tokens
	connections *upstream.Connections // the same object for the life of the backend
	upstreams   *upstream.Tokens      // the same object for the life of the backend
	statics     *static.Store
	usage       *insight.Usage // the same object for the life of the backend
}

// load returns the state, and reads the missing or stale parts from storage.
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

	// Memory counts as stale until everything is read. A request that begins meanwhile waits: the request must not
	// be answered from stale memory.
	b.staleMu.Lock()
	keys, all := b.staleKeys, b.staleAll
	b.staleKeys, b.staleAll = nil, false
	b.staleMu.Unlock()

	began := b.now()
	st, err := b.reload(ctx, s, b.state.Load(), keys, all)
	if all {
		b.fence.Reread(began)
	}
	if err != nil {
		b.staleMu.Lock()
		b.staleKeys, b.staleAll = append(keys, b.staleKeys...), all || b.staleAll
		b.stale.Store(true)
		b.staleMu.Unlock()
		return nil, err
	}
	b.state.Store(st)
	b.world.Feed.Restart() // another process may have changed anything
	b.staleMu.Lock()
	b.stale.Store(b.staleAll || len(b.staleKeys) > 0)
	b.staleMu.Unlock()
	return st, nil
}

// staleEverything marks all memory as stale.
func (b *backend) staleEverything() {
	b.staleMu.Lock()
	defer b.staleMu.Unlock()
	b.staleAll = true
	b.stale.Store(true)
}

// room is a part of the ledger, or the usage of tokens. Reading storage again keeps the same room, since requests may be changing the room: Load
// and Reload merge storage into the room.
type room interface {
	Load(ctx context.Context, s logical.Storage, now time.Time) error
	Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error
	Damaged() map[string]error
	DropDamaged(ctx context.Context, s logical.Storage, key string) error
}

// rooms returns the parts of the ledger, and the usage of tokens, by the prefix of their storage keys.
func (st *state) rooms() map[string]room {
	return map[string]room{
		ledger.DeviationsPrefix:   st.Deviations,
		ledger.RefreshesPrefix:    st.Refreshes,
		ledger.StatusPrefix:       st.StatusIndexes,
		ledger.DeletedRolesPrefix: st.DeletedRoles,
		ledger.InventoryPrefix:    st.Inventory,
		insight.Prefix:            st.usage,
	}
}

// reload returns a state after reading the stale keys again. If all is set or old is nil, reload reads every key.
func (b *backend) reload(ctx context.Context, s logical.Storage, old *state, stale []string, all bool) (*state, error) {
	st := new(state)
	if old == nil {
		st.usage = b.usage
		st.Tokens = native.Tokens{
			World: &b.world, Deviations: ledger.NewDeviations(b.writer), Refreshes: ledger.NewRefreshes(b.writer),
			StatusIndexes: ledger.NewStatusIndexes(), DeletedRoles: ledger.NewDeletedRoles(), Inventory: ledger.NewInventory(b.writer),
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
		if err := b.reloadKeys(ctx, s, st, stale); err != nil {
			return nil, err
		}
	}
	if old != nil && all {
		b.Logger().Warn("write rejected for lack of leadership, all of storage read again")
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

// reloadAll reads everything but the ledger again. Objects that background work may be changing stay the same.
func (b *backend) reloadAll(ctx context.Context, s logical.Storage, st *state) error {
	st.Config, st.Sealing, st.Signing, st.connections, st.upstreams = nil, nil, nil, nil, nil
	defer st.DeletedRoles.Changed()
	for _, refresh := range []func(context.Context, logical.Storage) error{st.Roles.ReloadAll, st.statics.ReloadAll} {
		if err := refresh(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// reloader reads a storage key again after another node wrote the key.
type reloader struct {
	prefix string // of the storage keys; the first matching prefix counts
	reload func(ctx context.Context, s logical.Storage, key string) error
}

// reloaders returns the reloader of each prefix, in the order of the match.
func (b *backend) reloaders(st *state) []reloader {
	upstreamTokens := func(ctx context.Context, _ logical.Storage, key string) error { return st.upstreams.Reload(ctx, key) }
	table := []reloader{
		{native.ConfigKey, func(context.Context, logical.Storage, string) error {
			st.Config = nil // fill reads the config again
			return nil
		}},
		{native.SealingPrefix, st.Sealing.Reload},
		{native.SigningPrefix, st.Signing.Reload},
		{role.Prefix, func(ctx context.Context, s logical.Storage, key string) error {
			defer st.DeletedRoles.Changed()
			return st.Roles.Reload(ctx, s, key)
		}},
		{upstream.ConnectionsPrefix, st.connections.Reload},
		{upstream.ProvidersPrefix, st.connections.ReloadProvider},
		{upstream.Prefix, upstreamTokens},
		{upstream.HoldsPrefix, upstreamTokens},
		{static.Prefix, st.statics.Reload},
	}
	for prefix, room := range st.rooms() {
		table = append(table, reloader{prefix, func(ctx context.Context, s logical.Storage, key string) error {
			return room.Reload(ctx, s, key, b.now())
		}})
	}
	return table
}

// reloadKeys reads again what other nodes wrote at storage keys.
func (b *backend) reloadKeys(ctx context.Context, s logical.Storage, st *state, keys []string) error {
	table := b.reloaders(st)
	for _, key := range keys {
		i := slices.IndexFunc(table, func(part reloader) bool { return strings.HasPrefix(key, part.prefix) })
		if i < 0 {
			continue
		}
		if err := table[i].reload(ctx, s, key); err != nil {
			return err
		}
	}
	return nil
}

// fill reads the missing parts of the state.
func (b *backend) fill(ctx context.Context, s logical.Storage, st *state) (err error) {
	if st.Config == nil {
		if st.Config, err = native.LoadConfig(ctx, s); err != nil {
			return err
		}
	}
	if st.Sealing == nil {
		if st.Sealing, err = native.LoadSealing(ctx, s, b.Now); err != nil {
			return err
		}
		st.Sealing.OnDestroyed(func(name string) { b.world.Feed.Add(feed.Event{Kind: feed.Key, ID: name}) })
	}
	if st.Signing == nil {
		if st.Signing, err = native.LoadSigning(ctx, s, b.Now); err != nil {
			return err
		}
		st.Signing.OnDestroyed(func(name string) { b.world.Feed.Add(feed.Event{Kind: feed.Key, ID: name}) })
	}
	if st.Roles == nil {
		if st.Roles, err = role.Load(ctx, s); err != nil {
			return err
		}
		st.Roles.OnChange(func(name string) { b.world.Feed.Add(feed.Event{Kind: feed.Role, ID: name}) })
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

// rowLife returns the life of a token of the inventory, without checking whether the subject is disabled.
func (st *state) rowLife(row *ledger.Row, destroyed map[string]time.Time) access.State {
	if r := st.Roles.ByID(row.RoleID); r == nil || r.Connection == "" {
		return st.RowLife(row, destroyed)
	}
	t, known := st.upstreams.Get(row.ID)
	life := access.State{ExpiresAt: row.ExpiresAt}
	if known {
		life.ExpiresAt = st.upstreams.ExpiresAt(&t)
	}
	life.Revoked = known && t.State != upstream.Live || !known && st.upstreams.Unreadable(row.ID) == nil
	return life
}

// unreadable returns an error if the state of a token of the inventory depends on a stored entry that cannot be read.
func (st *state) unreadable(row *ledger.Row) error {
	return cmp.Or(st.Unreadable(row.ID, row.ID, row.RoleID), st.upstreams.Unreadable(row.ID))
}

// expired returns a function that reports whether a token of the inventory has expired for good.
func (st *state) expired(now time.Time) func(token.ID, time.Time) bool {
	return func(id token.ID, ownEnd time.Time) bool {
		if d, ok := st.Deviations.Get(id); ok {
			return d.KeepUntil <= now.Unix()
		}
		if _, known := st.upstreams.Get(id); known {
			return false
		}
		return !now.Before(ownEnd)
	}
}

// reserve reserves a place below a role's max_tokens. Tokens of static roles are not counted.
func (b *backend) reserve(st *state, r *role.Role) (*role.Place, error) {
	now := b.now()
	return b.world.Limits.Reserve(r, func() int { return st.Inventory.Count(r.ID) }, func() int {
		live := 0
		destroyed := st.DestroyedKeys()
		for row := range st.Inventory.OfRole(r.ID) {
			if row.StaticRole == "" && st.rowLife(&row, destroyed).Alive(now) == access.Good {
				live++
			}
		}
		return live
	}, now)
}

package mount

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/alert"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/report"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// State is a mount's storage in memory. The parts stay the same objects for the life of the mount, since a request that began
// before storage was read again may change a part afterwards: later requests must see the change.
type State struct {
	native.Tokens
	Connections *upstream.Connections
	Upstreams   *upstream.Tokens
	Statics     *static.Store
	usage       *insight.Usage   // the same object for the life of the mount
	watch       *report.Watch    // the same object for the life of the mount
	detect      *detect.Detector // the same object for the life of the mount
	Alerts      *alert.Alerts    // the same object for the life of the mount
}

// Loaded returns the state; nil before storage was read. Parts of the state may be stale.
func (m *Mount) Loaded() *State { return m.state.Load() }

// Invalidate marks a storage key as stale, since another node wrote the key.
func (m *Mount) Invalidate(key string) {
	if m.Usage.Invalidate(key) {
		return
	}
	m.staleMu.Lock()
	m.staleKeys = append(m.staleKeys, key)
	m.staleMu.Unlock()
	m.stale.Store(true)
}

// Load returns the state, and reads the missing or stale parts from storage.
func (m *Mount) Load(ctx context.Context, s logical.Storage) (*State, error) {
	if st := m.Loaded(); st != nil && !m.stale.Load() {
		return st, nil
	}
	select {
	case m.loading <- struct{}{}:
		defer func() { <-m.loading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if st := m.Loaded(); st != nil && !m.stale.Load() {
		return st, nil // read while this request waited
	}

	// Memory counts as stale until everything is read. A request that begins meanwhile waits: the request must not
	// be answered from stale memory.
	m.staleMu.Lock()
	keys, all := m.staleKeys, m.staleAll
	m.staleKeys, m.staleAll = nil, false
	m.staleMu.Unlock()

	began := m.now()
	st, err := m.reload(ctx, s, m.Loaded(), keys, all)
	if all {
		m.Fence.Reread(began)
	}
	if err != nil {
		m.staleMu.Lock()
		m.staleKeys, m.staleAll = append(keys, m.staleKeys...), all || m.staleAll
		m.stale.Store(true)
		m.staleMu.Unlock()
		return nil, err
	}
	m.state.Store(st)
	m.World.Feed.Restart() // another process may have changed anything
	m.staleMu.Lock()
	m.stale.Store(m.staleAll || len(m.staleKeys) > 0)
	m.staleMu.Unlock()
	return st, nil
}

// staleEverything marks all memory as stale.
func (m *Mount) staleEverything() {
	m.staleMu.Lock()
	defer m.staleMu.Unlock()
	m.staleAll = true
	m.stale.Store(true)
}

// room is a part of the ledger, or the usage of tokens. Reading storage again keeps the same room, since requests may be changing the room: Load
// and Reload merge storage into the room.
type room interface {
	damaged
	Load(ctx context.Context, s logical.Storage, now time.Time) error
	Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error
}

// rooms returns the parts of the ledger and the usage of tokens by the prefix of their storage keys.
func (st *State) rooms() map[string]room {
	return map[string]room{
		ledger.DeviationsPrefix:   st.Deviations,
		ledger.SuspensionsPrefix:  st.Suspensions,
		ledger.RefreshesPrefix:    st.Refreshes,
		ledger.StatusPrefix:       st.StatusIndexes,
		ledger.DeletedRolesPrefix: st.DeletedRoles,
		ledger.InventoryPrefix:    st.Inventory,
		insight.Prefix:            st.usage,
		report.Prefix:             st.watch,
		detect.Prefix:             st.detect,
		alert.Prefix:              st.Alerts,
	}
}

// reload returns a state after reading the stale keys again. If all is set or old is nil, reload reads every key.
func (m *Mount) reload(ctx context.Context, s logical.Storage, old *State, stale []string, all bool) (*State, error) {
	st := new(State)
	if old == nil {
		st.usage, st.watch, st.detect, st.Alerts = m.Usage, m.Watch, m.Detect, m.Alerts
		st.Tokens = native.Tokens{
			World: &m.World, Deviations: ledger.NewDeviations(m.writer), Suspensions: ledger.NewSuspensions(m.writer), Refreshes: ledger.NewRefreshes(m.writer),
			StatusIndexes: ledger.NewStatusIndexes(), DeletedRoles: ledger.NewDeletedRoles(), Inventory: ledger.NewInventory(m.writer),
		}
	} else {
		*st = *old
	}
	switch {
	case old == nil || all:
		for _, room := range st.rooms() {
			if err := room.Load(ctx, s, m.now()); err != nil {
				return nil, err
			}
		}
	default:
		if err := m.reloadKeys(ctx, s, st, stale); err != nil {
			return nil, err
		}
	}
	if old != nil && all {
		m.Log.Warn("write rejected for lack of leadership, all of storage read again")
		if err := m.reloadAll(ctx, s, st); err != nil {
			return nil, err
		}
	}
	if err := m.fill(ctx, s, st); err != nil {
		return nil, err
	}
	if old == nil {
		st.Deviations.OnTightened(m.World.GrantTightened)
		st.Suspensions.OnChange(m.World.SuspensionChanged)
	}
	if old == nil || all {
		for key, err := range st.Broken() {
			m.Log.Error("stored entry cannot be read", "key", key, "error", err)
		}
	}
	return st, nil
}

// reloadAll reads everything but the ledger again.
func (m *Mount) reloadAll(ctx context.Context, s logical.Storage, st *State) error {
	defer st.DeletedRoles.Changed()
	for _, refresh := range []func(context.Context, logical.Storage) error{
		st.Config.Reload, st.Sealing.ReloadAll, st.Signing.ReloadAll, st.Roles.ReloadAll, st.Statics.ReloadAll, st.Connections.Load,
		func(ctx context.Context, _ logical.Storage) error { return st.Upstreams.Load(ctx) },
	} {
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
func (m *Mount) reloaders(st *State) []reloader {
	upstreamTokens := func(ctx context.Context, _ logical.Storage, key string) error { return st.Upstreams.Reload(ctx, key) }
	table := []reloader{
		{native.ConfigKey, func(ctx context.Context, s logical.Storage, _ string) error { return st.Config.Reload(ctx, s) }},
		{native.SealingPrefix, st.Sealing.Reload},
		{native.SigningPrefix, st.Signing.Reload},
		{role.Prefix, func(ctx context.Context, s logical.Storage, key string) error {
			defer st.DeletedRoles.Changed()
			return st.Roles.Reload(ctx, s, key)
		}},
		{upstream.ConnectionsPrefix, st.Connections.Reload},
		{upstream.ProvidersPrefix, st.Connections.ReloadProvider},
		{upstream.Prefix, upstreamTokens},
		{upstream.HoldsPrefix, upstreamTokens},
		{static.Prefix, st.Statics.Reload},
	}
	for prefix, room := range st.rooms() {
		table = append(table, reloader{prefix, func(ctx context.Context, s logical.Storage, key string) error {
			return room.Reload(ctx, s, key, m.now())
		}})
	}
	return table
}

// reloadKeys reads again what other nodes wrote at storage keys.
func (m *Mount) reloadKeys(ctx context.Context, s logical.Storage, st *State, keys []string) error {
	table := m.reloaders(st)
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
func (m *Mount) fill(ctx context.Context, s logical.Storage, st *State) (err error) {
	if st.Config == nil {
		if st.Config, err = native.LoadConfig(ctx, s); err != nil {
			return err
		}
	}
	if st.Sealing == nil {
		if st.Sealing, err = native.LoadSealing(ctx, s, m.Now); err != nil {
			return err
		}
		st.Sealing.OnDestroyed(m.publish(feed.Key))
	}
	if st.Signing == nil {
		if st.Signing, err = native.LoadSigning(ctx, s, m.Now); err != nil {
			return err
		}
		st.Signing.OnDestroyed(m.publish(feed.Key))
	}
	if st.Roles == nil {
		if st.Roles, err = role.Load(ctx, s); err != nil {
			return err
		}
		st.Roles.OnChange(m.publish(feed.Role))
	}
	if st.Connections == nil {
		if err := m.Upstreams.Connections.Load(ctx, s); err != nil {
			return err
		}
		st.Connections = m.Upstreams.Connections
	}
	if st.Upstreams == nil {
		if err := m.Upstreams.Tokens.Load(ctx); err != nil {
			return err
		}
		st.Upstreams = m.Upstreams.Tokens
	}
	if st.Statics == nil {
		st.Statics, err = static.Load(ctx, s)
	}
	return err
}

// publish returns the function that adds an event of a kind to the feed.
func (m *Mount) publish(kind feed.Kind) func(id string) {
	return func(id string) { m.World.Feed.Add(feed.Event{Kind: kind, ID: id}) }
}

package backend

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// state is a mount's storage in memory.
type state struct {
	now func() time.Time

	config     *configStore
	keys       *keyring
	signers    *signers
	roles      *roleStore
	deviations *ledger.Deviations
	grants     *ledger.Grants
	indexes    *ledger.Indexes
	inventory  *ledger.Inventory

	connections *connectionStore
	upstreams   *ledger.Upstreams
	statics     *staticStore
}

// load gives the state, reading from storage what is not in memory yet or not any more.
func (b *backend) load(ctx context.Context, s logical.Storage) (*state, error) {
	if st := b.state.Load(); st != nil && !b.stale.Load() {
		return st, nil
	}
	b.loading.Lock()
	defer b.loading.Unlock()

	b.staleMu.Lock()
	keys := b.staleKeys
	b.staleKeys = nil
	b.stale.Store(false)
	b.staleMu.Unlock()

	st, err := b.reload(ctx, s, b.state.Load(), keys)
	if err != nil {
		for _, key := range keys {
			b.invalidate(ctx, key)
		}
		return nil, err
	}
	b.state.Store(st)
	return st, nil
}

// reload gives a state in which the stale keys have been read anew; all of them when old is nil.
func (b *backend) reload(ctx context.Context, s logical.Storage, old *state, stale []string) (*state, error) {
	st := &state{now: b.Now}
	if old != nil {
		*st = *old
	}
	for _, key := range stale {
		switch {
		case old == nil:
		case key == configKey:
			st.config = nil
		case key == ringKey:
			st.keys = nil
		case key == signersKey:
			st.signers = nil
		case strings.HasPrefix(key, rolePrefix):
			if err := st.roles.reload(ctx, s, key); err != nil {
				return nil, err
			}
		case strings.HasPrefix(key, connectionPrefix):
			if err := st.connections.reload(ctx, s, key); err != nil {
				return nil, err
			}
		case strings.HasPrefix(key, providerPrefix):
			if err := st.connections.reloadProvider(ctx, s, key); err != nil {
				return nil, err
			}
		case strings.HasPrefix(key, ledger.UpstreamsPrefix):
			if err := st.upstreams.Reload(ctx, s, key); err != nil {
				return nil, err
			}
		case strings.HasPrefix(key, staticPrefix):
			if err := st.statics.reload(ctx, s, key); err != nil {
				return nil, err
			}
		case strings.HasPrefix(key, ledger.InventoryPrefix):
			st.inventory = nil
		case strings.HasPrefix(key, ledger.IndexesPrefix):
			st.indexes = nil
		case strings.HasPrefix(key, ledger.DeviationsPrefix):
			if err := st.deviations.Reload(ctx, s, key); err != nil {
				return nil, err
			}
		case strings.HasPrefix(key, ledger.GrantsPrefix):
			if err := st.grants.Reload(ctx, s, key); err != nil {
				return nil, err
			}
		}
	}
	var err error
	if st.config == nil {
		if st.config, err = loadConfig(ctx, s); err != nil {
			return nil, err
		}
	}
	if st.keys == nil {
		if st.keys, err = loadKeyring(ctx, s, b.Now); err != nil {
			return nil, err
		}
	}
	if st.signers == nil {
		if st.signers, err = loadSigners(ctx, s, b.Now); err != nil {
			return nil, err
		}
	}
	if st.roles == nil {
		if st.roles, err = loadRoles(ctx, s); err != nil {
			return nil, err
		}
	}
	if st.deviations == nil {
		if st.deviations, err = ledger.LoadDeviations(ctx, s); err != nil {
			return nil, err
		}
	}
	if st.grants == nil {
		if st.grants, err = ledger.LoadGrants(ctx, s); err != nil {
			return nil, err
		}
	}
	if st.indexes == nil {
		if st.indexes, err = ledger.LoadIndexes(ctx, s); err != nil {
			return nil, err
		}
	}
	if st.inventory == nil {
		if st.inventory, err = ledger.LoadInventory(ctx, s); err != nil {
			return nil, err
		}
	}
	if st.connections == nil {
		if st.connections, err = loadConnections(ctx, s, userAgent(), b.Dial); err != nil {
			return nil, err
		}
	}
	if st.upstreams == nil {
		if st.upstreams, err = ledger.LoadUpstreams(ctx, s); err != nil {
			return nil, err
		}
	}
	if st.statics == nil {
		if st.statics, err = loadStatics(ctx, s); err != nil {
			return nil, err
		}
	}
	if old == nil {
		for key, err := range st.brokenKeys() {
			b.Logger().Error("stored entry cannot be read", "key", key, "error", err)
		}
	}
	return st, nil
}

// life is what the ledger and the roles know of a token of a grant that ends at ownEnd by itself. Whether
// its subject is disabled is not looked up.
func (st *state) life(id, grant token.ID, role token.RoleID, ownEnd time.Time) access.State {
	r := st.roles.byID(role)
	life := access.State{ExpiresAt: ownEnd, RoleDeleted: r == nil}
	if r != nil && r.Connection != "" {
		u, known := st.upstreams.Get(id)
		if known {
			life.ExpiresAt = u.EndsAt
		}
		life.Revoked = !known || u.State != ledger.Live
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

// longestLifetime is the longest time that any live token may live, renewals included.
func (st *state) longestLifetime() time.Duration {
	return max(st.keys.longestLifetime(), st.signers.longestLifetime())
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

package mount

import (
	"context"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// An entry that cannot be read, after a failed upgrade or a disk fault, affects only the requests that need the entry.

// Broken returns the storage keys of all entries that cannot be read, each with the reason.
func (st *State) Broken() map[string]error {
	keys := st.Roles.Damaged()
	maps.Copy(keys, st.Connections.Damaged())
	maps.Copy(keys, st.Connections.Providers.Damaged())
	maps.Copy(keys, st.Statics.Damaged())
	maps.Copy(keys, st.Upstreams.Damaged())
	if err := st.Config.Broken(); err != nil {
		keys[native.ConfigKey] = err
	}
	for _, part := range st.parts() {
		maps.Copy(keys, part.Damaged())
	}
	return keys
}

// damaged is a part of the state that works without its unreadable entries.
type damaged interface {
	Damaged() map[string]error
	DropDamaged(ctx context.Context, s logical.Storage, key string) error
}

// parts returns the parts of the ledger and the key rings, by the prefix of their storage keys.
func (st *State) parts() map[string]damaged {
	parts := map[string]damaged{native.SealingPrefix: st.Sealing, native.SigningPrefix: st.Signing}
	for prefix, room := range st.rooms() {
		parts[prefix] = room
	}
	return parts
}

// DropBroken deletes an entry that cannot be read, by the room that owns the key. DropBroken refuses any other key.
func (m *Mount) DropBroken(ctx context.Context, s logical.Storage, st *State, key string) (warnings []string, _ error) {
	if st.Broken()[key] == nil {
		return nil, refusal.Field("key", "%q is not the key of an entry that cannot be read", refusal.Clip(key))
	}
	defer st.Feed.Restart() // the entry may have concerned any token
	if key == native.ConfigKey {
		dropped, err := st.Config.DropBroken(ctx, s)
		if err != nil || !dropped {
			return nil, err
		}
		return []string{native.DefaultsApply}, nil
	}
	if name, is := strings.CutPrefix(key, role.Prefix); is {
		return nil, st.DropBrokenRole(ctx, s, name, m.Upstreams)
	}
	if name, is := strings.CutPrefix(key, upstream.ConnectionsPrefix); is {
		return m.Upstreams.DropBrokenConnection(ctx, s, name, true)
	}
	if name, is := strings.CutPrefix(key, static.Prefix); is {
		return nil, m.Statics.DropBroken(ctx, s, name)
	}
	for prefix, part := range st.parts() {
		if strings.HasPrefix(key, prefix) {
			return nil, part.DropDamaged(ctx, s, key)
		}
	}
	if strings.HasPrefix(key, upstream.Prefix) || strings.HasPrefix(key, upstream.HoldsPrefix) {
		left, err := st.Upstreams.DropDamaged(ctx, key)
		if err != nil || !left {
			return nil, err
		}
		return []string{"a token may be left behind at its service, and the engine will not revoke the token"}, nil
	}
	name, _ := strings.CutPrefix(key, upstream.ProvidersPrefix)
	return nil, m.Upstreams.DropBrokenProvider(ctx, s, name)
}

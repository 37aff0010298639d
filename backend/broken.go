package backend

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// An entry that cannot be read, after a failed upgrade or a disk fault, affects only the requests that need the entry. The
// paths of this file list and delete such entries.

func (b *backend) pathsBroken() []*framework.Path {
	list := b.listPath("broken", func(st *state) []string { return slices.Sorted(maps.Keys(st.brokenKeys())) })
	list.Operations[logical.ListOperation] = b.answer(b.pathBrokenList, "List the stored entries that cannot be read.", ok(map[string]*framework.FieldSchema{
		"keys":     {Type: framework.TypeStringSlice, Description: "Storage keys; absent if empty."},
		"key_info": {Type: framework.TypeMap, Description: "Storage key to error: why the entry cannot be read."},
	}))
	list.DisplayAttrs.OperationSuffix = "broken-entries"
	list.HelpSynopsis = "List the stored entries that cannot be read."
	list.HelpDescription = "An entry that cannot be decoded or compiled affects only the requests that need the entry. Write the role, connection, provider, static role or config again, or delete the entry."
	return []*framework.Path{
		list,
		{
			Pattern:      "broken/(?P<key>.+)",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "broken-entry"},
			Fields: map[string]*framework.FieldSchema{
				"key": {Type: framework.TypeString, Required: true, Description: "Storage key of the entry, as listed."},
			},
			Operations:      only(logical.DeleteOperation, b.change(b.pathBrokenDelete, "Delete a stored entry that cannot be read.")),
			HelpSynopsis:    "Delete a stored entry that cannot be read.",
			HelpDescription: "The content of the entry is lost. Deleting a role or a static role revokes its known tokens; docs/api.md lists the other effects of a deletion. An entry that can be read is not deleted.",
		},
	}
}

// brokenKeys returns the storage keys of all entries that cannot be read, each with the reason.
func (st *state) brokenKeys() map[string]error {
	keys := st.Roles.Damaged()
	maps.Copy(keys, st.connections.Damaged())
	maps.Copy(keys, st.connections.Providers.Damaged())
	maps.Copy(keys, st.statics.Damaged())
	maps.Copy(keys, st.upstreams.Damaged())
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
func (st *state) parts() map[string]damaged {
	parts := map[string]damaged{native.SealingPrefix: st.Sealing, native.SigningPrefix: st.Signing}
	for prefix, room := range st.rooms() {
		parts[prefix] = room
	}
	return parts
}

func (b *backend) pathBrokenList(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	reasons := st.brokenKeys()
	keys := page(slices.Sorted(maps.Keys(reasons)), after, limit)
	info := make(map[string]any, len(keys))
	for _, key := range keys {
		info[key] = map[string]any{"error": reasons[key].Error()}
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

func (b *backend) pathBrokenDelete(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	key := d.Get("key").(string)
	if st.brokenKeys()[key] == nil {
		return nil, refusal.Field("key", "%q is not the key of an entry that cannot be read", refusal.Clip(key))
	}
	defer st.Feed.Restart() // the entry may have concerned any token
	return b.dropBroken(ctx, req, st, key)
}

// dropBroken deletes an entry that cannot be read, by the room that owns the key.
func (b *backend) dropBroken(ctx context.Context, req *logical.Request, st *state, key string) (*logical.Response, error) {
	if key == native.ConfigKey {
		dropped, err := st.Config.DropBroken(ctx, req.Storage)
		if err != nil || !dropped {
			return nil, err
		}
		return warned([]string{native.DefaultsApply}, nil)
	}
	if name, is := strings.CutPrefix(key, role.Prefix); is {
		return nil, st.DropBrokenRole(ctx, req.Storage, name, b.upstreams)
	}
	if name, is := strings.CutPrefix(key, upstream.ConnectionsPrefix); is {
		return warned(b.upstreams.DropBrokenConnection(ctx, req.Storage, name, true))
	}
	if name, is := strings.CutPrefix(key, static.Prefix); is {
		return nil, b.statics.DropBroken(ctx, req.Storage, name)
	}
	for prefix, part := range st.parts() {
		if strings.HasPrefix(key, prefix) {
			return nil, part.DropDamaged(ctx, req.Storage, key)
		}
	}
	if strings.HasPrefix(key, upstream.Prefix) || strings.HasPrefix(key, upstream.HoldsPrefix) {
		left, err := st.upstreams.DropDamaged(ctx, key)
		if err != nil || !left {
			return nil, err
		}
		return warned([]string{"a token may be left behind at its service, and the engine will not revoke the token"}, nil)
	}
	name, _ := strings.CutPrefix(key, upstream.ProvidersPrefix)
	return nil, b.upstreams.DropBrokenProvider(ctx, req.Storage, name)
}

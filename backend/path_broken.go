package backend

import (
	"context"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// An entry that cannot be read, after a failed upgrade or a disk fault, affects only the requests that need the entry. The
// paths of this file list and delete such entries.

func (b *backend) pathsBroken() []*framework.Path {
	return []*framework.Path{
		path("broken/?$", "", "broken-entries", schema.Page("broken name"),
			only(logical.ListOperation, b.answer(b.pathBrokenList, "List the stored entries that cannot be read.", ok(fields{
				"keys":     schema.Strs("Storage keys; absent if empty."),
				"key_info": schema.Object("Storage key to error: why the entry cannot be read."),
			}))),
			"List the stored entries that cannot be read.",
			"An entry that cannot be decoded or compiled affects only the requests that need the entry. Write the "+
				"role, connection, provider, static role or config again, or delete the entry."),
		path("broken/(?P<key>.+)", "", "broken-entry", fields{
			"key": schema.Str("Storage key of the entry, as listed.").Must(),
		},
			only(logical.DeleteOperation, b.change(b.pathBrokenDelete, "Delete a stored entry that cannot be read.")),
			"Delete a stored entry that cannot be read.",
			"The content of the entry is lost. Deleting a role or a static role revokes its known tokens; docs/api.md lists the other "+
				"effects of a deletion. An entry that can be read is not deleted."),
	}
}

func (b *backend) pathBrokenList(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	reasons := st.Broken()
	keys, err := given[schema.PageRequest](d).Of(slices.Sorted(maps.Keys(reasons)))
	if err != nil {
		return nil, err
	}
	info := make(map[string]any, len(keys))
	for _, key := range keys {
		info[key] = map[string]any{"error": reasons[key].Error()}
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

func (b *backend) pathBrokenDelete(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	return warned(b.DropBroken(ctx, req.Storage, st, d.Get("key").(string)))
}

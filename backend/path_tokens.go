package backend

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

func (b *backend) pathsTokens() []*framework.Path {
	return []*framework.Path{
		path("tokens/"+framework.GenericNameRegex("token_id"), "", "issued-token", fields{
			"token_id": schema.Str("Public name of the token: 24 hexadecimal digits.").Must(),
		},
			only(logical.ReadOperation, b.answer(b.pathTokensRead, "Read the record and state of a token.", ok(mount.RecordAnswer))),
			"Read the record and state of a token.",
			"Returns a row of the inventory. The row exists from the issue of the token until shortly after its expiry. The row never "+
				"holds the token itself."),
		path("tokens/?$", "", "issued-tokens", mount.ListFields,
			only(logical.ListOperation, b.answer(b.pathTokensList, "List the tokens that may still be live.", ok(mount.ListAnswer))),
			"List the tokens that may still be live.",
			"Returns a page of the inventory, in the order of the token_ids. For the next page, set after to the last token_id."),
	}
}

func (b *backend) pathTokensRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	record, err := b.Find(ctx, st, d.Get("token_id").(string))
	if record == nil || err != nil {
		return nil, err
	}
	return members(mount.RecordAnswer, record), nil
}

func (b *backend) pathTokensList(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	records, more, err := b.List(ctx, st, given[mount.ListRequest](d))
	if err != nil {
		return nil, err
	}
	keys, rows := make([]string, len(records)), make(map[string]any, len(records))
	for i, r := range records {
		row := members(mount.RecordAnswer, r).Data
		delete(row, "usage")
		maps.Copy(row, r.Totals())
		keys[i], rows[r.TokenID] = r.TokenID, row
	}
	return listed("tokens", keys, rows, more), nil
}

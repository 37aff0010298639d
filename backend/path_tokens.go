package backend

import (
	"context"
	"fmt"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// maxTokensPage is the maximum number of tokens on a page.
	maxTokensPage = 1000

	// maxTokensBytes bounds the total size of the scopes and names on a page. The scopes and names of one token may have
	// 15 kB.
	maxTokensBytes = 1 << 20
)

func (b *backend) pathsTokens() []*framework.Path {
	listFields := pageFields("token_id")
	listFields["limit"].Description = fmt.Sprintf("Maximum number of entries to return, at most %d. Default: %[1]d.", maxTokensPage)
	listFields["role"] = &framework.FieldSchema{
		Type:        framework.TypeString,
		Description: "List only tokens of this role.",
		Query:       true,
	}
	maps.Copy(listFields, usageFilters())
	listResponse := listResponseFields("token_id")
	listResponse["key_info"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "Answer of tokens/:token_id for each token_id."}
	return []*framework.Path{
		{
			Pattern:      "tokens/" + framework.GenericNameRegex("token_id"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "issued-token"},
			Fields: map[string]*framework.FieldSchema{
				"token_id": {Type: framework.TypeString, Description: "Public name of the token: 24 hexadecimal digits.", Required: true},
			},
			Operations:      only(logical.ReadOperation, b.answer(b.pathTokensRead, "Read the record and state of a token.", ok(tokenRowFields()))),
			HelpSynopsis:    "Read the record and state of a token.",
			HelpDescription: "Returns a row of the inventory. The row exists from the issue of the token until shortly after its expiry. The row never holds the token itself.",
		},
		{
			Pattern:         "tokens/?$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "issued-tokens"},
			Fields:          listFields,
			Operations:      only(logical.ListOperation, b.answer(b.pathTokensList, "List the tokens that may still be live.", ok(listResponse))),
			HelpSynopsis:    "List the tokens that may still be live.",
			HelpDescription: "Returns a page of the inventory, in the order of the token_ids. For the next page, set after to the last token_id.",
		},
	}
}

func (b *backend) pathTokensRead(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	_, id, err := token.ParseName(d.Get("token_id").(string)) // a row describes a grant
	if err != nil {
		return nil, refusal.Field("token_id", "%s", err)
	}
	row, known := st.Inventory.Get(id)
	if !known {
		return nil, nil
	}
	data, err := b.describe(ctx, st, &row)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) pathTokensList(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	afterText, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	var after token.ID
	if afterText != "" {
		if after, err = token.ParseID(afterText); err != nil {
			return nil, refusal.Field("after", "%s", err)
		}
	}
	if _, given := d.GetOk("limit"); !given {
		limit = maxTokensPage
	}
	if limit > maxTokensPage {
		return nil, refusal.Field("limit", "%d is too large, at most %d is allowed", limit, maxTokensPage)
	}

	keep, err := b.usageFilter(ctx, d)
	if err != nil {
		return nil, err
	}
	rows, more := st.Inventory.Page(after, limit, d.Get("role").(string), keep)
	bytes := 0
	for i := range rows {
		if bytes += len(rows[i].Scopes) + len(rows[i].Role) + len(rows[i].DisplayName); bytes > maxTokensBytes && i > 0 {
			rows, more = rows[:i], true
			break
		}
	}
	keys := make([]string, len(rows))
	info := make(map[string]any, len(rows))
	for i := range rows {
		keys[i] = rows[i].ID.String()
		if info[keys[i]], err = b.describe(ctx, st, &rows[i]); err != nil {
			return nil, err
		}
	}
	resp := logical.ListResponseWithInfo(keys, info)
	if more {
		resp.AddWarning(fmt.Sprintf("there are more tokens: list again with after=%s", keys[len(keys)-1]))
	}
	return resp, nil
}

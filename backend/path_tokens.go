package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsTokens() []*framework.Path {
	listFields := pageFields("token_id")
	listFields["limit"].Description = fmt.Sprintf("Maximum number of entries to return, at most %d. Default: %[1]d.", mount.MaxPage)
	listFields["role"] = query(str("List only tokens of this role."))
	listFields["unused_for"] = query(secs("List only tokens that were not used for this long; of tokens never used, those issued " +
		"this long ago."))
	listFields["used_since"] = query(date("List only tokens that were used at this time or later: RFC 3339, or seconds since 1970."))
	listResponse := listAnswer("token_id")
	listResponse["key_info"] = object("Answer of tokens/:token_id for each token_id. Instead of usage, a row has uses, refused (the " +
		"number of refused uses), last_used_at and last_ip.")
	return []*framework.Path{
		path("tokens/"+framework.GenericNameRegex("token_id"), "", "issued-token", fields{
			"token_id": must(str("Public name of the token: 24 hexadecimal digits.")),
		},
			only(logical.ReadOperation, b.answer(b.pathTokensRead, "Read the record and state of a token.", ok(tokenRowFields))),
			"Read the record and state of a token.",
			"Returns a row of the inventory. The row exists from the issue of the token until shortly after its expiry. The row never "+
				"holds the token itself."),
		path("tokens/?$", "", "issued-tokens", listFields,
			only(logical.ListOperation, b.answer(b.pathTokensList, "List the tokens that may still be live.", ok(listResponse))),
			"List the tokens that may still be live.",
			"Returns a page of the inventory, in the order of the token_ids. For the next page, set after to the last token_id."),
	}
}

func (b *backend) pathTokensRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	_, id, err := token.ParseName(d.Get("token_id").(string)) // a row describes a grant
	if err != nil {
		return nil, refusal.Field("token_id", "%s", err)
	}
	row, known := st.Inventory.Get(id)
	if !known {
		return nil, nil
	}
	record, err := b.Describe(ctx, st, &row)
	if err != nil {
		return nil, err
	}
	return members(tokenRowFields, record), nil
}

func (b *backend) pathTokensList(ctx context.Context, st *state, req *request, d *input) (*response, error) {
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
		limit = mount.MaxPage
	}
	if limit > mount.MaxPage {
		return nil, refusal.Field("limit", "%d is too large, at most %d is allowed", limit, mount.MaxPage)
	}
	records, more, err := b.Page(ctx, st, after, limit, d.Get("role").(string), given[mount.UsageFilter](d))
	if err != nil {
		return nil, err
	}
	keys, info := make([]string, len(records)), make(map[string]any, len(records))
	for i, record := range records {
		keys[i], info[record.TokenID] = record.TokenID, listRow(record)
	}
	resp := logical.ListResponseWithInfo(keys, info)
	if more {
		resp.AddWarning(fmt.Sprintf("there are more tokens: list again with after=%s", keys[len(keys)-1]))
	}
	return resp, nil
}

// listRow returns the row of a list. The command line cannot show a member of a member in a column: the main members of usage
// are members of the row.
func listRow(record *mount.Record) map[string]any {
	row := members(tokenRowFields, record).Data
	usage, _ := row["usage"].(map[string]any)
	delete(row, "usage")
	for _, name := range []string{"uses", "last_used_at", "last_ip"} {
		if value, known := usage[name]; known {
			row[name] = value
		}
	}
	refused := uint64(0)
	refusals, _ := usage["refusals"].(map[string]any)
	for _, n := range refusals {
		count, _ := n.(uint32)
		refused += uint64(count)
	}
	row["refused"] = refused
	return row
}

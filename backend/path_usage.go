package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/insight"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// usageHelp describes the field "usage" of a token.
const usageHelp = "Uses of the token and its grant: uses; if used: first_used_at, last_used_at, last_ip, last_region, last_network, scopes (that uses needed), " +
	"more_scopes (whether uses needed more); if refused: refusals, a number for each reason. Unknown values are absent."

func (b *backend) pathsUsage() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "usage",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "report", OperationSuffix: "usage"},
		Fields: map[string]*framework.FieldSchema{
			"reporter": {Type: framework.TypeString, Required: true, Description: "Name of the reporting process: letters, digits, . : - and _, at most 64. Each process, and each start of a process, has a name of its own."},
			"sequence": {Type: framework.TypeInt64, Required: true, Description: "Number of the batch, from 1, higher with each batch of the reporter. A retry has the number of the batch."},
			"tokens": {Type: framework.TypeSlice, Description: "One row for each token: token_id, uses, last_used_at, last_ip, last_region, last_network, " +
				fmt.Sprintf("refusals (a number for each reason), scopes (that uses needed). At most %d rows. Default: none.", insight.MaxRows)},
			"unknown": {Type: framework.TypeSlice, Description: fmt.Sprintf("One row for each address that unknown tokens came from: ip, refusals. At most %d rows. Default: none.", insight.MaxRows)},
		},
		Operations: only(logical.UpdateOperation, forward(b.answer(b.pathUsageUpdate, "Report uses and refusals of tokens.", ok(map[string]*framework.FieldSchema{
			"accepted":  {Type: framework.TypeInt, Required: true, Description: "Number of counted rows."},
			"ignored":   {Type: framework.TypeInt, Required: true, Description: "Number of rows about tokens that the engine does not know. These rows are not counted."},
			"duplicate": {Type: framework.TypeBool, Required: true, Description: "Whether the reporter has sent this sequence or a higher one before. The batch is then not counted."},
			"reporters": {Type: framework.TypeInt, Required: true, Description: "Number of reporters that reported within five minutes, this one included."},
		})))),
		HelpSynopsis: "Report how tokens were used, for verifiers that do not ask introspect for each use.",
		HelpDescription: "A verifier reports in batches what it has seen of each token since the last batch. A batch counts once: the verifier repeats " +
			"a batch with the same sequence until the engine answers, and only then sends the next batch. \"tokens\" and \"lookup\" show the counts.",
	}}
}

func (b *backend) pathUsageUpdate(_ context.Context, _ *state, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	tokens, _ := d.Get("tokens").([]any)
	unknown, _ := d.Get("unknown").([]any)
	report, err := insight.ParseReport(d.Get("reporter").(string), d.Get("sequence").(int64), tokens, unknown)
	if err != nil {
		return nil, err
	}
	done, err := b.usage.Count(report)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"accepted": done.Accepted, "ignored": done.Ignored, "duplicate": done.Duplicate, "reporters": done.Reporters,
	}}, nil
}

// noteUse counts an introspection. Only the active node counts.
func (b *backend) noteUse(v *native.Verdict, use *access.Use) {
	if v.Claims == nil {
		b.usage.Refused(use.ClientIP, 1)
		return
	}
	b.usage.Introspected(v.Claims.Grant, v.Claims.ExpiresAt, use, v.Reason)
}

// isLookUp reports whether an introspection is no use of a token: a verifier that reads the feed asks what a token is, and
// reports the uses itself.
func isLookUp(d *framework.FieldData) bool {
	for _, field := range []string{"client_ip", "host", "audience", "required_scopes"} {
		if _, given := d.GetOk(field); given {
			return false
		}
	}
	return given[int64](d, "min_cursor") != nil
}

// listedUntil returns until when the inventory has a token, without renewals.
func (b *backend) listedUntil(id token.ID) (time.Time, bool) {
	st := b.state.Load()
	if st == nil {
		return time.Time{}, false
	}
	return st.Inventory.End(id)
}

// usageData returns the field "usage" of a token.
func usageData(r *insight.Record) map[string]any {
	data := map[string]any{"uses": r.Uses}
	if !r.LastUse.IsZero() {
		data["first_used_at"], data["last_used_at"] = rfc3339(r.FirstUse), rfc3339(r.LastUse)
	}
	if r.Address.IsValid() {
		data["last_ip"] = r.Address.String()
	}
	if r.Region != "" {
		data["last_region"] = r.Region
	}
	if r.Network != 0 {
		data["last_network"] = fmt.Sprintf("AS%d", r.Network)
	}
	if len(r.Scopes) > 0 {
		data["scopes"] = r.Scopes
	}
	if r.MoreScopes {
		data["more_scopes"] = true
	}
	if len(r.Refusals) > 0 {
		refusals := make(map[string]any, len(r.Refusals))
		for reason, n := range r.Refusals {
			refusals[string(reason)] = n
		}
		data["refusals"] = refusals
	}
	return data
}

// usageFilters are the fields that list tokens by their last use.
func usageFilters() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"unused_for": {Type: framework.TypeDurationSecond, Query: true, Description: "List only tokens that were not used for this long; of tokens never used, those issued this long ago."},
		"used_since": {Type: framework.TypeTime, Query: true, Description: "List only tokens that were used at this time or later: RFC 3339, or seconds since 1970."},
	}
}

// usageFilter returns which tokens of the inventory the request lists by their last use; nil: all.
func (b *backend) usageFilter(ctx context.Context, d *framework.FieldData) (func(token.ID, time.Time) bool, error) {
	unused, since := givenSeconds(d, "unused_for"), given[time.Time](d, "used_since")
	switch {
	case unused == nil && since == nil:
		return nil, nil
	case unused != nil && since != nil:
		return nil, refusal.New("give either unused_for or used_since")
	}
	if err := b.usage.Refresh(ctx); err != nil {
		return nil, err
	}
	now := b.now()
	return func(id token.ID, issuedAt time.Time) bool {
		last, used := b.usage.LastUse(id)
		if since != nil {
			return used && !last.Before(since.Truncate(time.Second))
		}
		if !used {
			last = issuedAt
		}
		return now.Sub(last) >= *unused
	}, nil
}

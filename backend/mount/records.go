package mount

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// stateActive is the state of a valid token. Every other state is an access.Reason.
const stateActive = "active"

// MaxPage is the maximum number of records on a page.
const MaxPage = 1000

// maxPageBytes bounds the total size of the scopes and names on a page. The scopes and names of one token may have 15 kB.
const maxPageBytes = 1 << 20

// Page returns the records of at most limit tokens of a role after an ID, in the order of the IDs, and whether there are more.
// An empty role stands for all roles. The filter leaves out tokens by their last use.
func (m *Mount) Page(
	ctx context.Context, st *State, after token.ID, limit int, role string, filter *UsageFilter,
) (_ []*Record, more bool, _ error) {
	keep, err := m.keep(ctx, filter)
	if err != nil {
		return nil, false, err
	}
	rows, more := st.Inventory.Page(after, limit, role, keep)
	records, bytes := make([]*Record, 0, len(rows)), 0
	for i := range rows {
		if bytes += len(rows[i].Scopes) + len(rows[i].Role) + len(rows[i].DisplayName); bytes > maxPageBytes && i > 0 {
			return records, true, nil
		}
		record, err := m.Describe(ctx, st, &rows[i])
		if err != nil {
			return nil, false, err
		}
		records = append(records, record)
	}
	return records, more, nil
}

// ListRequest asks for a page of the inventory. A nil field has its default.
type ListRequest struct {
	After     *string        `json:"after"` // token_id; nil: from the first token on
	Limit     *int           `json:"limit"` // nil: MaxPage
	Role      *string        `json:"role"`  // only tokens of this role; nil: all
	UnusedFor *time.Duration `json:"unused_for"`
	UsedSince *time.Time     `json:"used_since"`
}

// List returns the records of a page, and whether there are more.
func (m *Mount) List(ctx context.Context, st *State, q *ListRequest) (_ []*Record, more bool, err error) {
	limit, err := schema.Limit(q.Limit, MaxPage)
	if err != nil {
		return nil, false, err
	}
	var after token.ID
	if q.After != nil && *q.After != "" {
		if after, err = token.ParseID(*q.After); err != nil {
			return nil, false, refusal.Field("after", "%s", err)
		}
	}
	role := ""
	if q.Role != nil {
		role = *q.Role
	}
	return m.Page(ctx, st, after, limit, role, &UsageFilter{UnusedFor: q.UnusedFor, UsedSince: q.UsedSince})
}

// Find returns the record of a token by its public name; nil if the inventory does not have the token. A record is that of
// the grant.
func (m *Mount) Find(ctx context.Context, st *State, name string) (*Record, error) {
	_, id, err := token.ParseName(name)
	if err != nil {
		return nil, refusal.Field("token_id", "%s", err)
	}
	row, known := st.Inventory.Get(id)
	if !known {
		return nil, nil
	}
	return m.Describe(ctx, st, &row)
}

// Record is what a mount knows of an issued token.
type Record struct {
	TokenID     string    `json:"token_id"`
	State       string    `json:"state"`  // stateActive, or an access.Reason
	Detail      string    `json:"detail"` // State in a sentence; empty if the token is active
	Role        string    `json:"role"`
	RoleVersion uint32    `json:"role_version"`
	Scopes      []string  `json:"scopes"`
	EntityID    string    `json:"entity_id"` // Vault entity that requested the token; empty if none
	DisplayName string    `json:"display_name"`
	IssuedAt    time.Time `json:"issued_at"`
	ExpiresAt   time.Time `json:"expires_at"` // renewals included
	Usage       any       `json:"usage"`      // members of insight.Record, see Totals

	Limits map[string]any `json:"-"` // by native.AddLimits; nil if Lookup was not given the token
}

// Totals returns the main members of Usage for the row of a list: the command line cannot show a member of a member in a
// column.
func (r *Record) Totals() map[string]any {
	usage, _ := r.Usage.(map[string]any)
	refused := uint64(0)
	refusals, _ := usage["refusals"].(map[string]any)
	for _, n := range refusals {
		count, _ := n.(uint32)
		refused += uint64(count)
	}
	totals := map[string]any{"refused": refused}
	for _, name := range []string{"uses", "last_used_at", "last_ip"} {
		if value, known := usage[name]; known {
			totals[name] = value
		}
	}
	return totals
}

// Describe returns the record of a row of the inventory.
func (m *Mount) Describe(ctx context.Context, st *State, row *ledger.Row) (*Record, error) {
	life := st.rowLife(row, st.DestroyedKeys())
	var err error
	if life.SubjectDisabled, err = m.World.Subjects.Disabled(ctx, row.Subject); err != nil {
		return nil, err
	}
	used, err := m.Usage.Get(ctx, row.ID)
	if err != nil {
		return nil, err
	}
	record := &Record{
		Usage:   used.Members(),
		TokenID: row.ID.String(), State: stateActive, Role: row.Role, RoleVersion: row.RoleVersion, Scopes: strings.Fields(row.Scopes),
		EntityID: row.Subject, DisplayName: row.DisplayName, IssuedAt: row.IssuedAt, ExpiresAt: life.ExpiresAt,
	}
	if err := st.unreadable(row); err != nil && !life.Revoked {
		record.State, record.Detail = string(access.Unknown), err.Error()
	} else {
		record.judge(st, life.Alive(m.now()), row.ID)
	}
	return record, nil
}

// judge sets the state of a token that is not active. Of a suspended token, the detail says what is suspended, and has the
// note.
func (r *Record) judge(st *State, reason access.Reason, grant token.ID) {
	if reason == access.Good {
		return
	}
	r.State, r.Detail = string(reason), access.Explain(reason, nil, nil)
	if reason != access.Suspended {
		return
	}
	what, note := st.ExplainSuspension(grant, r.EntityID)
	if r.Detail = cmp.Or(what, r.Detail); note != "" {
		r.Detail += "; note: " + note
	}
}

// Lookup returns the record of a token, by the text of the token or, if the text is empty, by the ID of the grant. Lookup
// returns no record but the reason for a token that the mount does not know.
func (m *Mount) Lookup(
	ctx context.Context, s logical.Storage, st *State, text string, id token.ID,
) (*Record, access.Reason, error) {
	if u, isUpstream := st.Upstreams.Known(text); isUpstream {
		text, id = "", u.ID
	}
	if text == "" {
		row, known := st.Inventory.Get(id)
		if !known {
			return nil, access.Unknown, nil
		}
		record, err := m.Describe(ctx, st, &row)
		return record, access.Good, err
	}
	v, err := st.Verify(ctx, s, text, &access.Use{})
	if err != nil {
		return nil, access.Unknown, err
	}
	if v.Claims == nil {
		return nil, v.Reason, nil
	}
	row := st.RowOf(v)
	record, err := m.Describe(ctx, st, &row)
	if err == nil && v.Permissions != nil {
		record.Limits = make(map[string]any)
		native.AddLimits(record.Limits, v.Permissions)
	}
	if err == nil && v.Claims.Grant != v.Claims.ID { // the row is that of the grant
		record.TokenID, record.IssuedAt, record.ExpiresAt = v.Claims.Name(), v.Claims.IssuedAt, v.Life.ExpiresAt
		record.judge(st, v.Life.Alive(m.now()), v.Claims.Grant)
	}
	return record, v.Reason, err
}

package mount

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// IssueRequest asks for a token of a role, under a lease if the role has leases. Fields without a remark are required.
type IssueRequest struct {
	Role        string        // name
	Asked       *role.Request // permissions that the request narrows
	Given       []string      // names of all fields of the request
	MountPoint  string
	RemoteAddr  string // address of the requester; empty if unknown
	EntityID    string // Vault entity of the requester; empty: none
	DisplayName string // of the Vault token of the requester; empty: none

	// Lifetimes returns the TTL of a token of a role, and the token's longest lifetime, renewals included.
	Lifetimes func(*role.Role) (ttl, lifetime time.Duration, warnings []string, err error)
}

// Issued is a token as the requester gets it.
type Issued struct {
	Answer    map[string]any // members of the answer
	Lease     map[string]any // internal data of the lease; nil: no lease
	Upstream  bool           // the token is one of a service
	TTL       time.Duration  // of the lease
	Lifetime  time.Duration  // longest lifetime of the lease, renewals included
	Renewable bool           // whether the lease can be renewed
	Warnings  []string
}

// Issue issues a token. Issue refuses a requester whom the role does not allow, a suspended entity, and an overdue review.
func (m *Mount) Issue(ctx context.Context, s logical.Storage, st *State, q *IssueRequest) (*Issued, error) {
	r, err := role.Requested(st.Roles, q.Role, q.RemoteAddr)
	if err != nil {
		return nil, err
	}
	if err := st.CheckSuspended(q.EntityID); err != nil {
		return nil, err
	}
	if err := m.ReviewedRole(st, r, q.MountPoint); err != nil {
		return nil, err
	}
	issue := m.issueNative
	if r.Connection != "" {
		issue = m.issueUpstream
	}
	var issued *Issued
	if err = m.Fence.ProveWritable(ctx, s); err == nil {
		issued, err = issue(ctx, s, st, r, q)
	}
	m.noteIssue(st, r, err)
	return issued, err
}

func (m *Mount) issueNative(ctx context.Context, s logical.Storage, st *State, r *role.Role, q *IssueRequest) (*Issued, error) {
	ttl, lifetime, warnings, err := q.Lifetimes(r)
	if err != nil {
		return nil, err
	}
	made, err := st.Issue(ctx, s, &native.IssueRequest{
		Role: r, TTL: ttl, Lifetime: lifetime, MountPoint: q.MountPoint, Subject: q.EntityID, DisplayName: q.DisplayName,
		Asked: q.Asked, Reserve: func() (*role.Place, error) { return m.Reserve(st, r) },
	})
	if err != nil {
		return nil, err
	}
	issued := &Issued{
		Answer: made.Answer(), TTL: ttl, Lifetime: lifetime, Warnings: warnings,
		Renewable: r.TokenFormat == role.FormatOpaque || r.Refresh, // a JWT cannot be extended
	}
	if r.NoLease {
		return issued, nil
	}
	m.FlushSoon()
	lease := &native.Lease{
		LeaseTerms: role.LeaseTerms{TTL: ttl, Lifetime: lifetime},
		Grant:      made.Claims.Grant, Status: made.Claims.Status, RoleID: r.ID, Role: r.Name(), ExpiresAt: made.GrantEnd,
	}
	issued.Lease = lease.InternalData()
	return issued, nil
}

func (m *Mount) issueUpstream(ctx context.Context, _ logical.Storage, st *State, r *role.Role, q *IssueRequest) (*Issued, error) {
	for _, field := range q.Given {
		if !slices.Contains([]string{"role", "ttl"}, field) {
			return nil, refusal.Field(field, "is for native tokens; role %q issues tokens of connection %q, which the role's params "+
				"narrow", r.Name(), r.Connection)
		}
	}
	ttl, lifetime, warnings, err := q.Lifetimes(r)
	if err != nil {
		return nil, err
	}
	now := m.now().UTC()
	made, err := m.Upstreams.Issue(ctx, &upstream.IssueRequest{
		Role: r, MountPoint: q.MountPoint, Subject: q.EntityID, DisplayName: q.DisplayName, Now: now, End: now.Add(ttl),
		Inventory: st.Inventory, Reserve: func() (*role.Place, error) { return m.Reserve(st, r) },
		Restore: func(add func()) { m.World.Limits.Restore(r.ID, add) },
	})
	m.FlushSoon() // a token may be in the inventory that this requester did not get
	if err != nil {
		return nil, err
	}
	issued := &Issued{
		Answer: made.Answer(), Upstream: true, TTL: made.TTL, Lifetime: lifetime, Renewable: made.Renewable,
		Warnings: append(warnings, made.Warnings...),
	}
	if !r.NoLease {
		lease := &upstream.Lease{LeaseTerms: role.LeaseTerms{TTL: made.TTL, Lifetime: lifetime}, ID: made.ID, Hold: made.Hold}
		issued.Lease = lease.InternalData()
	}
	return issued, nil
}

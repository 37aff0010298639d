package mount

import (
	"context"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// The kinds of entries that can be attested, as in paths.
const (
	attestRoles       = "roles"
	attestConnections = "connections"
	attestStaticRoles = "static-roles"
)

// ReviewedRole refuses to issue from a role whose review, or whose connection's review, is overdue, if the mount enforces
// reviews.
func (m *Mount) ReviewedRole(st *State, r *role.Role, mountPoint string) error {
	if !st.Config.OrDefaults().EnforceReview {
		return nil
	}
	now := m.now()
	if err := r.Refuse("role \""+r.Name()+"\"", mountPoint+"attest/roles/"+r.Name(), now); err != nil {
		return err
	}
	if c := st.Connections.Get(r.Connection); r.Connection != "" && c != nil {
		return c.Refuse("connection \""+c.Name()+"\"", mountPoint+"attest/connections/"+c.Name(), now)
	}
	return nil
}

// ReviewedStatic refuses to return the token of a static role whose review, or whose role's review, is overdue, if the mount
// enforces reviews.
func (m *Mount) ReviewedStatic(st *State, name, mountPoint string) error {
	e := st.Statics.Get(name)
	if e == nil || !st.Config.OrDefaults().EnforceReview {
		return nil
	}
	if err := e.Refuse("static role \""+name+"\"", mountPoint+"attest/static-roles/"+name, m.now()); err != nil {
		return err
	}
	if r := st.Roles.Get(e.Role); r != nil {
		return m.ReviewedRole(st, r, mountPoint)
	}
	return nil
}

// Attest records that somebody has confirmed that a role, a connection or a static role is still needed.
func (m *Mount) Attest(ctx context.Context, s logical.Storage, st *State, a *review.Attestation) (*review.Review, error) {
	var attested *review.Review
	var err error
	switch a.Kind {
	case attestRoles:
		attested, err = st.AttestRole(ctx, s, a)
	case attestConnections:
		attested, err = st.Connections.Attest(ctx, s, a, m.now())
	case attestStaticRoles:
		attested, err = m.Statics.Attest(ctx, s, a)
	}
	if err == nil && attested == nil {
		err = refusal.Field("name", "there is no %q in %s", refusal.Clip(a.Name), a.Kind)
	}
	return attested, err
}

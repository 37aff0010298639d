package report

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// Reasons of the report of what nobody answers for.
const (
	ReasonNoOwner       = "no_owner"
	ReasonNoReview      = "no_review_by"
	ReasonReviewOverdue = "review_overdue"
)

// UnownedKinds are the kinds of the report of what nobody answers for.
var UnownedKinds = []string{KindConnection, KindRole, KindStaticRole}

// Unowned returns the roles, connections and static roles without an owner, without a day for the next review, and with an
// overdue review.
func (v *View) Unowned(q *Query) (*Page, error) {
	p, err := page(q,
		v.connections(func(c *upstream.Connection) *Item {
			return v.unowned(&Item{Kind: KindConnection, Name: c.Name()}, &c.Review, "connections/"+c.Name())
		}),
		v.roles(func(r *role.Role) *Item {
			return v.unowned(&Item{Kind: KindRole, Name: r.Name(), Connection: r.Connection}, &r.Review, "roles/"+r.Name())
		}),
		v.statics(func(e *static.Entry) *Item {
			return v.unowned(&Item{Kind: KindStaticRole, Name: e.Name(), Role: e.Role, EntityID: e.EntityID}, &e.Review, "static-roles/"+e.Name())
		}),
	)
	if err != nil {
		return nil, err
	}
	p.Caveats = []string{"an owner is a text: the engine does not check that the team or person exists"}
	return p, nil
}

func (v *View) unowned(i *Item, r *review.Review, path string) *Item {
	i.Owner = r.Owner
	_, limited := r.End()
	i.ReviewBy = r.ReviewBy
	i.LastSeenAt = r.AttestedAt
	if r.Owner == "" {
		i.because(ReasonNoOwner, "owner is empty")
		i.Command = "vault write " + v.MountPoint + path + " owner=..."
	}
	switch {
	case r.Overdue(v.Now):
		i.because(ReasonReviewOverdue, "review_by %s has passed, attested %s", r.ReviewBy, attestedOn(r))
		if i.Command == "" {
			i.Command = "vault write " + v.MountPoint + "attest/" + path + " note=..."
		}
	case !limited:
		i.because(ReasonNoReview, "review_by is empty")
		if i.Command != "" {
			i.Command += " review_by=..."
		} else {
			i.Command = "vault write " + v.MountPoint + "attest/" + path + " note=..."
		}
	}
	if len(i.Reasons) == 0 {
		return nil
	}
	return i
}

func attestedOn(r *review.Review) string {
	if r.AttestedAt.IsZero() {
		return "never"
	}
	return "on " + day(r.AttestedAt)
}

package mount

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Suspend suspends a grant or an entity. Suspend refuses a text that is no token of this mount, and a token of a service. It
// warns where a token is not suspended.
func (m *Mount) Suspend(ctx context.Context, s logical.Storage, st *State, t Target, note string) (warnings []string, _ error) {
	if err := native.CheckNote(note); err != nil {
		return nil, err
	}
	if t.Subject != "" {
		return m.suspendSubject(ctx, s, st, t.Subject, note)
	}
	grant, status, err := grantOf(ctx, s, st, t, "suspended")
	if err != nil {
		return nil, err
	}
	if st.Revoked(grant) {
		return []string{"the token was revoked, which no resume undoes: nothing was suspended"}, nil
	}
	known, err := st.Suspend(ctx, s, grant, status, note)
	if err != nil || known || t.Text != "" {
		return nil, err
	}
	return []string{fmt.Sprintf("token_id %q is unknown. If this mount issued a token of that id just before a crash, or without "+
		"a lease, introspection now rejects the token; a status list does not show the suspension. If you have the token, suspend "+
		"by token", grant)}, nil
}

func (m *Mount) suspendSubject(
	ctx context.Context, s logical.Storage, st *State, subject, note string,
) (warnings []string, _ error) {
	if err := st.Suspensions.SuspendSubject(ctx, s, subject, note, m.now()); err != nil {
		return nil, err
	}
	if n := len(st.Upstreams.OfSubject(subject)); n > 0 {
		warnings = append(warnings, fmt.Sprintf("%d tokens of other services stay valid: services cannot suspend a token. To stop "+
			"the tokens, revoke them", n))
	}
	return append(warnings, m.noEntity(subject)...), nil
}

// noEntity returns a warning if Vault has no entity with that ID.
func (m *Mount) noEntity(subject string) []string {
	if entity, err := m.System.EntityInfo(subject); err != nil || entity != nil {
		return nil
	}
	return []string{fmt.Sprintf("Vault has no entity %q: the entity was deleted, or the id is mistyped. The id is not the name of the "+
		"entity: vault read identity/entity/name/NAME shows the id", subject)}
}

// Resume undoes Suspend. Resume refuses a revoked grant, and warns if the tokens stay suspended or were not suspended.
func (m *Mount) Resume(ctx context.Context, s logical.Storage, st *State, t Target, note string) (warnings []string, _ error) {
	if err := native.CheckNote(note); err != nil {
		return nil, err
	}
	if t.Subject != "" {
		was, err := st.Suspensions.ResumeSubject(ctx, s, t.Subject, note, m.now())
		if err != nil || was {
			return nil, err
		}
		return []string{fmt.Sprintf("the Vault entity %q was not suspended", t.Subject)}, nil
	}
	grant, _, err := grantOf(ctx, s, st, t, "resumed")
	if err != nil {
		return nil, err
	}
	if st.Revoked(grant) {
		return nil, refusal.New("the token was revoked, and a revocation cannot be undone: issue another token")
	}
	was, err := st.Suspensions.ResumeGrant(ctx, s, grant, note, m.now())
	if err != nil {
		return nil, err
	}
	if !was {
		warnings = append(warnings, "the token was not suspended")
	}
	if row, listed := st.Inventory.Get(grant); listed && st.Suspensions.Subject(row.Subject).Suspended() {
		warnings = append(warnings, fmt.Sprintf("the token stays suspended, since the Vault entity %q is suspended: resume the subject",
			row.Subject))
	}
	return warnings, nil
}

// Suspended is a suspended token or Vault entity.
type Suspended struct {
	Key         string    `json:"key"`  // ID of the grant, or of the entity
	Kind        string    `json:"kind"` // token or entity
	At          time.Time `json:"suspended_at"`
	Note        string    `json:"note"`
	Role        string    `json:"role"` // of a token of the inventory, as the rest
	EntityID    string    `json:"entity_id"`
	DisplayName string    `json:"display_name"`
}

// Suspended returns a page of what a resume can undo, in the order of the keys, and whether there is more.
func (m *Mount) Suspended(st *State, q *schema.PageRequest) (list []*Suspended, more bool, _ error) {
	limit, err := schema.Limit(q.Limit, MaxPage)
	if err != nil {
		return nil, false, err
	}
	after := ""
	store.Set(&after, q.After)
	names := st.Suspensions.Names(m.now())
	for _, key := range slices.Sorted(maps.Keys(names)) {
		by := names[key]
		one := &Suspended{Key: key, Kind: "entity", At: time.Unix(by.At, 0).UTC(), Note: by.Note, EntityID: by.Subject}
		if id, err := token.ParseID(key); by.Subject == "" && err == nil {
			if st.Revoked(id) {
				continue
			}
			row, _ := st.Inventory.Get(id)
			one.Kind, one.Role, one.EntityID, one.DisplayName = "token", row.Role, row.Subject, row.DisplayName
		}
		if key <= after {
			continue
		}
		if len(list) == limit {
			return list, true, nil
		}
		list = append(list, one)
	}
	return list, false, nil
}

// grantOf returns the grant of a target, and the place in a status list that the token states. did is what was to be done,
// for a refusal.
func grantOf(
	ctx context.Context, s logical.Storage, st *State, t Target, did string,
) (grant token.ID, status token.StatusRef, _ error) {
	if t.Text == "" {
		_, isUpstream, err := st.Upstreams.Find(ctx, t.Grant)
		if err == nil && isUpstream {
			err = notSuspendable("token_id", did)
		}
		return t.Grant, status, err
	}
	f, err := st.find(ctx, s, t.Text)
	switch {
	case foreign(err):
		return grant, status, notFound(err, did, "use the mount that issued the token")
	case keyGone(err):
		if id, ok := token.PlainGrant(t.Text); ok {
			return id, status, nil
		}
		return grant, status, refusal.Field("token", "was %s and is not valid, but its grant is unknown: name the grant by token_id. "+
			"Nothing was %s", err, did)
	case err != nil:
		return grant, status, err
	case f.claims == nil:
		return grant, status, notSuspendable("token", did)
	}
	return f.claims.Grant, f.claims.Status, nil
}

// notSuspendable refuses a token of a service. No provider has an operation that suspends.
func notSuspendable(field, did string) error {
	return refusal.Field(field, "is a token of another service, which cannot be suspended: revoke the token instead. Nothing was %s",
		did)
}

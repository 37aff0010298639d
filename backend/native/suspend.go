package native

import (
	"cmp"
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	maxNote    = 256 // bytes
	maxSubject = 128 // bytes; the ID of a Vault entity has 36
)

// CheckNote refuses a note that is too long, or that contains a token: listings show notes.
func CheckNote(note string) error {
	if len(note) > maxNote {
		return refusal.Field("note", "is %d bytes long, at most %d are allowed", len(note), maxNote)
	}
	for _, c := range note {
		if c < ' ' || c == 0x7f || c == '\uFFFD' {
			return refusal.Field("note", "has a control character or is no UTF-8, only text in one line is allowed")
		}
	}
	if err := token.NoneIn(note); err != nil {
		return refusal.Field("note", "%s", err)
	}
	return nil
}

// CheckSubject refuses text that is no ID of a Vault entity by its size or its bytes.
func CheckSubject(subject string) error {
	switch {
	case subject == "":
		return refusal.Field("subject", "is empty, the ID of a Vault entity is required")
	case len(subject) > maxSubject:
		return refusal.Field("subject", "is %d bytes long, the longest ID of a Vault entity has %d", len(subject), maxSubject)
	case !isPrintable(subject):
		return refusal.Field("subject", "has bytes that are not printable ASCII, the ID of a Vault entity is required")
	}
	return nil
}

// Suspend suspends a grant, and reports whether anything is known of the grant. status is the place of the grant in a
// status list; zero: not known.
func (t *Tokens) Suspend(
	ctx context.Context, s logical.Storage, grant token.ID, status token.StatusRef, note string,
) (known bool, _ error) {
	known, status, err := t.placed(ctx, s, grant, status)
	if err != nil {
		return false, err
	}
	now := t.Now()
	return known, t.Suspensions.SuspendGrant(ctx, s, grant, status, note, now.Add(t.LongestLifetime()), now)
}

// Revoked reports whether a grant was revoked.
func (t *Tokens) Revoked(grant token.ID) bool {
	d, _ := t.Deviations.Get(grant)
	return d.Revoked
}

// CheckSuspended refuses a request for a token by an entity that is suspended.
func (t *Tokens) CheckSuspended(subject string) error {
	if err := t.Suspensions.Unreadable(token.ID{}, subject); err != nil {
		return err
	}
	if t.Suspensions.Subject(subject).Suspended() {
		return refusal.Denied("the Vault entity %q is suspended, and gets no token until an operator resumes the entity", subject)
	}
	return nil
}

// ExplainSuspension says in a sentence what is suspended, the grant or the Vault entity that holds the grant, and returns the
// note of the suspension. Both are empty if nothing is suspended.
func (t *Tokens) ExplainSuspension(grant token.ID, subject string) (what, note string) {
	byGrant, bySubject := t.Suspensions.Grant(grant), t.Suspensions.Subject(subject)
	switch grant, subject := byGrant.Suspended(), bySubject.Suspended(); {
	case grant && subject:
		return "the token is suspended, and so is the Vault entity that requested the token", cmp.Or(byGrant.Note, bySubject.Note)
	case grant:
		return "the token is suspended", byGrant.Note
	case subject:
		return "the Vault entity that requested the token is suspended", bySubject.Note
	}
	return "", ""
}

// IsSuspended reports whether a grant, or the Vault entity that holds the grant, is suspended. An empty subject is none.
func (t *Tokens) IsSuspended(grant token.ID, subject string) bool {
	return t.Suspensions.Grant(grant).Suspended() || t.Suspensions.Subject(subject).Suspended()
}

// SuspensionChanged tells verifiers that a grant or a Vault entity was suspended or resumed.
func (w *World) SuspensionChanged(grant token.ID, subject string, until time.Time) {
	if subject != "" {
		w.Feed.Add(feed.Event{Kind: feed.Subject, ID: subject})
		return
	}
	w.GrantTightened(grant, until)
}

// suspendedIn returns the places of a status list whose tokens are suspended.
func (t *Tokens) suspendedIn(list uint32) []uint32 {
	var places []uint32
	grants, subjects := t.Suspensions.Suspended()
	for _, g := range grants {
		if g.Status.List == list && list != 0 {
			places = append(places, g.Status.Index)
		}
	}
	if len(subjects) == 0 {
		return places
	}
	for row := range t.LiveJWTs(t.Now()) {
		if row.Status.List == list && subjects[row.Subject] {
			places = append(places, row.Status.Index)
		}
	}
	return places
}

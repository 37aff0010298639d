// Package review is who answers for a role, a connection or a static role, and until when somebody must confirm that the
// thing is still needed.
package review

import (
	"strings"
	"time"
	"unicode"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	maxOwner = 256 // bytes
	maxNote  = 512 // bytes
	maxBy    = 256 // bytes

	// DefaultPeriod is the time until the next review if an attestation names no day.
	DefaultPeriod = 90 * 24 * time.Hour
)

// Review is part of a stored entry. The zero Review has no owner, and is never overdue.
type Review struct {
	Owner            string    `json:"owner,omitempty"`     // team or person
	ReviewBy         string    `json:"review_by,omitempty"` // last day in time, as 2006-01-02 in UTC; empty: none
	AttestedAt       time.Time `json:"attested_at,omitzero"`
	AttestedBy       string    `json:"attested_by,omitempty"`        // display name of the Vault token
	AttestedByEntity string    `json:"attested_by_entity,omitempty"` // Vault entity; empty: none
	AttestedNote     string    `json:"attested_note,omitempty"`
}

// Set applies the fields of a request; nil keeps a value.
func (r *Review) Set(owner, reviewBy *string) error {
	if owner != nil {
		if err := check("owner", *owner, maxOwner); err != nil {
			return err
		}
		r.Owner = *owner
	}
	if reviewBy == nil {
		return nil
	}
	if *reviewBy != "" {
		if err := checkDay(*reviewBy); err != nil {
			return err
		}
	}
	r.ReviewBy = *reviewBy
	return nil
}

func check(field, text string, most int) error {
	for _, c := range text {
		if !unicode.IsPrint(c) {
			return refusal.Field(field, "has a character that cannot be printed")
		}
	}
	if text == "..." {
		return refusal.Field(field, `is "...", which stands for a text to choose`)
	}
	if err := token.NoneIn(text); err != nil {
		return refusal.Field(field, "%s", err)
	}
	return refusal.CheckLen(field, text, most)
}

func checkDay(day string) error {
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return refusal.Field("review_by", "%q is not a day such as 2027-03-31", refusal.Clip(day))
	}
	return nil
}

// End returns when a review is overdue: at the end of ReviewBy in UTC. It returns false if there is no day.
func (r *Review) End() (time.Time, bool) {
	day, err := time.Parse(time.DateOnly, r.ReviewBy)
	return day.AddDate(0, 0, 1), err == nil
}

// Overdue reports whether ReviewBy has passed.
func (r *Review) Overdue(now time.Time) bool {
	end, limited := r.End()
	return limited && !now.Before(end)
}

// Warn returns a warning if a request sets a ReviewBy that has passed; nil if the request sets none.
func (r *Review) Warn(reviewBy *string, now time.Time) []string {
	if reviewBy == nil || !r.Overdue(now) {
		return nil
	}
	return []string{"review_by " + r.ReviewBy + " has passed: with enforce_review in config, this entry issues no tokens until " +
		"somebody attests the entry"}
}

// Attestation is a confirmation that an entry is still needed.
type Attestation struct {
	Kind     string  // kind of the entry, in the plural of paths
	Name     string  // of the entry
	By       string  // display name of the Vault token
	Entity   string  // Vault entity; empty: none
	ReviewBy *string `json:"review_by"` // next review; nil: in DefaultPeriod
	Note     *string `json:"note"`
}

// Attest records a confirmation. It refuses a next review in the past.
func (r *Review) Attest(a *Attestation, now time.Time) error {
	now = now.UTC().Truncate(time.Second)
	next := now.Add(DefaultPeriod).Format(time.DateOnly)
	if a.ReviewBy != nil {
		next = *a.ReviewBy
		if err := checkDay(next); err != nil {
			return err
		}
		if next < now.Format(time.DateOnly) {
			return refusal.Field("review_by", "%s has passed", next)
		}
	}
	note := ""
	if a.Note != nil {
		note = *a.Note
		if err := check("note", note, maxNote); err != nil {
			return err
		}
	}
	by := a.By
	if len(by) > maxBy {
		by = strings.ToValidUTF8(by[:maxBy], "")
	}
	r.ReviewBy, r.AttestedAt, r.AttestedBy, r.AttestedByEntity, r.AttestedNote = next, now, by, a.Entity, note
	return nil
}

// Attested returns the last attestation as answers show it; nil if there is none.
func (r *Review) Attested() map[string]any {
	if r.AttestedAt.IsZero() {
		return nil
	}
	last := map[string]any{"at": r.AttestedAt.UTC().Format(time.RFC3339), "by": r.AttestedBy}
	if r.AttestedByEntity != "" {
		last["entity_id"] = r.AttestedByEntity
	}
	if r.AttestedNote != "" {
		last["note"] = r.AttestedNote
	}
	return last
}

// Refuse returns the refusal to issue from an entry whose review is overdue; nil if the review is not overdue. what names
// the entry, path is the path that attests.
func (r *Review) Refuse(what, path string, now time.Time) error {
	if !r.Overdue(now) {
		return nil
	}
	owner := ""
	if r.Owner != "" {
		owner = " by " + r.Owner
	}
	return refusal.Denied("%s was to be reviewed%s until %s, and enforce_review in config is set. If it is still needed: "+
		"vault write -force %s", what, owner, r.ReviewBy, path)
}

package mount

import (
	"context"
	"hash/maphash"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// NoteUse counts an introspection of the text of a token. Only the active node calls NoteUse.
func (m *Mount) NoteUse(v *native.Verdict, use *access.Use, text string) {
	if v.Claims == nil {
		m.Usage.Refused(use.ClientIP, max(uint32(maphash.String(textSeed, text)>>32), 1), 1)
		if v.Reason == access.WrongEnvironment {
			m.Detect.Foreign(use.ClientIP)
		}
		return
	}
	if v.Use != nil {
		use = v.Use // with the region of the address
	}
	m.Usage.Introspected(v.Claims.Grant, v.Claims.ExpiresAt, v.Life.ExpiresAt, use, v.Reason)
}

// textSeed makes hashes that tell unknown tokens apart, and from which nobody can find a token.
var textSeed = maphash.MakeSeed()

// listedUntil returns until when the inventory has a token, without renewals.
func (m *Mount) listedUntil(id token.ID) (time.Time, bool) {
	st := m.Loaded()
	if st == nil {
		return time.Time{}, false
	}
	return st.Inventory.End(id)
}

// UsageFilter selects tokens by their last use. A request has at most one of the fields.
type UsageFilter struct {
	UnusedFor *time.Duration `json:"unused_for"` // since the last use, or since the issue of a token that was never used
	UsedSince *time.Time     `json:"used_since"`
}

// keep returns which tokens of the inventory a filter keeps; nil: all.
func (m *Mount) keep(ctx context.Context, f *UsageFilter) (func(token.ID, time.Time) bool, error) {
	switch {
	case f.UnusedFor == nil && f.UsedSince == nil:
		return nil, nil
	case f.UnusedFor != nil && f.UsedSince != nil:
		return nil, refusal.New("give either unused_for or used_since")
	}
	if err := m.Usage.Refresh(ctx); err != nil {
		return nil, err
	}
	now := m.now()
	return func(id token.ID, issuedAt time.Time) bool {
		last, used := m.Usage.LastUse(id)
		if f.UsedSince != nil {
			return used && !last.Before(f.UsedSince.Truncate(time.Second))
		}
		if !used {
			last = issuedAt
		}
		return now.Sub(last) >= *f.UnusedFor
	}, nil
}

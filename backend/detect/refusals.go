package detect

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Reasons of verifiers that say that the proof of a token's key failed. A verifier refuses with use_dpop_nonce to ask for
// another proof: that is no misuse.
const (
	proofRequired access.Reason = "proof_required"
	proofInvalid  access.Reason = "proof_invalid"
	proofReplayed access.Reason = "proof_replayed"
)

// refused evaluates the rules about refusals. A suspended token is refused because an operator or a rule has stopped the
// token: a response to such refusals could revoke what a resume is to revive.
func (d *Detector) refused(s *sight) {
	var total uint64
	var most *Refusals
	for i := range s.seen.Refusals {
		r := &s.seen.Refusals[i]
		if r.Count == 0 || r.Reason == access.Suspended {
			continue
		}
		total += uint64(r.Count)
		if most == nil || r.Count > most.Count {
			most = r
		}
		switch r.Reason {
		case access.Expired, access.Revoked, access.RoleDeleted, access.SubjectDisabled:
			d.ended(s, r)
		case proofRequired, proofInvalid, proofReplayed:
			d.unproven(s, r)
		}
	}
	if total == 0 {
		return
	}
	d.burst(s, most.Reason, total)
	if s.seen.Uses == 0 && s.seen.Address.IsValid() {
		d.guessed(s.seen.Address, hashID(s.id), total, s.at, s.Settings)
	}
}

// burst finds many refusals in a short time.
func (d *Detector) burst(s *sight, reason access.Reason, n uint64) {
	before, after := s.token.refused.add(s.at, s.numbers[burstWindow], n)
	limit := uint64(s.numbers[burstRefusals]) //nolint:gosec // at least 2
	if before >= limit || after < limit || !s.on(RefusedBurst) {
		return
	}
	d.raise(s.key(RefusedBurst, string(reason)), s.at, 1, func(f *Finding) {
		f.Severity = Medium
		f.Numbers = numbers{"refusals": float64(after), "allowed_refusals": float64(limit - 1),
			"window_seconds": s.limit(burstWindow)}
		f.Summary = fmt.Sprintf("the token was refused %d times within %s, at last as %s, allowed are %d", after,
			s.span(burstWindow), reason, limit-1)
		d.witness(f, s, nil)
	})
}

// ended finds a token that is still shown long after its first refusal for an end. A client that wakes up may show an expired
// token once or twice.
func (d *Detector) ended(s *sight, r *Refusals) {
	if s.token.ended == 0 {
		s.token.ended = d.ends.first(s.id, s.at)
	}
	end := s.token.ended
	late := since(end, s.at)
	if int64(late) < s.numbers[endedFor] || !s.on(UsedAfterEnd) {
		return
	}
	if r.Reason == access.Expired && !s.seen.EndedAt.IsZero() {
		late = max(late, since(seconds(s.seen.EndedAt), s.at))
	}
	d.raise(s.key(UsedAfterEnd, string(r.Reason)), s.at, uint64(r.Count), func(f *Finding) {
		f.Severity = Medium
		f.Numbers = numbers{"seconds_after_end": float64(late), "allowed_seconds": s.limit(endedFor)}
		f.Summary = fmt.Sprintf("the token is %s, and is still being shown %s later, allowed are %s", r.Reason, span(late),
			s.span(endedFor))
		d.witness(f, s, nil)
	})
}

// unproven finds a token that is shown without a good proof of its key.
func (d *Detector) unproven(s *sight, r *Refusals) {
	if !s.on(ProofFailed) {
		return
	}
	d.raise(s.key(ProofFailed, string(r.Reason)), s.at, uint64(r.Count), func(f *Finding) {
		f.Severity = High
		f.Numbers = numbers{"allowed_refusals": 0}
		f.Summary = fmt.Sprintf("the token is bound to a key, and was shown without a good proof of the key: %s", r.Reason)
		d.witness(f, s, nil)
	})
}

// Unknown evaluates refused tokens that nobody can attribute to a grant, from one address. text is a hash of the token; 0:
// not known.
func (d *Detector) Unknown(client netip.Addr, text uint32, n uint64) {
	if client.IsValid() && n > 0 {
		d.guessed(client, text, n, seconds(d.Now()), d.Settings())
	}
}

// Foreign evaluates a token of another mount.
func (d *Detector) Foreign(client netip.Addr) {
	s := d.Settings()
	if !s.on(WrongEnvironment) {
		return
	}
	k, at := key{rule: WrongEnvironment}, seconds(d.Now())
	if client.IsValid() {
		k.address = client.Unmap().WithZone("")
	}
	d.raise(k, at, 1, func(f *Finding) {
		f.Severity = Medium
		f.Numbers = numbers{"allowed_uses": 0}
		f.Summary = "a token was shown that this mount did not issue: a client has the token of another environment, or the " +
			"token is forged"
		f.Evidence = []Sight{sightOf(at, client, "", 0, nil)}
	})
}

// RefreshReused evaluates the reuse of a refresh token of a grant. The engine has revoked the grant. client is the address
// of the request, as Vault states the address; empty: not known.
func (d *Detector) RefreshReused(grant token.ID, role, subject, client string) {
	s := d.Settings()
	if !s.on(RefreshReuse) {
		return
	}
	at := seconds(d.Now())
	addr, _ := access.ParseClientIP(client)
	d.raise(key{rule: RefreshReuse, token: grant}, at, 1, func(f *Finding) {
		f.Severity = High
		f.TokenID, f.Role, f.EntityID, f.Response = grant.String(), role, subject, Revoked
		f.Numbers = numbers{"allowed_reuses": 0}
		f.Summary = "a refresh token was used that was used before: one of its two holders has stolen the token. The engine " +
			"has revoked the grant"
		f.Evidence = []Sight{sightOf(at, addr, "", 0, nil)}
	})
}

// guessed counts refused tokens of an address, and finds an address that guesses.
func (d *Detector) guessed(client netip.Addr, text uint32, n uint64, at uint32, s *Settings) {
	if !s.on(Guessing) || s.within(client) {
		return
	}
	g := d.addresses.refused(client, text, n, at, s)
	if g == nil {
		return
	}
	d.raise(key{rule: Guessing, address: g.address}, at, 1, func(f *Finding) {
		f.Severity = High
		f.Numbers = numbers{
			"refusals": float64(g.refusals), "failed_percent": g.failed, "tokens": float64(g.tokens),
			"threshold_refusals": float64(g.limit),
			"window_seconds":     float64(g.window),
		}
		tokens := fmt.Sprintf("%d different tokens", g.tokens)
		switch {
		case g.untold:
			tokens = "tokens that the verifier did not tell apart"
		case g.tokens >= maxRefusedTokens:
			tokens = fmt.Sprintf("at least %d different tokens", g.tokens)
		}
		f.Summary = fmt.Sprintf("%s: %d refusals of %s within %s came from the address, %.0f %% of its uses; the rule begins "+
			"at %d refusals",
			g.kind, g.refusals, tokens, short(time.Duration(g.window)*time.Second), g.failed, g.limit)
		f.Evidence = []Sight{sightOf(at, client, "", 0, nil)}
	})
}

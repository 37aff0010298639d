package verify

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	feedOut    = 10 * time.Second // polls have failed for so long: the feed is out of reach
	outMaxAge  = 5 * time.Second  // how long an answer is kept then
	clockSlack = time.Second      // a time that is later than now by more is of before the clock stepped back
	maxAttempt = 3                // questions to Vault about one use, if events overtake the answers
)

var errNoAnswer = errors.New("no answer about the token is newer than the events of the feed")

func (v *impl) check(ctx context.Context, text string, use *Use) (Decision, error) {
	now := v.config.Now()
	if text == "" {
		return Decision{Reason: Missing, Detail: "the request has no token"}, nil
	}
	if len(text) > token.MaxLen {
		return Decision{Reason: access.Malformed, Detail: "this is not a token: it is too long"}, nil
	}
	jwt := token.IsJWT(text)
	var lately *facts
	if jwt {
		if lately = v.recent.get(text); lately != nil && v.usable(lately, now) {
			return v.decide(lately, text, use, now)
		}
	}
	sum := v.digests.sum(text)
	f, _ := v.tokens.GetIfPresent(sum)
	if f == nil {
		f = lately
	}
	if f != nil && v.usable(f, now) {
		if jwt {
			v.recent.put(text, f)
		}
		return v.decide(f, text, use, now)
	}
	is, err := v.learn(ctx, &question{sum: sum, text: text, before: f, proven: f != nil, client: clientOf(use)}, now)
	switch {
	case err != nil:
		return Decision{}, err
	case is.retry > 0:
		return Decision{Reason: RateLimited, RetryAfter: is.retry, Detail: "too many tokens that are not known were shown"}, nil
	case is.refusal != nil:
		r := is.refusal
		v.usage.refused(r, clientOf(use))
		d := Decision{Reason: r.reason, Detail: r.detail, TokenID: r.id, Role: r.role}
		d.GrantID, _, _ = strings.Cut(r.id, ".")
		return d, nil
	}
	return v.decide(is.facts, text, use, now)
}

// printable reports whether a text has only bytes that a token may have: Vault answers an error to others.
func printable(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// usable reports whether facts may be used without a question to anybody.
func (v *impl) usable(f *facts, now time.Time) bool {
	if !f.local() {
		return v.fresh(f, now)
	}
	if v.keys.tooOld(now) {
		return false
	}
	reason, err := f.state(now)
	return err == nil && reason == access.Good && !v.events.concern(f, v.config.ClockSkew)
}

// fresh reports whether an answer of Vault may still be used.
func (v *impl) fresh(f *facts, now time.Time) bool {
	maxAge := v.config.MaxAge
	if v.feedIsOut(now) {
		maxAge = min(maxAge, outMaxAge)
	}
	age := time.Duration(now.UnixNano() - f.learned)
	return age < maxAge && age > -clockSlack && !v.events.concern(f, v.config.ClockSkew)
}

// feedIsOut reports whether the feed is out of reach. A poll in the future is one of before the clock stepped back: nobody
// knows how long ago that was.
func (v *impl) feedIsOut(now time.Time) bool {
	return outOfReach(v.feedAge(now))
}

func outOfReach(age time.Duration) bool { return age > feedOut || age < -clockSlack }

func (v *impl) feedAge(now time.Time) time.Duration {
	return time.Duration(now.UnixNano() - v.events.polled.Load())
}

// state returns why a JWT is not good, as far as its key and its status list say, or access.Good.
func (f *facts) state(now time.Time) (access.Reason, error) {
	if f.key.gone.Load() {
		return access.Revoked, nil
	}
	if f.list == nil {
		return access.Good, nil
	}
	return f.list.status(f.place, now)
}

// learn finds out what a text is.
func (v *impl) learn(ctx context.Context, q *question, now time.Time) (found, error) {
	if !printable(q.text) {
		return found{refusal: refuse(access.Malformed, "this is not a token: it has a space or a control character")}, nil
	}
	if r, _ := v.refusals.GetIfPresent(q.sum); r != nil && r.holds(now) {
		return found{refusal: r}, nil
	}
	if token.IsJWT(q.text) {
		is, concerned, err := v.learnJWT(ctx, q, now)
		if err != nil || !concerned {
			return is, err
		}
		q.proven = true
	} else if !token.Checksum(q.text) {
		return v.refused(q.sum, refuse(access.Malformed, access.Explain(access.Malformed, nil, nil)), now), nil
	}
	if v.vault == nil {
		return found{refusal: refuse(access.WrongEnvironment, "opaque tokens cannot be checked here: Config.Vault is not set")}, nil
	}
	for range maxAttempt {
		is, err := v.ask(ctx, q)
		if errors.Is(err, errPosition) {
			continue
		}
		if err != nil || is.facts == nil || !v.events.concern(is.facts, v.config.ClockSkew) {
			return is, err
		}
		q.proven = true
	}
	return found{}, errNoAnswer
}

func clientOf(use *Use) netip.Addr {
	if use == nil {
		return netip.Addr{}
	}
	return use.Client
}

// refused keeps a refusal, so that the same text is refused at less cost.
func (v *impl) refused(sum digest, r *refusal, now time.Time) found {
	r.until = now.Add(refusalAge).UnixNano()
	v.refusals.Set(sum, r)
	return found{refusal: r}
}

// learnJWT finds out what a JWT is, without Vault. concerned is true for a good JWT about which the feed has said
// something: only Vault knows what the JWT is now.
func (v *impl) learnJWT(ctx context.Context, q *question, now time.Time) (is found, concerned bool, err error) {
	if v.issuer.get() == "" {
		return found{refusal: refuse(access.WrongEnvironment, "the mount has no issuer, and no JWTs")}, false, nil
	}
	f, no, err := v.openJWT(ctx, q.text, now)
	switch {
	case err != nil:
		return found{}, false, err
	case no != nil:
		return v.refused(q.sum, no, now), false, nil
	}
	f.meter.Store(v.meterOf(f, q.before))
	reason, err := f.state(now)
	concerned = v.events.concern(f, v.config.ClockSkew)
	switch {
	case err != nil:
		return found{}, false, err
	case reason != access.Good && (reason != access.Suspended || !concerned || v.vault == nil):
		no := &refusal{reason: reason, detail: access.Explain(reason, nil, nil), id: f.id(), role: f.terms.role}
		return v.refused(q.sum, no, now), false, nil
	case concerned: // a suspended token may have been resumed since the list was made
		return found{}, true, nil
	}
	v.tokens.Set(q.sum, f)
	return found{facts: f}, false, nil
}

// decide decides on a use of a token by its facts, and counts the use.
func (v *impl) decide(f *facts, text string, use *Use, now time.Time) (Decision, error) {
	if use == nil {
		use = &Use{}
	}
	d := Decision{
		TokenID: f.id(), GrantID: f.grant(), Role: f.terms.role, Subject: f.subject(), Scopes: f.terms.permissions.Scopes,
		ExpiresAt: time.Unix(f.expires, 0), Environment: f.terms.environment, Metadata: f.terms.metadata,
	}
	state := access.State{ExpiresAt: d.ExpiresAt}
	if d.Reason = state.Alive(now); d.Reason != access.Good {
		d.Detail = access.Explain(d.Reason, nil, nil)
	} else if v.config.Environment != "" && d.Environment != v.config.Environment {
		d.Reason, d.Detail = access.WrongEnvironment, "the token is of environment "+d.Environment
	} else if err := v.prove(f, text, use, now, &d); err != nil {
		return Decision{}, err
	}
	if d.Reason == access.Good {
		v.permit(f, state, use, now, &d)
	}
	if d.Reason == access.Good {
		v.limit(f, now, &d)
	}
	d.Allowed = d.Reason == access.Good
	v.count(f, use, now, d.Reason)
	return d, nil
}

// permit decides on audience, scopes, address, region and host.
func (v *impl) permit(f *facts, state access.State, use *Use, now time.Time, d *Decision) {
	u := access.Use{
		Scopes: use.Scopes, Audience: use.Audience, ClientIP: use.Client, Region: v.regionOf(f, use), Host: v.hostOf(f, use),
	}
	if u.Audience == "" {
		u.Audience = v.config.Audience
	}
	if d.Reason = access.Decide(now, state, &f.terms.permissions, &u); d.Reason != access.Good {
		d.Detail = explain(d.Reason, &f.terms.permissions, u)
	} else if len(v.hosts) > 0 && !v.hosts.Contains(u.Host) {
		d.Reason, d.Detail = access.HostNotAllowed, "the API does not answer for this host"
	}
}

// explain takes a copy of the use: access.Explain would move every use to the heap.
func explain(reason access.Reason, p *access.Permissions, u access.Use) string {
	return access.Explain(reason, p, &u)
}

// hostOf returns the host of a use, if the API or the token is bound to hosts.
func (v *impl) hostOf(f *facts, use *Use) string {
	if len(v.hosts) == 0 && !f.terms.hosts {
		return ""
	}
	host := use.Host
	if !plainHost(host) {
		var err error
		if host, err = access.ParseHost(host); err != nil {
			host = ""
		}
	}
	return host
}

// regionOf returns the region of a use, if the token is bound to regions. A region that cannot be read is not known.
func (v *impl) regionOf(f *facts, use *Use) string {
	if !f.terms.regions {
		return ""
	}
	region := use.Region
	if region == "" && v.config.GeoIP != nil && use.Client.IsValid() {
		region = v.config.GeoIP(use.Client)
	}
	if _, err := access.ParseRegion(region); err != nil {
		return ""
	}
	return region
}

// plainHost reports whether ParseHost would return a host as it is.
func plainHost(host string) bool {
	if host == "" || host[len(host)-1] == '.' || host[0] == '.' || len(host) > 253 {
		return false
	}
	for _, c := range []byte(host) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

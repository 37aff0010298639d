package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/rules"
)

// handle reads a request, decides, counts and logs.
func (s *Server) handle(ctx context.Context, k *kind, read func() (*Request, *problem)) *Answer {
	start := time.Now()
	r, p := read()
	end := func(*Answer) {}
	if s.tracer != nil {
		ctx, end = s.trace(ctx, k, r, start)
	}
	var a *Answer
	if p != nil {
		a = s.refuse(p)
	} else {
		r.Gateway = k.name
		if a = s.decide(ctx, r); a == &r.answer {
			a.request = r
		}
	}
	end(a)
	s.record(k, r, a, start)
	return a
}

// decide decides on a request. Nothing of the decision is kept. The answer is part of the request.
func (s *Server) decide(ctx context.Context, r *Request) *Answer {
	if p := r.parse(); p != nil {
		return s.refuse(p)
	}
	found, p := inspect(r.Header)
	if p != nil {
		return s.refuse(p)
	}
	if p := s.inspectIdentity(r, &found); p != nil {
		return s.refuse(p)
	}
	set := s.rules.Load()
	rule := set.Match(r.host, r.Method, &r.target)
	if rule == nil {
		return s.refuse(&problem{http.StatusForbidden, reasonNoRule, set.Unmatched(r.host, r.Method, &r.target)})
	}
	var a *Answer
	if rule.Public {
		a = s.public(r, rule)
	} else {
		a = s.protected(ctx, r, rule)
	}
	a.Rule = rule
	a.Remove = found.aliases
	return a
}

// inspectIdentity counts the identity headers of the client. Their usual spelling is overwritten by the gateway. Only Envoy
// can be told to remove other spellings.
func (s *Server) inspectIdentity(r *Request, found *sent) *problem {
	if n := len(found.identity) + len(found.aliases); n > 0 {
		s.metrics.identity.WithLabelValues(r.Gateway).Add(float64(n))
	} else {
		return nil
	}
	switch {
	case s.settings.IdentityHeaders == "refuse":
		return bad(reasonIdentity, "the client sent an identity header")
	case len(found.aliases) > 0 && r.Gateway != "envoy":
		return bad(reasonIdentity, "the client sent another spelling of an identity header, which the gateway does not strip")
	}
	return nil
}

// public decides by a rule that needs no token.
func (s *Server) public(r *Request, rule *rules.Rule) *Answer {
	if wait := s.limits.take(rule, "", r.Client); wait > 0 {
		return s.limited(wait)
	}
	r.answer = Answer{Allowed: true, Status: http.StatusOK}
	return &r.answer
}

// protected decides by a rule that needs a token.
func (s *Server) protected(ctx context.Context, r *Request, rule *rules.Rule) *Answer {
	c, p := readCredentials(r)
	if p != nil {
		a := s.refuse(p)
		if p.reason == reasonMissing {
			verify.Decision{Reason: verify.Missing}.SetHeaders(a.header(), nil)
		}
		return a
	}
	r.use = verify.Use{
		Scopes: rule.Scopes, Audience: rule.Audience, Method: r.Method, Host: r.host, Client: r.Client,
		Scheme: c.scheme, Proofs: c.proofs, Certificate: r.Certificate,
	}
	if len(c.proofs) > 0 {
		r.use.URL = r.url()
	}
	var err error
	a := &r.answer
	a.Decision, err = s.checker.Check(ctx, c.token, &r.use)
	d := &a.Decision
	a.Reason, a.Detail, a.secret = d.Reason, d.Detail, c.token
	switch {
	case err != nil:
		a.Status, a.Reason, a.Detail = http.StatusServiceUnavailable, reasonNoDecision, "no decision can be made"
		a.set("Retry-After", "1")
		if !errors.Is(err, context.Canceled) {
			s.logger.Warn("token not checked; request refused", "gateway", r.Gateway, "error", redact(err.Error(), c.token))
		}
		return a
	case !d.Allowed:
		a.Status = d.Status()
	default:
		if wait := s.limits.take(rule, d.TokenID, r.Client); wait > 0 {
			limited := s.limited(wait)
			limited.Decision, limited.secret = *d, c.token
			return limited
		}
		a.Allowed, a.Status, a.Reason = true, http.StatusOK, ""
	}
	if !d.Allowed || d.Nonce != "" || d.Limit != nil {
		d.SetHeaders(a.header(), rule.Scopes)
	}
	return a
}

func (s *Server) refuse(p *problem) *Answer {
	return &Answer{Status: p.status, Reason: p.reason, Detail: p.detail}
}

func (s *Server) limited(wait time.Duration) *Answer {
	a := &Answer{Status: http.StatusTooManyRequests, Reason: reasonLimited, Detail: "over the rate of the rule"}
	a.set("Retry-After", seconds(wait))
	return a
}

// seconds returns a delay for Retry-After (RFC 9110 section 10.2.3), at least one second.
func seconds(d time.Duration) string {
	return strconv.Itoa(int(max(1, (d+time.Second-1)/time.Second)))
}

// redact removes the token from a text.
func redact(text, token string) string {
	if token == "" {
		return text
	}
	return strings.ReplaceAll(text, token, "[token]")
}

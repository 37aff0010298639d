package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Explain writes what the authorizer would answer to a request of a client, and why. Explain asks the engine about the token
// as a gateway's question would. An empty token stands for a request without one.
func (s *Server) Explain(ctx context.Context, w io.Writer, method, address, client, token string) error {
	r, err := request(method, address, client)
	if err != nil {
		return err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	a := s.decide(ctx, r)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", name, redact(fmt.Sprintf(format, args...), a.secret))
	}
	line("request", "%s %s from %s", r.Method, address, r.Client)
	if a.Rule == nil {
		line("rule", "none")
	} else {
		line("rule", "%s", a.Rule.Name)
		switch {
		case a.Rule.Public:
			line("requires", "nothing: the rule is public")
		case len(a.Rule.Scopes) == 0:
			line("requires", "any token")
		default:
			line("requires", "scopes %s", strings.Join(a.Rule.Scopes, " "))
		}
		if a.Rule.Audience != "" {
			line("audience", "%s", a.Rule.Audience)
		}
	}
	if d := &a.Decision; d.TokenID != "" {
		line("token_id", "%s", d.TokenID)
		line("role", "%s", d.Role)
		line("subject", "%s", safe(d.Subject))
		line("grants", "%s", d.Scopes.Parameter())
		if !d.ExpiresAt.IsZero() {
			line("expires", "%s", d.ExpiresAt.UTC().Format(time.RFC3339))
		}
	}
	if a.Allowed {
		line("decision", "allowed")
		return nil
	}
	line("decision", "refused, status %d", a.Status)
	line("reason", "%s", a.Reason)
	line("detail", "%s", a.Detail)
	return nil
}

// request returns the request of a client that asks for a URL.
func request(method, address, client string) (*Request, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%q is not a URL with a host, such as https://api.example.com/orders", address)
	}
	addr, ok := parseAddr(client)
	if !ok {
		return nil, fmt.Errorf("%q is not the address of a client, such as 10.1.2.3", client)
	}
	// The target is as typed: url.Parse has not changed what follows the host.
	_, rest, _ := strings.Cut(address, "://")
	target := "/"
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		target = rest[i:]
	}
	return &Request{
		Gateway: "explain", Method: method, Target: target, Scheme: u.Scheme, Host: u.Host,
		Client: netip.Addr(addr), Header: http.Header{},
	}, nil
}

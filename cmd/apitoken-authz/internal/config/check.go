package config

import (
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/rules"
)

// check reports what is wrong with a file, fills in defaults, and compiles the rules.
func (f *File) check(d *document) {
	f.checkListen(d)
	f.checkGateways(d)
	f.checkVault(d)
	f.checkFeed(d)
	f.checkScanner(d)
	f.checkLog(d)
	f.checkRules(d)
}

func (f *File) checkListen(d *document) {
	for _, l := range []struct{ name, address string }{{"http", f.Listen.HTTP}, {"grpc", f.Listen.GRPC}, {"admin", f.Listen.Admin}} {
		if l.address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(l.address); err != nil {
			d.fail(at{"listen", l.name}, "%q is not an address with a port, such as 127.0.0.1:9191", l.address)
		}
	}
	byHTTP := slices.ContainsFunc(f.Gateways, func(kind string) bool { return kind != "envoy" })
	switch {
	case f.Serves("envoy") && f.Listen.GRPC == "":
		d.fail(at{"listen", "grpc"}, `is required for gateway "envoy"`)
	case !f.Serves("envoy") && f.Listen.GRPC != "":
		d.fail(at{"listen", "grpc"}, `is only for gateway "envoy", which gateways does not list`)
	}
	switch {
	case byHTTP && f.Listen.HTTP == "":
		d.fail(at{"listen", "http"}, "is required for gateways %q", f.Gateways)
	case !byHTTP && f.Listen.HTTP == "" && f.Listen.Admin == "":
		d.fail(at{"listen", "admin"}, "is required where listen.http is not set: it serves /healthz and /metrics")
	}
	if f.TLS != nil && (f.TLS.Certificate == "" || f.TLS.Key == "") {
		d.fail(at{"tls"}, "certificate and key are both required")
	}
}

func (f *File) checkGateways(d *document) {
	if len(f.Gateways) == 0 {
		d.fail(at{"gateways"}, "is required: the kinds of gateways that ask, of %s", strings.Join(Kinds, ", "))
	}
	for i, kind := range f.Gateways {
		switch {
		case !slices.Contains(Kinds, kind):
			d.fail(at{"gateways", i}, "%q is not a kind of gateway: want one of %s", kind, strings.Join(Kinds, ", "))
		case slices.Contains(f.Gateways[:i], kind):
			d.fail(at{"gateways", i}, "%q is listed twice", kind)
		}
	}
	f.checkCertificates(d)
	addresses := f.GatewayAddresses
	if len(addresses) == 0 && (f.TLS == nil || f.TLS.ClientCA == "") {
		addresses = []string{"127.0.0.0/8", "::1"}
	}
	f.gateways = parseProxies(d, "gateway_addresses", addresses)
	f.proxies = parseProxies(d, "trusted_proxies", f.TrustedProxies)
	switch f.IdentityHeaders {
	case "":
		f.IdentityHeaders = "strip"
	case "strip", "refuse":
	default:
		d.fail(at{"identity_headers"}, "%q is not known: want strip or refuse", f.IdentityHeaders)
	}
}

// parseProxies parses the addresses of a field. An error names the address that is wrong, or the field.
func parseProxies(d *document, field string, list []string) []netip.Prefix {
	all, err := verify.ParseProxies(list)
	if err == nil {
		return all
	}
	for i, s := range list {
		if _, err := verify.ParseProxies([]string{s}); err != nil {
			d.fail(at{field, i}, "%v", err)
			return nil
		}
	}
	d.fail(at{field}, "%v", err)
	return nil
}

// maxProofs is the largest number of proofs that the library remembers.
const maxProofs = 10_000_000

func (f *File) checkVault(d *document) {
	switch {
	case f.Vault == nil && f.Issuer == "":
		d.fail(at{"vault"}, "vault or issuer is required")
	case f.Vault != nil:
		ways := 0
		for _, set := range []bool{f.Vault.TokenFile != "", f.Vault.AppRole != nil, f.Vault.Kubernetes != nil, f.Vault.JWT != nil} {
			if set {
				ways++
			}
		}
		if ways != 1 {
			d.fail(at{"vault"}, "want exactly one of token_file, approle, kubernetes and jwt, not %d", ways)
		}
		if err := verify.CheckVaultAddress(f.Vault.Address); err != nil {
			d.fail(at{"vault", "address"}, "%v", err)
		}
	}
	if f.Issuer != "" && !strings.HasPrefix(f.Issuer, "https://") && !strings.HasPrefix(f.Issuer, "http://") {
		d.fail(at{"issuer"}, "%q is not a URL such as https://vault.example.com:8200/v1/apitoken", f.Issuer)
	}
	if f.Audience == "" && !f.AnyAudience {
		d.fail(at{"audience"}, "is required: the audience of the API, as in the roles. any_audience: true accepts tokens without one")
	}
	for i, host := range f.Hosts {
		if _, err := access.ParseHosts([]string{host}); err != nil {
			d.fail(at{"hosts", i}, "%v", err)
		}
	}
	for _, v := range []struct {
		place at
		value time.Duration
		most  time.Duration
	}{
		{at{"clock_skew"}, f.ClockSkew, 5 * time.Minute},
		{at{"max_age"}, f.MaxAge, time.Minute},
		{at{"dpop", "max_age"}, f.DPoP.MaxAge, 10 * time.Minute},
	} {
		if v.value < 0 || v.value > v.most {
			d.fail(v.place, "must be between 0s and %s", v.most)
		}
	}
	if f.DPoP.MaxProofs < 0 || f.DPoP.MaxProofs > maxProofs {
		d.fail(at{"dpop", "max_proofs"}, "must be between 0 and %d; 0 stands for the default of 1000000", maxProofs)
	}
	if f.MaxTokens < 0 {
		d.fail(at{"max_tokens"}, "must not be negative")
	}
}

func (f *File) checkFeed(d *document) {
	if (f.FeedFrom != nil || f.Relay != nil) && f.Vault == nil {
		d.fail(at{"vault"}, "is required with feed_from and relay: only Vault knows the tokens that the feed is about")
	}
	if f.FeedFrom != nil && f.FeedFrom.URL == "" {
		d.fail(at{"feed_from", "url"}, "is required, such as https://authz.example.com:9193/feed")
	}
	r := f.Relay
	if r == nil {
		return
	}
	if _, _, err := net.SplitHostPort(r.Listen); err != nil {
		d.fail(at{"relay", "listen"}, "%q is not an address with a port, such as 10.0.0.5:9193", r.Listen)
	}
	if r.Certificate == "" || r.Key == "" || r.ClientCA == "" {
		d.fail(at{"relay"}, "certificate, key and client_ca are required: other authorizers show a certificate")
	}
}

func (f *File) checkLog(d *document) {
	if f.Log.Level == "" {
		f.Log.Level = "info"
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, f.Log.Level) {
		d.fail(at{"log", "level"}, "%q is not a level: want debug, info, warn or error", f.Log.Level)
	}
	if f.Log.Access == "" {
		f.Log.Access = "all"
	}
	if !slices.Contains([]string{"all", "refused", "none"}, f.Log.Access) {
		d.fail(at{"log", "access"}, "%q is not known: want all, refused or none", f.Log.Access)
	}
}

func (f *File) checkRules(d *document) {
	if len(f.Rules) == 0 {
		d.fail(at{"rules"}, "is required: a request that no rule matches is refused")
	}
	var list []*rules.Rule
	names := map[string]int{}
	for i := range f.Rules {
		place := at{"rules", i}
		r := f.Rules[i].compile(d, place)
		if first, taken := names[r.Name]; taken && f.Rules[i].Name != "" {
			d.fail(append(place, "name"), "%q is the name of rules[%d] as well", r.Name, first)
		}
		names[r.Name] = i
		for j, earlier := range list {
			if earlier.Everything() {
				d.fail(place, "is never reached: rules[%d] matches every request", j)
			}
		}
		list = append(list, r)
	}
	f.set = rules.NewSet(list)
}

var methodName = regexp.MustCompile(`^[A-Z][A-Z0-9_-]{0,31}$`)

// any is the explicit word for "every host" and "every method".
const anyWord = "*"

func (r *Rule) compile(d *document, place at) *rules.Rule {
	in := func(steps ...any) at { return append(slices.Clone(place), steps...) }
	c := &rules.Rule{Name: r.Name, AllowEncodedSlash: r.AllowEncodedSlash, Public: r.Public, Scopes: r.Scopes, Audience: r.Audience}
	if c.Name == "" && len(r.Paths) > 0 {
		c.Name = r.Paths[0]
	}
	for _, list := range []struct {
		name string
		len  int
	}{{"hosts", len(r.Hosts)}, {"methods", len(r.Methods)}, {"paths", len(r.Paths)}} {
		if list.len == 0 {
			d.fail(in(list.name), `is required; ["*"] stands for all hosts or methods, "/**" for all paths`)
		}
	}
	if !slices.Equal(r.Hosts, []string{anyWord}) {
		hosts, err := access.ParseHosts(r.Hosts)
		if err != nil {
			d.fail(in("hosts"), "%v", err)
		}
		c.Hosts = hosts
	}
	if !slices.Equal(r.Methods, []string{anyWord}) {
		for i, method := range r.Methods {
			if !methodName.MatchString(method) {
				d.fail(in("methods", i), "%q is not a method in capital letters, such as GET", method)
			}
		}
		c.Methods = r.Methods
	}
	for i, path := range r.Paths {
		pattern, err := rules.ParsePattern(path)
		if err != nil {
			d.fail(in("paths", i), "%q %v", path, err)
		}
		c.Paths = append(c.Paths, pattern)
	}
	r.checkNeeds(d, in)
	var err error
	if c.Rate, err = access.ParseRate(r.Rate); err != nil {
		d.fail(in("rate"), "%v", err)
	}
	return c
}

// checkNeeds checks what the rule requires of a token.
func (r *Rule) checkNeeds(d *document, in func(...any) at) {
	switch {
	case r.Public && (len(r.Scopes) > 0 || r.Audience != "" || r.AnyToken):
		d.fail(in("public"), "a public rule looks at no token: it cannot have scopes, audience or any_token")
	case r.AnyToken && len(r.Scopes) > 0:
		d.fail(in("any_token"), "scopes are required as well: leave out one of them")
	case !r.Public && !r.AnyToken && len(r.Scopes) == 0:
		d.fail(in(), "want scopes, or any_token: true, or public: true")
	}
	if _, err := access.ParseScopes(r.Scopes); err != nil {
		d.fail(in("scopes"), "%v", err)
	}
	for i, scope := range r.Scopes {
		if strings.HasSuffix(scope, "*") {
			d.fail(in("scopes", i), "%q is a pattern: a rule requires single scopes", scope)
		}
	}
	if r.Audience != "" {
		if _, err := access.ParseAudience([]string{r.Audience}); err != nil {
			d.fail(in("audience"), "%v", err)
		}
	}
}

// Package verifytest has an issuer in the process of a test, so that API owners test their code without Vault: it serves
// the paths of the engine that package verify uses, with tokens of any kind.
package verifytest

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

// The names of the issuer, as its tokens and Config have them.
const (
	Environment = "test"
	Audience    = "https://api.test"
	VaultToken  = "verifytest-vault-token"
	mount       = "/v1/apitoken"
	statusList  = 7
	listTTL     = time.Minute
)

// Token says what to issue. The zero Token grants nothing, for the audience Audience, for an hour.
type Token struct {
	Role      string // empty: "test"
	Scopes    []string
	Audience  []string // nil: Audience
	Subject   string   // Vault entity
	TTL       time.Duration
	CIDRs     []string // token_bound_cidrs
	Regions   []string // bound_regions
	Hosts     []string // bound_hosts
	Metadata  map[string]string
	JKT, X5T  string // thumbprint of the key that the token is bound to
	NoList    bool   // a JWT without a place in the status list
	RateLimit string // such as 100/1m
}

// Issuer is a mount of the engine as its verifiers see it. It is safe for concurrent use.
type Issuer struct {
	URL     string // of the mount; the "iss" of JWTs until SetIssuer
	address string // of Vault
	client  *http.Client

	mu        sync.Mutex
	now       func() time.Time
	sealing   *token.Ring
	signing   *token.SigningRing
	issuer    string // "iss" of JWTs; empty: the mount has none
	feed      *feed.Feed
	issued    map[string]*issued // by text
	places    uint32
	revoked   map[token.ID]bool
	suspended map[string]bool // grants and subjects
	down      bool
	logins    map[string]bool // Vault tokens of logins
	calls     map[string]int  // by path
	pause     func(path string)
	usage     usage
}

// issued is a token with what the mount knows of it.
type issued struct {
	claims      *token.Claims
	role        string
	roleGone    bool
	disabled    bool
	permissions *access.Permissions
	spec        Token
	list        bool
}

// New starts an issuer, which stops with the test.
func New(t testing.TB) *Issuer {
	t.Helper()
	i := NewAt(t, time.Now)
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	i.address, i.URL, i.client = server.URL, server.URL+mount, server.Client()
	i.issuer = i.URL
	return i
}

// NewAt returns an issuer without a network, whose clock is now: Config has a client that calls the issuer. It suits
// tests of testing/synctest.
func NewAt(t testing.TB, now func() time.Time) *Issuer {
	t.Helper()
	i := &Issuer{
		address: "http://vault.test", URL: "http://vault.test" + mount, now: now, feed: feed.New(), issued: make(map[string]*issued),
		revoked: make(map[token.ID]bool), suspended: make(map[string]bool), logins: make(map[string]bool), calls: make(map[string]int),
	}
	i.client, i.issuer = &http.Client{Transport: direct{i}}, i.URL
	key, err := token.NewKey(rand.Reader, now())
	if err != nil {
		t.Fatal(err)
	}
	i.sealing = token.NewRing([]token.Key{key})
	i.signing = newSigningRing(t, now(), "ES256", nil)
	return i
}

func newSigningRing(t testing.TB, now time.Time, algorithm string, before token.Keys) *token.SigningRing {
	t.Helper()
	key, err := token.NewSigningKey(algorithm, now)
	if err != nil {
		t.Fatal(err)
	}
	key.UsedFrom = now.Add(time.Duration(len(before))) // the last key is the current one
	return token.NewSigningRing(append(before.All(), key))
}

// Config returns a configuration of a Verifier of this issuer, for the API Audience.
func (i *Issuer) Config() verify.Config {
	return verify.Config{
		Audience: Audience, HTTPClient: i.client, Now: i.now,
		Vault: &verify.VaultConfig{Address: i.address, Token: VaultToken},
	}
}

// direct calls a handler without a network.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w, done := httptest.NewRecorder(), make(chan struct{})
	go func() {
		defer close(done)
		d.handler.ServeHTTP(w, r)
	}()
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-done:
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// Opaque issues an opaque token.
func (i *Issuer) Opaque(t testing.TB, spec Token) string {
	t.Helper()
	return i.issue(t, spec, func(one *issued) (string, error) {
		id, err := token.NewID(rand.Reader)
		if err != nil {
			return "", err
		}
		one.claims.ID, one.claims.Grant = id, id
		return token.Mint(i.sealing, "apt", one.claims)
	})
}

// JWT issues a JWT (RFC 9068).
func (i *Issuer) JWT(t testing.TB, spec Token) string {
	t.Helper()
	return i.issue(t, spec, func(one *issued) (string, error) {
		c := one.claims
		if !spec.NoList {
			i.places++
			c.Status = token.StatusRef{List: statusList, Index: i.places}
			one.list = true
		}
		id, err := token.NewGrantID(rand.Reader, c.Status)
		if err != nil {
			return "", err
		}
		c.ID, c.Grant = id, id
		payload, err := token.NewJWT(c, i.issuer, Environment, one.role, i.issuer+"/oauth/status/7")
		if err != nil {
			return "", err
		}
		payload.Engine.RateLimit = spec.RateLimit
		return token.MintJWT(i.signing, payload)
	})
}

func (i *Issuer) issue(t testing.TB, spec Token, mint func(*issued) (string, error)) string {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if spec.Role == "" {
		spec.Role = "test"
	}
	if spec.Audience == nil {
		spec.Audience = []string{Audience}
	}
	if spec.TTL == 0 {
		spec.TTL = time.Hour
	}
	now := i.now().Truncate(time.Second)
	c := &token.Claims{
		Subject: spec.Subject, IssuedAt: now, ExpiresAt: now.Add(spec.TTL), Scopes: spec.Scopes, Audience: spec.Audience,
		Hosts:    spec.Hosts,
		Metadata: spec.Metadata, Confirmation: token.Confirmation{JKT: spec.JKT, X5T: spec.X5T}, RoleVersion: 1,
	}
	permissions := &access.Permissions{Scopes: spec.Scopes, Audience: spec.Audience}
	one := &issued{claims: c, role: spec.Role, spec: spec, permissions: permissions}
	addresses, err := access.ParseAddresses(spec.CIDRs)
	if err != nil {
		t.Fatal(err)
	}
	if addresses.Restricted() {
		c.Addresses, one.permissions.Addresses = addresses.Ranges(), []access.Addresses{addresses}
	}
	if spec.Regions != nil {
		regions, err := access.ParseRegions(spec.Regions)
		if err != nil {
			t.Fatal(err)
		}
		c.Regions, one.permissions.Regions = regions, []access.Regions{regions}
	}
	if spec.Hosts != nil {
		one.permissions.Hosts = []access.Hosts{spec.Hosts}
	}
	text, err := mint(one)
	if err != nil {
		t.Fatal(err)
	}
	i.issued[text] = one
	return text
}

// SetDown makes every request fail with status 503, or ends that.
func (i *Issuer) SetDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// ExpireLogins makes the Vault tokens of all logins invalid.
func (i *Issuer) ExpireLogins() {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.logins)
}

// Calls returns how many requests a path below the mount had, such as "introspect".
func (i *Issuer) Calls(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.calls[path]
}

// OnAnswer has hold called with the path of each request after its answer was made, before the answer is sent.
func (i *Issuer) OnAnswer(hold func(path string)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pause = hold
}

func parseIP(s string) (addr netip.Addr) {
	if s != "" {
		addr, _ = access.ParseClientIP(s)
	}
	return addr
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// Decide returns what the mount itself decides about a use of an issued token; empty: the token is good.
func (i *Issuer) Decide(text string, use *verify.Use) access.Reason {
	i.mu.Lock()
	defer i.mu.Unlock()
	audience := use.Audience
	if audience == "" {
		audience = Audience
	}
	return i.decide(text, &access.Use{
		Scopes: use.Scopes, Audience: audience, ClientIP: use.Client, Region: use.Region, Host: use.Host,
	})
}

// PublicKey returns the key that verifies JWTs issued now.
func (i *Issuer) PublicKey() any {
	i.mu.Lock()
	defer i.mu.Unlock()
	keys := i.signing.PublicKeys().Keys
	return keys[0].Key
}

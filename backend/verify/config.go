package verify

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"
)

// Config says whose tokens are checked, and for which API. Only Issuer or Vault, and Audience, must be set.
type Config struct {
	// Issuer is the "iss" of JWTs: the URL of the mount. Empty: the mount's metadata has the issuer, which is read again once a
	// minute and after a failover of Vault. JWTs are refused while the metadata has none.
	Issuer string
	// Vault says how to reach the mount as a client of Vault, for opaque tokens and the feed. Nil: only JWTs are checked,
	// and a revocation is noticed when the status list is read again.
	Vault *VaultConfig

	// FeedFrom is another verifier that relays the feed: see Verifier.FeedHandler. Nil: Vault has the feed. A revocation is
	// then noticed one PollInterval later. Vault still answers about opaque tokens.
	FeedFrom *FeedSource

	Environment string   // required environment of tokens; empty: any environment of the mount
	Audience    string   // audience of the API (RFC 9068 section 4)
	AnyAudience bool     // the API has no audience of its own: Use.Audience may be empty
	Hosts       []string // hosts that the API answers for, as in bound_hosts; empty: any

	// TrustedProxies are the addresses and ranges of proxies whose X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host
	// count. Empty: the peer is the client. A range of all addresses is an error.
	TrustedProxies []string
	// GeoIPDatabase is a MaxMind DB file of countries or cities, for tokens that are bound to regions. The file is read again
	// when it changes. Empty: only Use.Region and GeoIP count.
	GeoIPDatabase string
	// GeoIP returns the region of an address instead, as ISO 3166-1 alpha-2; empty: not known.
	GeoIP func(netip.Addr) string

	// ClockSkew is how much the clocks of the engine and of clients may differ: for nbf and iat, never for exp. Zero: 30s;
	// negative: none. At most 5m.
	ClockSkew time.Duration
	DPoP      DPoPConfig

	MaxAge           time.Duration // how long an answer about an opaque token is kept; zero: 60s, also the maximum
	MaxTokens        int           // number of tokens kept in memory; zero: 100,000
	MaxUnknown       int           // number of refused texts kept in memory; zero: 10,000
	UnknownPerSecond int           // questions to Vault about tokens not known to be good; zero: 40. One address has a fifth, and strangers have half
	PollInterval     time.Duration // of the feed; zero: 1s
	RequestTimeout   time.Duration // of a request to Vault; zero: 5s

	// ShareRate divides the rate_limit of a token by the number of processes that report uses to the engine. Default: each
	// process allows the full rate.
	ShareRate bool
	// ReportInterval is how often uses are reported to the engine (path usage); zero: 30s, at most 5m; negative: never. A token
	// that is used in another network than in the last minute is reported at once, or PollInterval after the last such report.
	ReportInterval time.Duration

	HTTPClient *http.Client     // for keys, status lists, Vault, and FeedFrom without files; nil: own clients. Redirects are never followed
	Logger     *slog.Logger     // nil: slog.Default()
	Now        func() time.Time // nil: time.Now

	silent bool // no uses are reported
}

// VaultConfig says how to reach the mount as a client of Vault. Exactly one of Token, TokenFile, AppRole, Kubernetes and
// JWT must be set. The policy needs: read on feed, update on introspect and usage.
type VaultConfig struct {
	Address   string // such as https://vault.example.com:8200; empty: VAULT_ADDR
	Namespace string // empty: VAULT_NAMESPACE
	Mount     string // path of the engine; empty: apitoken
	CACert    string // file with certificates in PEM; empty: VAULT_CACERT, or the system's

	Token      string     // a Vault token
	TokenFile  string     // file with a Vault token, as Vault Agent writes it; read again when it changes
	AppRole    *AppRole   // auth method approle
	Kubernetes *LoginRole // auth method kubernetes; default of JWTFile: the service account's token
	JWT        *LoginRole // auth method jwt
}

// FeedSource is where another verifier relays the feed.
type FeedSource struct {
	URL         string // such as https://authz.example.com:9193/feed; http only on loopback
	CACert      string // file with certificates in PEM; empty: the system's
	Certificate string // file with the client's certificate in PEM; empty: none. Read again for each connection
	Key         string // file with the key of Certificate
}

// AppRole logs in with the auth method approle.
type AppRole struct {
	Mount        string // path of the auth method; empty: approle
	RoleID       string
	SecretID     string
	SecretIDFile string // instead of SecretID; read at each login
}

// LoginRole logs in with the auth method kubernetes or jwt.
type LoginRole struct {
	Mount   string // path of the auth method; empty: kubernetes or jwt
	Role    string
	JWTFile string // file with the JWT; read at each login
}

// DPoPConfig says which proofs (RFC 9449) are good.
type DPoPConfig struct {
	MaxAge time.Duration // of a proof, by its iat; zero: 60s. At most 10m
	// NonceKey makes proofs carry a nonce (RFC 9449 section 8), of at least 32 random bytes that all replicas of the API
	// share. A nonce is good for two to four minutes. Nil: no nonce is required.
	NonceKey []byte
	// MaxProofs is the number of proofs remembered against replay; zero: 1,000,000, at most 10,000,000. A proof takes 40
	// bytes, and is remembered for one to two times MaxAge + 2 ClockSkew: the default carries 4,100 proofs a second. Proofs
	// beyond are refused with an error, since a proof that is forgotten could be replayed. Each process remembers the proofs
	// that it has seen itself.
	MaxProofs int
}

// State is how fresh the knowledge of a Verifier is.
type State struct {
	Ready    bool     // whether a decision on every kind of token can be made
	Problems []string // what is stale, in sentences

	FeedAt   time.Time     // last successful poll of the feed; zero: there is no feed
	FeedAge  time.Duration // since FeedAt
	Epoch    string        // of the feed
	Cursor   int64         // of the feed
	KeysAt   time.Time     // last successful read of the keys; zero: never
	KeysAge  time.Duration // since KeysAt
	Keys     int           // number of keys
	Lists    []ListState   // status lists that tokens pointed to
	Tokens   int           // number of tokens kept in memory
	Unknown  int           // number of refused texts kept in memory
	Revoked  int           // number of revoked grants remembered
	Asked    uint64        // number of introspections
	Fetched  uint64        // number of reads of the keys
	Limited  uint64        // number of tokens refused unasked, over UnknownPerSecond
	Reporter string        // name of this process in the usage report
}

// ListState is how fresh a status list is.
type ListState struct {
	URI       string
	ReadAt    time.Time
	ExpiresAt time.Time // tokens of the list are refused from this moment on
}

// Option states what an API requires of a request.
type Option func(*requirement)

type requirement struct {
	scopes    []string
	audience  string
	observers []func(context.Context, Decision)
}

// RequireScopes requires all of these scopes.
func RequireScopes(scopes ...string) Option {
	return func(r *requirement) { r.scopes = append(r.scopes, scopes...) }
}

// Observe has a function called with each decision, allowed or refused, and the context of the request: for traces and
// metrics. The function must not block. Package verifyotel has a function for OpenTelemetry.
func Observe(observe func(context.Context, Decision)) Option {
	return func(r *requirement) { r.observers = append(r.observers, observe) }
}

// WithAudience requires this audience instead of Config.Audience.
func WithAudience(audience string) Option { return func(r *requirement) { r.audience = audience } }

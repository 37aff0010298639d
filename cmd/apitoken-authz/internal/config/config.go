// Package config reads the configuration of the authorizer: a file in YAML. schema.json describes the file for editors.
package config

import (
	_ "embed" // schema.json
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/rules"
)

// Schema is the JSON schema of the file.
//
//go:embed schema.json
var Schema []byte

// File is a configuration.
type File struct {
	Listen Listen `yaml:"listen"`
	TLS    *TLS   `yaml:"tls"` // nil: plain HTTP, for loopback

	Gateways         []string `yaml:"gateways"`          // kinds of gateways that may ask: see Kinds
	GatewayAddresses []string `yaml:"gateway_addresses"` // who may ask; empty: loopback, or all with a certificate of client_ca
	TrustedProxies   []string `yaml:"trusted_proxies"`   // in front of the gateway; empty: the gateway sees the client itself
	// ClientCertificates says that the gateway states the client's certificate (RFC 8705): X-Original-Cert of nginx, an attribute
	// of Envoy, CertificateHeader of Caddy and Traefik.
	ClientCertificates bool               `yaml:"client_certificates"`
	CertificateHeader  *CertificateHeader `yaml:"certificate_header"` // nil: Caddy and Traefik state no certificate
	IdentityHeaders    string             `yaml:"identity_headers"`   // what happens to requests that have them: strip (default) or refuse

	Vault    *Vault    `yaml:"vault"`
	FeedFrom *FeedFrom `yaml:"feed_from"` // an authorizer that relays the feed; nil: Vault has the feed
	Relay    *Relay    `yaml:"relay"`     // nil: the feed is not relayed
	Scanner  *Scanner  `yaml:"scanner"`   // nil: no scanner may ask

	Issuer      string   `yaml:"issuer"`
	Environment string   `yaml:"environment"`
	Audience    string   `yaml:"audience"`
	AnyAudience bool     `yaml:"any_audience"`
	Hosts       []string `yaml:"hosts"`
	// GeoIPDatabase is a MaxMind DB file, for tokens that are bound to regions; empty: such tokens are refused.
	GeoIPDatabase string        `yaml:"geoip_database"`
	ShareRate     bool          `yaml:"share_rate"` // divide the rate_limit of a role by the number of verifiers
	ClockSkew     time.Duration `yaml:"clock_skew"`
	MaxAge        time.Duration `yaml:"max_age"`
	MaxTokens     int           `yaml:"max_tokens"`
	DPoP          DPoP          `yaml:"dpop"`

	Log   Log    `yaml:"log"`
	Rules []Rule `yaml:"rules"`

	set      *rules.Set
	gateways []netip.Prefix
	proxies  []netip.Prefix
}

// Listen are the addresses of the server.
type Listen struct {
	HTTP  string `yaml:"http"`  // of gateways that ask by HTTP
	GRPC  string `yaml:"grpc"`  // of Envoy
	Admin string `yaml:"admin"` // of /healthz, /readyz and /metrics, in plain HTTP; empty: the address in HTTP serves them
}

// TLS are files in PEM. The files are read again when the configuration is.
type TLS struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	ClientCA    string `yaml:"client_ca"` // the gateway needs a certificate of this authority; empty: none
}

// CertificateHeader is the header in which Caddy or Traefik states the client's certificate. The gateway replaces or deletes what a
// client sends under this name.
type CertificateHeader struct {
	Name     string `yaml:"name"`     // in Go's canonical form after the check
	Encoding string `yaml:"encoding"` // EncodingBase64 (default) or EncodingPEM
}

// Encodings of a certificate in a header.
const (
	EncodingBase64 = "base64" // DER in base64; of several, separated by commas, the first is the client's
	EncodingPEM    = "pem"    // PEM, percent-encoded
)

// Vault says how to reach the engine. Exactly one of the ways to log in is set.
type Vault struct {
	Address    string     `yaml:"address"`
	Namespace  string     `yaml:"namespace"`
	Mount      string     `yaml:"mount"`
	CACert     string     `yaml:"ca_cert"`
	TokenFile  string     `yaml:"token_file"`
	AppRole    *AppRole   `yaml:"approle"`
	Kubernetes *LoginRole `yaml:"kubernetes"`
	JWT        *LoginRole `yaml:"jwt"`
}

// FeedFrom is where another authorizer relays the feed.
type FeedFrom struct {
	URL         string `yaml:"url"`
	CACert      string `yaml:"ca_cert"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// Relay is where the feed is relayed to other authorizers, by mutual TLS. All fields are required.
type Relay struct {
	Listen      string `yaml:"listen"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	ClientCA    string `yaml:"client_ca"`
}

// TLS returns the files of mutual TLS.
func (r *Relay) TLS() *TLS { return &TLS{Certificate: r.Certificate, Key: r.Key, ClientCA: r.ClientCA} }

// AppRole logs in with the auth method approle.
type AppRole struct {
	Mount        string `yaml:"mount"`
	RoleID       string `yaml:"role_id"`
	SecretIDFile string `yaml:"secret_id_file"`
}

// LoginRole logs in with the auth method kubernetes or jwt.
type LoginRole struct {
	Mount   string `yaml:"mount"`
	Role    string `yaml:"role"`
	JWTFile string `yaml:"jwt_file"`
}

// DPoP says which proofs (RFC 9449) are good.
type DPoP struct {
	MaxAge       time.Duration `yaml:"max_age"`
	MaxProofs    int           `yaml:"max_proofs"`     // number of proofs remembered against replay; zero: 1,000,000
	NonceKeyFile string        `yaml:"nonce_key_file"` // at least 32 random bytes, which all authorizers share; empty: no nonces
}

// Log says what is logged.
type Log struct {
	Level  string `yaml:"level"`  // debug, info (default), warn or error
	Access string `yaml:"access"` // all (default), refused or none
}

// Rule states what a request needs.
type Rule struct {
	Name              string   `yaml:"name"` // in logs; empty: the first path
	Hosts             []string `yaml:"hosts"`
	Methods           []string `yaml:"methods"`
	Paths             []string `yaml:"paths"`
	AllowEncodedSlash bool     `yaml:"allow_encoded_slash"`
	Public            bool     `yaml:"public"`
	AnyToken          bool     `yaml:"any_token"` // no scope is required: said in a word, so that none is forgotten
	Scopes            []string `yaml:"scopes"`
	Audience          string   `yaml:"audience"`
	Rate              string   `yaml:"rate"` // such as 100/1m or 10/1s burst 50
}

// Kinds are the kinds of gateways.
var Kinds = []string{"nginx", "nginx_headers", "caddy", "traefik", "envoy"}

// maxFile is the largest size of a file in bytes.
const maxFile = 4 << 20

// Load reads a file. Its error lists what is wrong, with the lines.
func Load(path string) (*File, error) {
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: the file is larger than %d bytes", path, maxFile)
	}
	return Parse(path, text)
}

// GatewayRanges returns who may ask; nil: all who have a certificate of client_ca.
func (f *File) GatewayRanges() []netip.Prefix { return f.gateways }

// ProxyRanges returns the proxies in front of the gateway.
func (f *File) ProxyRanges() []netip.Prefix { return f.proxies }

// RuleSet returns the rules of the file.
func (f *File) RuleSet() *rules.Set { return f.set }

// Serves reports whether gateways of a kind may ask.
func (f *File) Serves(kind string) bool {
	for _, k := range f.Gateways {
		if k == kind {
			return true
		}
	}
	return false
}

// WithoutRules returns a copy of the file that has its other settings.
func (f *File) WithoutRules() File {
	c := *f
	c.Rules, c.set = nil, nil
	return c
}

// Package role holds roles and their versions: the tokens that an operator allows to be issued. A request may narrow a
// token within its role. Package role does not depend on Vault's paths.
package role

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Prefix is the prefix of the storage keys of roles.
const Prefix = "role/"

// Formats of tokens.
const (
	FormatOpaque = "opaque"
	FormatJWT    = "jwt"
)

// Proofs that bind a token to a key.
const (
	ProofDPoP = "dpop" // RFC 9449
	ProofMTLS = "mtls" // RFC 8705
)

// MaxLeaselessTTL is the longest TTL of a native token without a lease: no lease can revoke such a token.
const MaxLeaselessTTL = 15 * time.Minute

// Terms are the permissions that a role grants. A change of the terms makes a new version of the role. A live token has the
// permissions that both the terms at its issue and the current terms grant.
type Terms struct {
	Scopes          []string          `json:"scopes"`
	AllowedScopes   []string          `json:"allowed_scopes,omitempty"` // empty: Scopes
	Audience        []string          `json:"audience,omitempty"`       // nil: any
	TokenBoundCIDRs []string          `json:"token_bound_cidrs,omitempty"`
	BoundRegions    []string          `json:"bound_regions,omitempty"` // as access.ParseRegions returns them
	BoundHosts      []string          `json:"bound_hosts,omitempty"`
	Metadata        map[string]string `json:"metadata,omitempty"` // values may be identity templates
}

func (t *Terms) allowed() access.Scopes {
	if len(t.AllowedScopes) > 0 {
		return t.AllowedScopes
	}
	return t.Scopes
}

// Entry is a role as stored.
type Entry struct {
	ID      token.RoleID `json:"id"`      // differs after the role is deleted and created again
	Version uint32       `json:"version"` // incremented by each change of the terms, from 1
	Since   time.Time    `json:"since"`   // beginning of this version
	Terms
	TTL               time.Duration `json:"ttl,omitempty"`        // 0: the mount's default
	MaxTTL            time.Duration `json:"max_ttl,omitempty"`    // 0: the mount's maximum
	MaxTokens         int           `json:"max_tokens,omitempty"` // number of live tokens; 0: no limit
	RequestBoundCIDRs []string      `json:"request_bound_cidrs,omitempty"`
	Description       string        `json:"description,omitempty"`
	review.Review
	Detection       map[string]string `json:"detection,omitempty"` // modes by rules of misuse; else as the mount's settings say
	AllowPrivileged bool              `json:"allow_privileged,omitempty"`
	TokenFormat     string            `json:"token_format"`
	NoLease         bool              `json:"no_lease,omitempty"`
	Refresh         bool              `json:"refresh,omitempty"`
	AccessTTL       time.Duration     `json:"access_ttl,omitempty"` // TTL of access tokens, with refresh
	Exchange        bool              `json:"exchange,omitempty"`
	Proof           string            `json:"proof,omitempty"`      // ProofDPoP, ProofMTLS; empty: none
	RateLimit       string            `json:"rate_limit,omitempty"` // as access.Rate prints it; empty: none. Verifiers enforce it

	// RequireBoundChecks is the operator's promise that all API servers check the addresses, regions and hosts of a JWT.
	RequireBoundChecks bool `json:"require_bound_checks,omitempty"`

	Connection string         `json:"connection,omitempty"` // empty: native tokens
	Params     map[string]any `json:"params,omitempty"`     // for the connection's provider
	Reuse      time.Duration  `json:"reuse,omitempty"`      // how long a token is issued to further requesters

	Past []Past `json:"past,omitempty"` // versions that live tokens may have, oldest first
}

// Unenforced is the text of the refusal to bind a JWT to addresses, regions or hosts.
const Unenforced = "ordinary JWT libraries do not check what a JWT is bound to: set require_bound_checks=true on the role where all API servers check token_bound_cidrs, bound_regions and bound_hosts themselves, or token_format=opaque"

// EnforcesBounds reports whether a token of the role may be bound to addresses, regions or hosts. The engine checks the
// bounds of opaque tokens; those of a JWT hold only where the API server checks them.
func (e *Entry) EnforcesBounds() bool {
	return e.TokenFormat != FormatJWT || e.RequireBoundChecks
}

// Role is a compiled role. A Role does not change: an update publishes a new Role.
type Role struct {
	Entry
	name           string
	requestAllowed access.Addresses // addresses that may request a token
	tokenAllowed   access.Addresses // addresses that may use a token
	most           access.Scopes    // scopes that a request may name
	hasTemplates   bool             // metadata holds identity templates
	versions       []*version       // oldest first
}

// New compiles a valid entry.
func New(name string, entry Entry) (*Role, error) {
	r := &Role{Entry: entry, name: name, versions: make([]*version, 0, 1+len(entry.Past))}
	var err error
	if r.requestAllowed, err = access.ParseAddresses(entry.RequestBoundCIDRs); err != nil {
		return nil, err
	}
	if r.tokenAllowed, err = access.ParseAddresses(entry.TokenBoundCIDRs); err != nil {
		return nil, err
	}
	r.most = entry.allowed()
	r.hasTemplates = len(staticMetadata(entry.Metadata)) != len(entry.Metadata)

	for i := range entry.Past {
		past := &entry.Past[i]
		v, err := newVersion(&past.Terms, &entry.Terms)
		if err != nil {
			return nil, err
		}
		v.first, v.last = past.First, past.Version
		r.versions = append(r.versions, v)
	}
	v, err := newVersion(&entry.Terms, &entry.Terms)
	if err != nil {
		return nil, err
	}
	v.first, v.last = entry.Version, entry.Version
	r.versions = append(r.versions, v)
	return r, nil
}

// newVersion returns the intersection of the terms at a token's issue and the current terms.
func newVersion(issued, today *Terms) (*version, error) {
	v := &version{issued: issued, metadata: staticMetadata(issued.Metadata)}
	v.Scopes = access.Scopes(issued.Scopes).Intersect(today.allowed())
	v.Audience = access.IntersectAudiences(issued.Audience, today.Audience)

	both := []*Terms{issued, today}
	if issued == today {
		both = both[:1]
	}
	for _, t := range both {
		addresses, err := access.ParseAddresses(t.TokenBoundCIDRs)
		if err != nil {
			return nil, err
		}
		if addresses.Restricted() {
			v.Addresses = append(v.Addresses, addresses)
		}
		if len(t.BoundRegions) > 0 {
			v.Regions = append(v.Regions, t.BoundRegions)
		}
		if len(t.BoundHosts) > 0 {
			v.Hosts = append(v.Hosts, t.BoundHosts)
		}
	}
	return v, nil
}

// Permissions returns the current permissions of a token of the role, and the token's metadata. Both are nil for a token of
// a future version.
func (r *Role) Permissions(claims *token.Claims) (*access.Permissions, map[string]string) {
	v := r.version(claims.RoleVersion)
	if v == nil {
		return nil, nil
	}
	metadata := v.metadata
	if len(claims.Metadata) > 0 {
		metadata = maps.Clone(v.metadata)
		maps.Copy(metadata, claims.Metadata)
	}
	if claims.Scopes == nil && claims.Audience == nil && claims.Addresses == nil && claims.Regions == nil && claims.Hosts == nil {
		return &v.Permissions, metadata
	}
	g := v.Permissions
	if claims.Scopes != nil {
		g.Scopes = access.Scopes(claims.Scopes).Intersect(r.most)
	}
	if claims.Audience != nil {
		g.Audience = access.IntersectAudiences(claims.Audience, g.Audience)
	}
	if claims.Addresses != nil {
		g.Addresses = append(slices.Clone(g.Addresses), access.NewAddresses(claims.Addresses))
	}
	if claims.Regions != nil {
		g.Regions = append(slices.Clone(g.Regions), access.Regions(claims.Regions))
	}
	if claims.Hosts != nil {
		g.Hosts = append(slices.Clone(g.Hosts), access.Hosts(claims.Hosts))
	}
	return &g, metadata
}

// Privileged returns an error if the role holds a scope that matches the mount's privileged scopes and does not set
// allow_privileged.
func (r *Role) Privileged(privileged access.Scopes) error {
	if r.AllowPrivileged {
		return nil
	}
	held := access.Scopes(slices.Concat(r.Scopes, r.AllowedScopes)).Matching(privileged)
	if len(held) == 0 {
		return nil
	}
	slices.Sort(held)
	return refusal.Field("scopes", "role %q holds %q, privileged by privileged_scopes %q: set allow_privileged=true, or choose other scopes",
		r.name, slices.Compact(held), []string(privileged))
}

// Name implements store.Named.
func (r *Role) Name() string { return r.name }

// Identity implements store.Named.
func (r *Role) Identity() token.RoleID { return r.ID }

// Stored implements store.Named.
func (r *Role) Stored() any { return &r.Entry }

// Store keeps the roles of a mount.
type Store = store.Store[token.RoleID, *Role]

// Load reads the roles from storage.
func Load(ctx context.Context, s logical.Storage) (*Store, error) {
	return store.Load(ctx, s, Prefix, false, func(name string, stored *logical.StorageEntry) (*Role, error) {
		var entry Entry
		if err := stored.DecodeJSON(&entry); err != nil {
			return nil, err
		}
		return New(name, entry)
	})
}

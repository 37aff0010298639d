// Package role holds what an operator allows to be issued: roles, their versions, and what a request may narrow. It knows
// nothing of Vault's paths.
package role

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Prefix is where roles are in storage.
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

// MaxLeaselessTTL is how long a native token without a lease may live: no lease can revoke such a token.
const MaxLeaselessTTL = 15 * time.Minute

// Terms are what a role grants. A change of it makes a new version of the role: a live token is held to
// the terms it was issued under and to those of today.
type Terms struct {
	Scopes          []string          `json:"scopes"`
	AllowedScopes   []string          `json:"allowed_scopes,omitempty"` // none: Scopes
	Audience        []string          `json:"audience,omitempty"`       // nil: any
	TokenBoundCIDRs []string          `json:"token_bound_cidrs,omitempty"`
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
	ID      token.RoleID `json:"id"`      // new when a role is deleted and created again
	Version uint32       `json:"version"` // counts the changes of terms, from 1
	Since   time.Time    `json:"since"`   // when this version began
	Terms
	TTL               time.Duration `json:"ttl,omitempty"`        // 0: the mount's default
	MaxTTL            time.Duration `json:"max_ttl,omitempty"`    // 0: the mount's
	MaxTokens         int           `json:"max_tokens,omitempty"` // alive at once; 0: no limit
	RequestBoundCIDRs []string      `json:"request_bound_cidrs,omitempty"`
	Description       string        `json:"description,omitempty"`
	AllowPrivileged   bool          `json:"allow_privileged,omitempty"`
	TokenFormat       string        `json:"token_format"`
	NoLease           bool          `json:"no_lease,omitempty"`
	Refresh           bool          `json:"refresh,omitempty"`
	AccessTTL         time.Duration `json:"access_ttl,omitempty"` // of the tokens of a grant that is refreshed
	Exchange          bool          `json:"exchange,omitempty"`
	Proof             string        `json:"proof,omitempty"` // ProofDPoP, ProofMTLS or none

	// RequireBoundChecks: whoever runs the API servers has promised that these check what a JWT is bound to.
	RequireBoundChecks bool `json:"require_bound_checks,omitempty"`

	Connection string         `json:"connection,omitempty"` // "": native tokens
	Params     map[string]any `json:"params,omitempty"`     // for the connection's provider
	Reuse      time.Duration  `json:"reuse,omitempty"`      // how long the same token is given again

	Past []Past `json:"past,omitempty"` // versions that live tokens may have, oldest first
}

// Unenforced says why a JWT is not bound to addresses or hosts, and what to do.
const Unenforced = "ordinary JWT libraries do not check what a JWT is bound to: set require_bound_checks=true on the role where all API servers check token_bound_cidrs and bound_hosts themselves, or token_format=opaque"

// EnforcesBounds reports whether a token of the role may be bound to addresses or hosts. The engine checks the bounds
// of opaque tokens; those of a JWT hold only where the API server checks them.
func (e *Entry) EnforcesBounds() bool {
	return e.TokenFormat != FormatJWT || e.RequireBoundChecks
}

// Role is a role ready for use. A role does not change: an update publishes a new one.
type Role struct {
	Entry
	name           string
	requestAllowed access.Addresses // where creds may be read from
	tokenAllowed   access.Addresses // where the token may be used from
	most           access.Scopes    // that a request may ask for
	hasTemplates   bool             // metadata holds identity templates
	versions       []*version       // oldest first
}

// New compiles an entry that has been checked.
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

// newVersion joins the terms a token was issued under with those of today.
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
		if len(t.BoundHosts) > 0 {
			v.Hosts = append(v.Hosts, t.BoundHosts)
		}
	}
	return v, nil
}

// Permissions returns what a token issued from the role may be used for today, and the metadata that the token carries.
// Both are nil for a token of a version that is yet to come.
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
	if claims.Scopes == nil && claims.Audience == nil && claims.Addresses == nil && claims.Hosts == nil {
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

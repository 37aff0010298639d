package backend

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const rolePrefix = "role/"

// terms is what a role grants. A change of it makes a new version of the role: a live token is held to
// the terms it was issued under and to those of today.
type terms struct {
	Scopes          []string          `json:"scopes"`
	AllowedScopes   []string          `json:"allowed_scopes,omitempty"` // none: Scopes
	Audience        []string          `json:"audience,omitempty"`       // nil: any
	TokenBoundCIDRs []string          `json:"token_bound_cidrs,omitempty"`
	BoundHosts      []string          `json:"bound_hosts,omitempty"`
	Metadata        map[string]string `json:"metadata,omitempty"` // values may be identity templates
}

func (t *terms) allowedScopes() access.Scopes {
	if len(t.AllowedScopes) > 0 {
		return t.AllowedScopes
	}
	return t.Scopes
}

// roleEntry is a role as stored.
type roleEntry struct {
	ID      token.RoleID `json:"id"`      // new when a role is deleted and created again
	Version uint32       `json:"version"` // counts the changes of terms, from 1
	Since   time.Time    `json:"since"`   // when this version began
	terms
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
	Proof             string        `json:"proof,omitempty"` // proofDPoP, proofMTLS or none

	// RequireBoundChecks: whoever runs the API servers has promised that these check what a JWT is bound to.
	RequireBoundChecks bool `json:"require_bound_checks,omitempty"`

	Connection string         `json:"connection,omitempty"` // "": native tokens
	Params     map[string]any `json:"params,omitempty"`     // for the connection's provider
	Reuse      time.Duration  `json:"reuse,omitempty"`      // how long the same token is given again

	Past []pastTerms `json:"past,omitempty"` // versions that live tokens may have, oldest first
}

// unenforced says why a JWT is not bound to addresses or hosts, and what to do.
const unenforced = "ordinary JWT libraries do not check what a JWT is bound to: set require_bound_checks=true on the role where all API servers check token_bound_cidrs and bound_hosts themselves, or token_format=opaque"

// enforcesBounds reports whether a token of the role may be bound to addresses or hosts. The engine checks the bounds
// of opaque tokens; those of a JWT hold only where the API server checks them.
func (e *roleEntry) enforcesBounds() bool {
	return e.TokenFormat != formatJWT || e.RequireBoundChecks
}

// role is a role ready for use. It does not change; an update makes a new one.
type role struct {
	roleEntry
	name           string
	requestAllowed access.Addresses // where creds may be read from
	tokenAllowed   access.Addresses // where the token may be used from
	allowed        access.Scopes    // the most a request may ask for
	hasTemplates   bool             // in metadata
	versions       []*version       // oldest first
}

// newRole compiles an entry that has been checked.
func newRole(name string, entry roleEntry) (*role, error) {
	r := &role{roleEntry: entry, name: name, versions: make([]*version, 0, 1+len(entry.Past))}
	var err error
	if r.requestAllowed, err = access.ParseAddresses(entry.RequestBoundCIDRs); err != nil {
		return nil, err
	}
	if r.tokenAllowed, err = access.ParseAddresses(entry.TokenBoundCIDRs); err != nil {
		return nil, err
	}
	r.allowed = entry.allowedScopes()
	r.hasTemplates = len(staticMetadata(entry.Metadata)) != len(entry.Metadata)

	for i := range entry.Past {
		past := &entry.Past[i]
		v, err := newVersion(&past.terms, &entry.terms)
		if err != nil {
			return nil, err
		}
		v.first, v.last = past.First, past.Version
		r.versions = append(r.versions, v)
	}
	v, err := newVersion(&entry.terms, &entry.terms)
	if err != nil {
		return nil, err
	}
	v.first, v.last = entry.Version, entry.Version
	r.versions = append(r.versions, v)
	return r, nil
}

// newVersion joins the terms a token was issued under with those of today.
func newVersion(issued, today *terms) (*version, error) {
	v := &version{issued: issued, metadata: staticMetadata(issued.Metadata)}
	v.Scopes = access.Scopes(issued.Scopes).Intersect(today.allowedScopes())
	v.Audience = narrowAudience(issued.Audience, today.Audience)

	both := []*terms{issued, today}
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

// narrowAudience gives the audiences that both allow: nil allows any, an empty list none.
func narrowAudience(a, b []string) []string {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	both := []string{}
	for _, audience := range a {
		if slices.Contains(b, audience) {
			both = append(both, audience)
		}
	}
	return both
}

// grant is what a token issued from the role may be used for today, and the metadata it carries. It is
// nil for a token of a version that is yet to come.
func (r *role) grant(claims *token.Claims) (*access.Grant, map[string]string) {
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
		return &v.Grant, metadata
	}
	g := v.Grant
	if claims.Scopes != nil {
		g.Scopes = access.Scopes(claims.Scopes).Intersect(r.allowed)
	}
	if claims.Audience != nil {
		g.Audience = narrowAudience(claims.Audience, g.Audience)
	}
	if claims.Addresses != nil {
		g.Addresses = append(slices.Clone(g.Addresses), access.NewAddresses(claims.Addresses))
	}
	if claims.Hosts != nil {
		g.Hosts = append(slices.Clone(g.Hosts), access.Hosts(claims.Hosts))
	}
	return &g, metadata
}

// privileged says that the role holds a privileged scope without the permission to.
func (r *role) privileged(c *config) error {
	if r.AllowPrivileged {
		return nil
	}
	held := access.Scopes(slices.Concat(r.Scopes, r.AllowedScopes)).Matching(c.PrivilegedScopes)
	if len(held) == 0 {
		return nil
	}
	slices.Sort(held)
	return fmt.Errorf("role %q holds %q, privileged by privileged_scopes %q: set allow_privileged=true, or choose other scopes",
		r.name, slices.Compact(held), c.PrivilegedScopes)
}

// mayIssue returns why the settings of the mount let the role issue nothing; nil where they do.
func (r *role) mayIssue(c *config) error {
	if r.TokenFormat == formatJWT && c.Issuer == "" {
		return fmt.Errorf("role %q issues JWTs, and the config has no issuer", r.name)
	}
	return r.privileged(c)
}

// metadataFor fills in the templates of the role's metadata for a requester. It is nil where there are
// none.
func (r *role) metadataFor(entityID string, sys logical.SystemView) (map[string]string, error) {
	if !r.hasTemplates {
		return nil, nil
	}
	filled := make(map[string]string)
	for key, tpl := range r.Metadata {
		if !isTemplate(tpl) {
			continue
		}
		if entityID == "" {
			return nil, fmt.Errorf("metadata %q is an identity template, and the caller has no entity", key)
		}
		value, err := framework.PopulateIdentityTemplate(tpl, entityID, sys)
		if err != nil {
			return nil, fmt.Errorf("metadata %q: %w", key, err)
		}
		filled[key] = value
	}
	return filled, nil
}

func isTemplate(s string) bool { return strings.Contains(s, "{{") }

// directive is what may stand between the braces of an identity template.
var directive = regexp.MustCompile(`^identity\.(entity\.(id|name|metadata\.[^.]+|aliases\..+)|groups\.(ids|names)\..+)$`)

// checkTemplate tells whether a value of metadata is plain, or a template that Vault can fill in.
func checkTemplate(s string) error {
	if _, err := framework.ValidateIdentityTemplate(s); err != nil {
		return err
	}
	for _, part := range strings.Split(s, "{{")[1:] {
		name, _, _ := strings.Cut(part, "}}")
		if name = strings.TrimSpace(name); !directive.MatchString(name) {
			return fmt.Errorf("%q is no directive of identity templates, which are such as {{identity.entity.name}}", clip(name))
		}
	}
	return nil
}

func staticMetadata(all map[string]string) map[string]string {
	static := make(map[string]string, len(all))
	for key, value := range all {
		if !isTemplate(value) {
			static[key] = value
		}
	}
	return static
}

func (r *role) title() string          { return r.name }
func (r *role) identity() token.RoleID { return r.ID }
func (r *role) entry() any             { return &r.roleEntry }

type roleStore = store[token.RoleID, *role]

func loadRoles(ctx context.Context, s logical.Storage) (*roleStore, error) {
	return newStore(ctx, s, rolePrefix, false, func(name string, stored *logical.StorageEntry) (*role, error) {
		var entry roleEntry
		if err := stored.DecodeJSON(&entry); err != nil {
			return nil, err
		}
		return newRole(name, entry)
	})
}

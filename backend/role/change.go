package role

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/custommetadata"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

// Limits of a role.
const (
	MaxNameLen        = 128  // bytes
	MaxDescriptionLen = 1024 // bytes
)

// Change is a request to write a role. A nil field keeps its value.
type Change struct {
	TokenFormat        *string            `json:"token_format"`
	Scopes             *[]string          `json:"scopes"`
	AllowedScopes      *[]string          `json:"allowed_scopes"`
	Audience           *[]string          `json:"audience"`
	TTL                *time.Duration     `json:"ttl"`
	MaxTTL             *time.Duration     `json:"max_ttl"`
	MaxTokens          *int               `json:"max_tokens"`
	TokenBoundCIDRs    *[]string          `json:"token_bound_cidrs"`
	RequestBoundCIDRs  *[]string          `json:"request_bound_cidrs"`
	BoundRegions       *[]string          `json:"bound_regions"`
	BoundHosts         *[]string          `json:"bound_hosts"`
	RequireBoundChecks *bool              `json:"require_bound_checks"`
	Metadata           *map[string]string `json:"metadata"`
	Description        *string            `json:"description"`
	Owner              *string            `json:"owner"`
	ReviewBy           *string            `json:"review_by"`
	Detection          *map[string]string `json:"detection"`
	AllowPrivileged    *bool              `json:"allow_privileged"`
	GenerateLease      *bool              `json:"generate_lease"`
	Refresh            *bool              `json:"refresh"`
	AccessTTL          *time.Duration     `json:"access_ttl"`
	Exchange           *bool              `json:"exchange"`
	Proof              *string            `json:"proof"`
	RateLimit          *string            `json:"rate_limit"`
	Params             *map[string]any    `json:"params"`
	Reuse              *time.Duration     `json:"reuse"`
}

// Change applies a request to a role of native tokens, and rejects an invalid role.
func (e *Entry) Change(c *Change) error {
	switch {
	case c.Params != nil:
		return refusal.Field("params", "is for a role with a connection")
	case c.Reuse != nil:
		return refusal.Field("reuse", "is for a role with a connection")
	}
	store.Set(&e.TokenFormat, c.TokenFormat)
	store.Set(&e.RequireBoundChecks, c.RequireBoundChecks)
	store.Set(&e.AllowPrivileged, c.AllowPrivileged)
	store.Set(&e.Refresh, c.Refresh)
	store.Set(&e.AccessTTL, c.AccessTTL)
	store.Set(&e.Exchange, c.Exchange)
	store.Set(&e.Proof, c.Proof)
	if c.RateLimit != nil {
		rate, err := access.ParseRate(*c.RateLimit)
		if err != nil {
			return refusal.Field("rate_limit", "%s", err)
		}
		e.RateLimit = rate.String()
	}
	if err := e.changeLists(c); err != nil {
		return err
	}
	if err := e.changeCommon(c); err != nil {
		return err
	}
	if c.Metadata != nil {
		if err := checkMetadata(*c.Metadata); err != nil {
			return err
		}
		e.Metadata = *c.Metadata
	}
	return e.check()
}

// changeLists applies the scopes, audience, addresses, regions and hosts of native tokens.
func (e *Entry) changeLists(c *Change) error {
	for _, list := range []struct {
		field string
		given *[]string
		into  *[]string
		parse func([]string) ([]string, error)
	}{
		{"scopes", c.Scopes, &e.Scopes, func(l []string) ([]string, error) { return access.ParseScopes(l) }},
		{"allowed_scopes", c.AllowedScopes, &e.AllowedScopes, func(l []string) ([]string, error) { return access.ParseScopes(l) }},
		{"audience", c.Audience, &e.Audience, access.ParseAudience},
		{"token_bound_cidrs", c.TokenBoundCIDRs, &e.TokenBoundCIDRs, parseAddresses},
		{"bound_regions", c.BoundRegions, &e.BoundRegions, func(l []string) ([]string, error) { return access.ParseRegions(l) }},
		{"bound_hosts", c.BoundHosts, &e.BoundHosts, func(l []string) ([]string, error) { return access.ParseHosts(l) }},
	} {
		if list.given == nil {
			continue
		}
		if slices.Contains(*list.given, "...") {
			return refusal.Field(list.field, `has "...", which stands for values to choose`)
		}
		parsed, err := list.parse(*list.given)
		if err != nil {
			return refusal.Field(list.field, "%s", err)
		}
		if len(parsed) == 0 {
			parsed = nil
		}
		*list.into = parsed
	}
	return nil
}

// changeCommon applies the fields of every kind of role.
func (e *Entry) changeCommon(c *Change) error {
	if c.RequestBoundCIDRs != nil {
		parsed, err := parseAddresses(*c.RequestBoundCIDRs)
		if err != nil {
			return refusal.Field("request_bound_cidrs", "%s", err)
		}
		e.RequestBoundCIDRs = parsed
	}
	if c.GenerateLease != nil {
		e.NoLease = !*c.GenerateLease
	}
	store.Set(&e.TTL, c.TTL)
	store.Set(&e.MaxTTL, c.MaxTTL)
	store.Set(&e.MaxTokens, c.MaxTokens)
	store.Set(&e.Description, c.Description)
	store.Set(&e.Detection, c.Detection)
	if err := e.Set(c.Owner, c.ReviewBy); err != nil {
		return err
	}
	switch {
	case e.MaxTTL > 0 && e.TTL > e.MaxTTL:
		return refusal.Field("ttl", "%s is more than max_ttl, which is %s", refusal.Short(e.TTL), refusal.Short(e.MaxTTL))
	case e.MaxTokens < 0:
		return refusal.Field("max_tokens", "%d is less than 0, which is no limit", e.MaxTokens)
	case e.MaxTokens > 0 && e.NoLease && e.Connection == "":
		return refusal.Field("max_tokens", "needs leases: with generate_lease=false the engine stores nothing of a token, and cannot count the tokens")
	case len(e.Detection) > 0 && e.NoLease && e.Connection == "":
		return refusal.Field("detection", "needs leases: with generate_lease=false the engine stores nothing of a token, and findings do not name the role")
	}
	return refusal.CheckLen("description", e.Description, MaxDescriptionLen)
}

// ConnectionFields are the fields that a role with a connection accepts.
var ConnectionFields = []string{"name", "connection", "params", "ttl", "max_ttl", "max_tokens", "request_bound_cidrs", "description", "generate_lease", "reuse", "owner", "review_by", "detection"}

// ChangeConnected applies a request to a role with a connection. checkParams returns the params that the connection's
// provider takes, with their defaults.
func (e *Entry) ChangeConnected(c *Change, checkParams func(map[string]any) (map[string]any, error)) error {
	store.Set(&e.Params, c.Params)
	var err error
	if e.Params, err = checkParams(e.Params); err != nil {
		return err
	}
	store.Set(&e.Reuse, c.Reuse)
	e.TokenFormat = ""
	if err := e.changeCommon(c); err != nil {
		return err
	}
	if e.Reuse > 0 && e.NoLease {
		return refusal.Field("reuse", "needs leases: the token ends with the last of them")
	}
	return nil
}

// check rejects a role of native tokens whose fields contradict each other.
func (e *Entry) check() error {
	jwt := e.TokenFormat == FormatJWT
	switch {
	case !jwt && e.TokenFormat != FormatOpaque:
		return refusal.Field("token_format", "%q is not one of: %s, %s", refusal.Clip(e.TokenFormat), FormatOpaque, FormatJWT)
	case !slices.Contains([]string{"", ProofDPoP, ProofMTLS}, e.Proof):
		return refusal.Field("proof", "%q is not one of: %s, %s, or empty", refusal.Clip(e.Proof), ProofDPoP, ProofMTLS)
	case len(e.Scopes) == 0:
		return refusal.Field("scopes", "a role needs at least one")
	case len(e.allowed().Missing(e.Scopes)) > 0:
		return refusal.Field("scopes", "%q exceeds allowed_scopes, which is %q", e.allowed().Missing(e.Scopes), e.AllowedScopes)
	case jwt && len(e.Audience) == 0:
		return refusal.Field("audience", "a role of JWTs needs at least one: the API that the token is for (RFC 9068 section 2.2)")
	case !e.EnforcesBounds() && len(e.TokenBoundCIDRs) > 0:
		return refusal.Field("token_bound_cidrs", Unenforced)
	case !e.EnforcesBounds() && len(e.BoundRegions) > 0:
		return refusal.Field("bound_regions", Unenforced)
	case !e.EnforcesBounds() && len(e.BoundHosts) > 0:
		return refusal.Field("bound_hosts", Unenforced)
	}
	return e.checkLifetimes(jwt)
}

// checkLifetimes rejects lifetimes of native tokens that contradict each other.
func (e *Entry) checkLifetimes(jwt bool) error {
	switch {
	case e.NoLease && !jwt:
		return refusal.Field("generate_lease", "only a role with token_format=jwt, or with a connection, can do without a lease")
	case e.NoLease && e.Refresh:
		return refusal.Field("generate_lease", "a role with refresh=true needs leases")
	case e.NoLease && (e.TTL > MaxLeaselessTTL || e.MaxTTL > MaxLeaselessTTL):
		return refusal.Field("generate_lease", "without a lease ttl and max_ttl may be at most %s", refusal.Short(MaxLeaselessTTL))
	case e.Refresh && e.AccessTTL == 0:
		return refusal.Field("access_ttl", "is needed with refresh=true: how long each token lives, such as 5m")
	case !e.Refresh && e.AccessTTL != 0:
		return refusal.Field("access_ttl", "is for a role with refresh=true")
	case e.MaxTTL > 0 && e.AccessTTL > e.MaxTTL:
		return refusal.Field("access_ttl", "%s is more than max_ttl, which is %s", refusal.Short(e.AccessTTL), refusal.Short(e.MaxTTL))
	}
	return nil
}

func checkMetadata(metadata map[string]string) error {
	if err := custommetadata.Validate(metadata); err != nil {
		return refusal.Field("metadata", "%s", strings.Join(strings.Fields(err.Error()), " "))
	}
	for key, value := range metadata {
		if err := checkTemplate(value); err != nil {
			return refusal.Field("metadata", "%s: %s", refusal.Clip(key), err)
		}
	}
	return nil
}

func parseAddresses(list []string) ([]string, error) {
	addresses, err := access.ParseAddresses(list)
	if err != nil {
		return nil, err
	}
	return addresses.Strings(), nil
}

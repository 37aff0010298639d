package role

import (
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Request holds the fields of a request for a native token; nil if the request leaves a field out.
type Request struct {
	Scopes          *[]string `json:"scopes"`
	Audience        *[]string `json:"audience"`
	TokenBoundCIDRs *[]string `json:"token_bound_cidrs"`
	BoundRegions    *[]string `json:"bound_regions"`
	DPoPJKT         *string   `json:"dpop_jkt"` // thumbprint of a key (RFC 9449 section 6.1)
	X5TS256         *string   `json:"x5t_s256"` // thumbprint of a certificate (RFC 8705 section 3.1)
}

// Requested returns the role of a name, for a request from an address. Requested refuses a name of no role, a role that cannot
// be read, and an address that may not request a token.
func Requested(all *Store, name, remoteAddr string) (*Role, error) {
	if err := all.Broken(name); err != nil {
		return nil, refusal.Wrap(err)
	}
	r := all.Get(name)
	if r == nil {
		return nil, refusal.Field("role", "there is no role %q", refusal.Clip(name))
	}
	return r, r.CheckRequester(remoteAddr)
}

// Narrow returns claims with the fields of the request. Narrow rejects a field that exceeds the role.
func (r *Role) Narrow(q *Request) (*token.Claims, error) {
	claims := new(token.Claims)
	for _, narrow := range []func(*Request, *token.Claims) error{r.narrowScopes, r.narrowAudience, r.narrowAddresses, r.narrowRegions, r.bindToKey} {
		if err := narrow(q, claims); err != nil {
			return nil, err
		}
	}
	return claims, nil
}

func (r *Role) narrowScopes(q *Request, claims *token.Claims) error {
	if q.Scopes == nil {
		return nil
	}
	scopes, err := access.ParseScopes(*q.Scopes)
	if err != nil {
		return refusal.Field("scopes", "%s", err)
	}
	if len(scopes) == 0 {
		return refusal.Field("scopes", "name at least one, or leave it out for the role's %q", r.Scopes)
	}
	if missing := r.most.Missing(scopes); len(missing) > 0 {
		return refusal.Field("scopes", "%q exceeds role %q, which allows %q", missing, r.name, r.most)
	}
	claims.Scopes = scopes
	return nil
}

func (r *Role) narrowAudience(q *Request, claims *token.Claims) error {
	if q.Audience == nil {
		return nil
	}
	if len(*q.Audience) == 0 {
		return refusal.Field("audience", "name at least one, or leave it out for the role's %q", r.Audience)
	}
	audience, err := access.ParseAudience(*q.Audience)
	if err != nil {
		return refusal.Field("audience", "%s", err)
	}
	if allowed := access.IntersectAudiences(audience, r.Audience); len(allowed) != len(audience) {
		return refusal.Field("audience", "%q exceeds role %q, which allows %q", audience, r.name, r.Audience)
	}
	claims.Audience = audience
	return nil
}

func (r *Role) narrowAddresses(q *Request, claims *token.Claims) error {
	if q.TokenBoundCIDRs == nil {
		return nil
	}
	if len(*q.TokenBoundCIDRs) == 0 {
		return refusal.Field("token_bound_cidrs", "name at least one, or leave it out for the role's %q", r.TokenBoundCIDRs)
	}
	addresses, err := access.ParseAddresses(*q.TokenBoundCIDRs)
	if err != nil {
		return refusal.Field("token_bound_cidrs", "%s", err)
	}
	if outside := r.tokenAllowed.Exceeding(addresses); len(outside) > 0 {
		return refusal.Field("token_bound_cidrs", "%s exceeds role %q, which allows %s", outside, r.name, r.TokenBoundCIDRs)
	}
	if addresses.Restricted() && !r.EnforcesBounds() {
		return refusal.Field("token_bound_cidrs", "role %q issues JWTs, and %s", r.name, Unenforced)
	}
	claims.Addresses = addresses.Ranges()
	return nil
}

func (r *Role) narrowRegions(q *Request, claims *token.Claims) error {
	if q.BoundRegions == nil {
		return nil
	}
	if len(*q.BoundRegions) == 0 {
		return refusal.Field("bound_regions", "name at least one, or leave it out for the role's %q", r.BoundRegions)
	}
	regions, err := access.ParseRegions(*q.BoundRegions)
	if err != nil {
		return refusal.Field("bound_regions", "%s", err)
	}
	if outside := access.Regions(r.BoundRegions).Exceeding(regions); len(outside) > 0 {
		return refusal.Field("bound_regions", "%s exceeds role %q, which allows %s", outside, r.name, r.BoundRegions)
	}
	if !r.EnforcesBounds() {
		return refusal.Field("bound_regions", "role %q issues JWTs, and %s", r.name, Unenforced)
	}
	claims.Regions = regions
	return nil
}

// bindToKey binds the token to the key that the request names, as the role's proof requires.
func (r *Role) bindToKey(q *Request, claims *token.Claims) error {
	for _, p := range []struct {
		field, proof string
		given        *string
		into         *string
	}{
		{"dpop_jkt", ProofDPoP, q.DPoPJKT, &claims.Confirmation.JKT},
		{"x5t_s256", ProofMTLS, q.X5TS256, &claims.Confirmation.X5T},
	} {
		switch {
		case p.given != nil && r.Proof != p.proof:
			return refusal.Field(p.field, "is for a role with proof=%s, role %q has proof=%q", p.proof, r.name, r.Proof)
		case p.given == nil && r.Proof == p.proof:
			return refusal.Field(p.field, "is needed: role %q binds its tokens to a key", r.name)
		case p.given != nil:
			if err := token.CheckThumbprint(*p.given); err != nil {
				return refusal.Field(p.field, "%s", err)
			}
			*p.into = *p.given
		}
	}
	return nil
}

// CheckRequester rejects a request for a token from an address outside request_bound_cidrs. remoteAddr is empty if the
// request has no address.
func (r *Role) CheckRequester(remoteAddr string) error {
	if !r.requestAllowed.Restricted() {
		return nil
	}
	if remoteAddr == "" {
		return r.forbids("and this request has no address")
	}
	addr, err := access.ParseClientIP(remoteAddr)
	if err != nil || !r.requestAllowed.Contains(addr) {
		return r.forbids("not from " + remoteAddr)
	}
	return nil
}

func (r *Role) forbids(what string) error {
	return refusal.Denied("role %q may be requested from %s, %s", r.name, r.RequestBoundCIDRs, what)
}

// Lives returns the default TTL and the maximum TTL of a token; zero stands for the mount's value. Lives rejects a requested
// TTL above the role's max_ttl.
func (r *Role) Lives(asked time.Duration) (ttl, maxTTL time.Duration, _ error) {
	ttl, maxTTL = r.TTL, r.MaxTTL
	if r.NoLease && r.Connection == "" {
		if maxTTL == 0 {
			maxTTL = MaxLeaselessTTL
		}
		if ttl == 0 {
			ttl = maxTTL
		}
	}
	if maxTTL > 0 && asked > maxTTL {
		return 0, 0, refusal.Field("ttl", "%s is more than max_ttl of role %q, which is %s", refusal.Short(asked), r.name, refusal.Short(maxTTL))
	}
	return ttl, maxTTL, nil
}

package token

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	strictjson "github.com/go-jose/go-jose/v4/json" // rejects duplicate members, and names in another case
)

// EngineClaim is the name of the only claim that no standard defines. The claim has what the engine needs to open its JWT,
// and facts for APIs.
const EngineClaim = "urn:vault-apitoken"

// JWT is the payload of an access token (RFC 9068 section 2.2).
type JWT struct {
	Issuer       string        `json:"iss"`
	Subject      string        `json:"sub"` // Vault entity ID; "role:" and the role's name if there is none
	Audience     []string      `json:"aud"`
	ExpiresAt    int64         `json:"exp"`
	IssuedAt     int64         `json:"iat"`
	NotBefore    int64         `json:"nbf"`
	ID           string        `json:"jti"`       // the token's name, which begins with its grant
	ClientID     string        `json:"client_id"` // the role's name
	Scope        string        `json:"scope"`
	Environment  string        `json:"env"`
	Confirmation *Confirmation `json:"cnf,omitempty"`
	Status       *JWTStatus    `json:"status,omitempty"`
	Engine       JWTEngine     `json:"urn:vault-apitoken"`
}

// JWTStatus points to the token's place in a status list (draft-ietf-oauth-status-list section 6.1).
type JWTStatus struct {
	List struct {
		Index uint32 `json:"idx"`
		URI   string `json:"uri"`
	} `json:"status_list"`
}

// JWTEngine is the value of EngineClaim.
type JWTEngine struct {
	Role            string            `json:"role"` // RoleID
	RoleVersion     uint32            `json:"role_version"`
	StatusList      uint32            `json:"status_list,omitempty"`
	Metadata        map[string]string `json:"metadata,omitempty"`          // the role's
	TokenBoundCIDRs []string          `json:"token_bound_cidrs,omitempty"` // where the token may be used from
	BoundRegions    []string          `json:"bound_regions,omitempty"`     // codes of ISO 3166-1 alpha-2 that the token may be used from
	BoundHosts      []string          `json:"bound_hosts,omitempty"`       // where the token may be used
	RateLimit       string            `json:"rate_limit,omitempty"`        // as access.ParseRate reads it; empty: none
}

// roleSubject begins the subject of a token without a Vault entity.
const roleSubject = "role:"

// NewJWT returns the payload for claims. The caller has filled in the role's permissions and metadata.
func NewJWT(claims *Claims, issuer, environment, roleName, statusURI string) (*JWT, error) {
	if err := claims.check(); err != nil {
		return nil, err
	}
	switch {
	case len(claims.Scopes) == 0:
		return nil, errors.New("scopes: a JWT needs at least one")
	case len(claims.Audience) == 0:
		return nil, errors.New("audience: a JWT needs at least one")
	case claims.Generation > 0:
		return nil, errors.New("a refresh token is never a JWT")
	}
	p := &JWT{
		Issuer: issuer, Subject: claims.Subject, Audience: claims.Audience,
		ExpiresAt: claims.ExpiresAt.Unix(), IssuedAt: claims.IssuedAt.Unix(), NotBefore: claims.IssuedAt.Unix(),
		ID: claims.Name(), ClientID: roleName, Scope: strings.Join(claims.Scopes, " "), Environment: environment,
		Engine: JWTEngine{
			Role: claims.Role.String(), RoleVersion: claims.RoleVersion,
			Metadata: claims.Metadata, BoundRegions: claims.Regions, BoundHosts: claims.Hosts,
		},
	}
	if p.Subject == "" {
		p.Subject = roleSubject + roleName
	}
	for _, r := range claims.Addresses {
		p.Engine.TokenBoundCIDRs = append(p.Engine.TokenBoundCIDRs, r.String())
	}
	if !claims.Confirmation.IsZero() {
		p.Confirmation = &claims.Confirmation
	}
	if !claims.Status.IsZero() {
		p.Status = new(JWTStatus)
		p.Status.List.Index, p.Status.List.URI = claims.Status.Index, statusURI
		p.Engine.StatusList = claims.Status.List
	}
	return p, nil
}

// MintJWT signs a payload with the ring's current key.
func MintJWT(ring *SigningRing, payload *JWT) (string, error) {
	encoded, err := json.Marshal(payload)
	if err != nil {
		return "", err
	}
	text, err := ring.Sign(TypeAccessToken, encoded)
	if err != nil {
		return "", err
	}
	engine := &payload.Engine
	err = checkLen([]byte(text), &partSizes{
		scopes: len(payload.Scope), audience: sizeOf(payload.Audience), addresses: sizeOf(engine.TokenBoundCIDRs),
		regions: sizeOf(engine.BoundRegions), hosts: sizeOf(engine.BoundHosts), metadata: engine.Metadata,
	})
	if err != nil {
		return "", err
	}
	return text, nil
}

// IsJWT reports whether s has the shape of a JWT: no opaque token has a dot.
func IsJWT(s string) bool { return strings.Count(s, ".") == 2 }

var allAlgorithms = []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA, jose.RS256}

// OpenJWT verifies a token and returns its claims, with the errors of Open. OpenJWT accepts only the algorithm of the
// key, whatever the header says (RFC 8725 section 3.1), and ignores a key in the header.
func OpenJWT(ring *SigningRing, s string) (*Claims, error) {
	if len(s) > MaxLen || !IsJWT(s) {
		return nil, ErrMalformed
	}
	signed, err := jose.ParseSignedCompact(s, allAlgorithms)
	if err != nil {
		return nil, ErrMalformed
	}
	header := signed.Signatures[0].Protected
	key, known := ring.public[header.KeyID]
	switch {
	case header.ExtraHeaders[jose.HeaderType] != TypeAccessToken:
		return nil, ErrMalformed
	case !known:
		return nil, &UnknownKeyError{header.KeyID}
	case key.refusal != nil:
		return nil, key.refusal
	case header.Algorithm != key.Algorithm:
		return nil, ErrForged
	}
	payload, err := signed.Verify(key.Key)
	if err != nil {
		return nil, ErrForged
	}
	var p JWT
	if err := strictjson.Unmarshal(payload, &p); err != nil {
		return nil, ErrMalformed
	}
	claims, err := p.claims()
	if err != nil {
		return nil, ErrMalformed
	}
	return claims, nil
}

func (p *JWT) claims() (*Claims, error) {
	c := &Claims{
		RoleVersion: p.Engine.RoleVersion,
		IssuedAt:    time.Unix(p.IssuedAt, 0),
		ExpiresAt:   time.Unix(p.ExpiresAt, 0),
		Scopes:      strings.Fields(p.Scope),
		Audience:    p.Audience,
		Regions:     p.Engine.BoundRegions,
		Hosts:       p.Engine.BoundHosts,
		Metadata:    p.Engine.Metadata,
	}
	var err error
	if c.ID, c.Grant, err = ParseName(p.ID); err != nil {
		return nil, err
	}
	if err := c.Role.UnmarshalText([]byte(p.Engine.Role)); err != nil {
		return nil, err
	}
	if p.Subject != roleSubject+p.ClientID {
		c.Subject = p.Subject
	}
	for _, s := range p.Engine.TokenBoundCIDRs {
		r, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		c.Addresses = append(c.Addresses, r)
	}
	if p.Confirmation != nil {
		c.Confirmation = *p.Confirmation
	}
	if p.Status != nil {
		c.Status = StatusRef{List: p.Engine.StatusList, Index: p.Status.List.Index}
	}
	if len(c.Scopes) == 0 || len(c.Audience) == 0 {
		return nil, errors.New("the JWT grants nothing")
	}
	return c, c.check()
}

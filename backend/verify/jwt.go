package verify

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	strictjson "github.com/go-jose/go-jose/v4/json" // rejects duplicate members, and names in another case

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// algorithms are those that the engine signs with.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA, jose.RS256}

// maxHeaders is how many spellings of the header of a key's JWTs are remembered. The engine has one.
const maxHeaders = 4

// header is the header of a JWT.
type header struct {
	Algorithm string   `json:"alg"`
	KeyID     string   `json:"kid"`
	Type      string   `json:"typ"`
	Critical  []string `json:"crit"`
}

func refuse(reason access.Reason, detail string) *refusal {
	return &refusal{reason: reason, detail: detail}
}

// openJWT checks a JWT without Vault (RFC 9068 section 4, RFC 8725): signature, typ, iss, env, exp and nbf. The audience
// and all else depends on the use.
func (v *impl) openJWT(ctx context.Context, text string, now time.Time) (*facts, *refusal, error) {
	head, rest, _ := strings.Cut(text, ".")
	body, signature, _ := strings.Cut(rest, ".")
	k, no, err := v.keyOf(ctx, head)
	if no != nil || err != nil {
		return nil, no, err
	}
	if k.gone.Load() {
		return nil, refuse(access.Revoked, "the key of the JWT was destroyed"), nil
	}
	if !verifySignature(k, text[:len(head)+1+len(body)], signature) {
		return nil, refuse(access.Unknown, "the signature of the JWT is wrong"), nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, refuse(access.Malformed, "the payload of the JWT is no base64url"), nil
	}
	var p token.JWT
	if err := decodePayload(string(payload), &p); err != nil {
		return nil, refuse(access.Malformed, "the payload of the JWT is not that of an access token"), nil
	}
	k.remember(head)
	return v.readJWT(ctx, &p, k, now)
}

// keyOf returns the key that the header of a JWT names.
func (v *impl) keyOf(ctx context.Context, head string) (*key, *refusal, error) {
	h, no := v.headerOf(head)
	if no != nil {
		return nil, no, nil
	}
	k, err := v.keys.get(ctx, h.KeyID)
	switch {
	case errors.Is(err, errUnknownKey):
		return nil, refuse(access.WrongEnvironment, "the JWT was "+err.Error()), nil
	case err != nil:
		return nil, nil, err
	case h.Algorithm != k.Algorithm:
		return nil, refuse(access.Unknown, "the algorithm of the JWT is not that of its key"), nil
	}
	return k, nil, nil
}

// headerOf decodes and checks the header of a JWT.
func (v *impl) headerOf(head string) (*header, *refusal) {
	for _, k := range *v.keys.known.Load() {
		if _, known := k.headers.Load(head); known {
			return &header{Algorithm: k.Algorithm, KeyID: k.KeyID}, nil
		}
	}
	decoded, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return nil, refuse(access.Malformed, "the header of the JWT is no base64url")
	}
	var h header
	if err := strictjson.Unmarshal(decoded, &h); err != nil {
		return nil, refuse(access.Malformed, "the header of the JWT is no JSON object")
	}
	switch {
	case h.Type != token.TypeAccessToken:
		return nil, refuse(access.Malformed, "the typ of the JWT is not "+token.TypeAccessToken)
	case h.Critical != nil:
		return nil, refuse(access.Malformed, "the JWT has critical header parameters")
	case h.KeyID == "":
		return nil, refuse(access.Malformed, "the JWT names no key")
	}
	return &h, nil
}

// remember spares later JWTs with the same header the decoding of the header.
func (k *key) remember(head string) {
	if k.count.Load() >= maxHeaders {
		return
	}
	if _, had := k.headers.LoadOrStore(strings.Clone(head), struct{}{}); !had {
		k.count.Add(1)
	}
}

// readJWT returns the facts that the payload of a JWT with a good signature states.
func (v *impl) readJWT(ctx context.Context, p *token.JWT, k *key, now time.Time) (*facts, *refusal, error) {
	no := &refusal{id: p.ID, role: p.ClientID}
	say := func(reason access.Reason, detail string) (*facts, *refusal, error) {
		no.reason, no.detail = reason, detail
		return nil, no, nil
	}
	if _, _, err := token.ParseName(p.ID); err != nil || p.ClientID == "" || len(p.Audience) == 0 {
		no.id = ""
		return say(access.Malformed, "the JWT has no jti, client_id or aud of this engine")
	}
	skew := int64(v.config.ClockSkew / time.Second)
	switch {
	case p.Issuer != v.issuer.get():
		return say(access.WrongEnvironment, "the JWT has another issuer")
	case v.config.Environment != "" && p.Environment != v.config.Environment:
		return say(access.WrongEnvironment, fmt.Sprintf("the JWT is of environment %q, not %q", p.Environment, v.config.Environment))
	case now.Unix() >= p.ExpiresAt:
		return say(access.Expired, "the JWT has expired")
	case p.NotBefore > now.Unix()+skew || p.IssuedAt > now.Unix()+skew:
		return say(access.Unknown, "the JWT is not valid yet: is the clock wrong?")
	}
	t, err := v.interned.terms(&rawTerms{
		Role: p.ClientID, Scopes: p.Scope, Audience: p.Audience, CIDRs: p.Engine.TokenBoundCIDRs, Regions: p.Engine.BoundRegions,
		Hosts: p.Engine.BoundHosts, Metadata: p.Engine.Metadata, Environment: p.Environment, Rate: p.Engine.RateLimit,
	})
	if err != nil {
		return say(access.Malformed, err.Error())
	}
	f := &facts{terms: t, expires: p.ExpiresAt, learned: time.Unix(p.IssuedAt, 0).UnixNano(), key: k}
	if c := p.Confirmation; c != nil { // a copy, which does not keep the payload in memory
		f.bound = &token.Confirmation{JKT: strings.Clone(c.JKT), X5T: strings.Clone(c.X5T)}
	}
	if f.bound != nil && f.bound.IsZero() {
		return say(access.Malformed, "the JWT is bound to a kind of key that is not known here")
	}
	subject := p.Subject
	if subject == "role:"+p.ClientID { // no Vault entity
		subject = ""
	}
	f.setNames(p.ID, subject)
	if p.Status != nil {
		f.place = p.Status.List.Index
		if f.list, err = v.lists.at(ctx, p.Status.List.URI); err != nil {
			return nil, nil, err
		}
	}
	return f, nil, nil
}

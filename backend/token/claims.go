package token

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Claims is the content of a token. Claims do not repeat the role. Scopes, addresses, regions, hosts, audience and metadata
// are set only if the request narrowed the role, if the role was tightened since the grant was made, or if a template was filled
// in for the requester.
type Claims struct {
	ID          ID     // the token's public name
	Grant       ID     // the token's grant; the ID of the grant's first token
	Role        RoleID // the role that issued the token
	RoleVersion uint32 // the version of the role
	Subject     string // the Vault entity that requested the token; empty if there is none

	IssuedAt  time.Time // to the second, as a NumericDate of RFC 7519 section 2
	ExpiresAt time.Time // to the second; not valid from this moment on, unless the lease was renewed

	Scopes    []string          // nil: the role's default scopes
	Addresses []netip.Prefix    // nil: no narrower than the role
	Regions   []string          // nil: no narrower than the role; codes of ISO 3166-1 alpha-2, sorted
	Hosts     []string          // nil: no narrower than the role
	Audience  []string          // nil: the role's audience
	Metadata  map[string]string // the role's templated metadata, filled in

	Confirmation Confirmation // the key that the token is bound to
	Status       StatusRef    // the grant's place in a status list
	Generation   uint32       // of a refresh token, from 1; 0 for an access token

	// GrantLifetime is how long the grant may live, renewals included, counted from IssuedAt. Only refresh
	// tokens carry it, to the second.
	GrantLifetime time.Duration
}

// Name returns the token's public name: "<grant>.<ID>", or the ID alone if the grant has the same ID.
func (c *Claims) Name() string {
	if c.Grant == c.ID {
		return c.ID.String()
	}
	return c.Grant.String() + "." + c.ID.String()
}

// ParseName parses a name that Name returned. It rejects any other spelling.
func ParseName(s string) (id, grant ID, err error) {
	first, second, member := strings.Cut(s, ".")
	if grant, err = ParseID(first); err != nil {
		return ID{}, ID{}, err
	}
	if !member {
		return grant, grant, nil
	}
	if id, err = ParseID(second); err == nil && id == grant {
		err = errors.New("names the grant twice")
	}
	if err != nil {
		return ID{}, ID{}, err
	}
	return id, grant, nil
}

// check rejects claims that would change when they are encoded and decoded: an empty set would become an absent set, which
// means all that the role allows.
func (c *Claims) check() error {
	switch {
	case c.Scopes != nil && len(c.Scopes) == 0:
		return errors.New("scopes: the set is empty")
	case c.Audience != nil && len(c.Audience) == 0:
		return errors.New("audience: the set is empty")
	case c.Addresses != nil && len(c.Addresses) == 0:
		return errors.New("token_bound_cidrs: the set is empty")
	case c.Regions != nil && len(c.Regions) == 0:
		return errors.New("bound_regions: the set is empty")
	case c.Hosts != nil && len(c.Hosts) == 0:
		return errors.New("bound_hosts: the set is empty")
	case (c.Generation > 0) != (c.GrantLifetime >= time.Second):
		return errors.New("only a refresh token has a grant lifetime, of at least a second")
	}
	return nil
}

// Confirmation names the key whose holder may use a token (RFC 7800): the SHA-256 thumbprint in base64url of a JWK
// (RFC 9449 section 6.1) or of a certificate (RFC 8705 section 3.1). The zero Confirmation binds to no key.
type Confirmation struct {
	JKT string `json:"jkt,omitempty"`
	X5T string `json:"x5t#S256,omitempty"`
}

// IsZero reports whether c binds to no key.
func (c Confirmation) IsZero() bool { return c == Confirmation{} }

// CheckThumbprint returns an error unless s is a SHA-256 thumbprint in base64url.
func CheckThumbprint(s string) error {
	if b, err := base64.RawURLEncoding.Strict().DecodeString(s); err != nil || len(b) != sha256.Size {
		return errors.New("must be a SHA-256 thumbprint: 32 bytes as 43 characters of base64url")
	}
	return nil
}

// wireClaims is the CBOR form (RFC 8949, core deterministic encoding), a map with small integer keys.
// The token's header contains the ID. Keys are never reused. An engine refuses a
// token with a key that the engine does not know: a new key needs no new format version.
type wireClaims struct {
	Grant       []byte            `cbor:"1,keyasint,omitempty"` // absent: equal to the ID
	Role        []byte            `cbor:"2,keyasint"`
	RoleVersion uint32            `cbor:"3,keyasint"`
	SubjectUUID []byte            `cbor:"4,keyasint,omitempty"` // a subject in UUID form, as 16 bytes
	Subject     string            `cbor:"5,keyasint,omitempty"` // any other subject
	IssuedAt    int64             `cbor:"6,keyasint"`           // seconds since 1970
	Lifetime    int64             `cbor:"7,keyasint"`           // seconds from IssuedAt to ExpiresAt
	Scopes      []string          `cbor:"8,keyasint,omitempty"`
	Addresses   [][]byte          `cbor:"9,keyasint,omitempty"` // netip.Prefix.MarshalBinary
	Audience    []string          `cbor:"10,keyasint,omitempty"`
	Metadata    map[string]string `cbor:"11,keyasint,omitempty"`
	JKT         string            `cbor:"12,keyasint,omitempty"`
	X5T         string            `cbor:"13,keyasint,omitempty"`
	Status      *StatusRef        `cbor:"14,keyasint,omitempty"`
	Generation  uint32            `cbor:"15,keyasint,omitempty"`

	GrantLifetime int64    `cbor:"16,keyasint,omitempty"` // seconds
	Hosts         []string `cbor:"17,keyasint,omitempty"`
	Regions       []string `cbor:"18,keyasint,omitempty"`
}

// maxGrantLifetime is the largest time.Duration in seconds.
const maxGrantLifetime = int64(math.MaxInt64 / time.Second)

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (c *Claims) marshal() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	w := wireClaims{
		Role:        c.Role[:],
		RoleVersion: c.RoleVersion,
		IssuedAt:    c.IssuedAt.Unix(),
		Lifetime:    c.ExpiresAt.Unix() - c.IssuedAt.Unix(),
		Scopes:      c.Scopes,
		Audience:    c.Audience,
		Regions:     c.Regions,
		Hosts:       c.Hosts,
		Metadata:    c.Metadata,
		JKT:         c.Confirmation.JKT,
		X5T:         c.Confirmation.X5T,
		Generation:  c.Generation,

		GrantLifetime: int64(c.GrantLifetime / time.Second),
	}
	if !c.Status.IsZero() {
		w.Status = &c.Status
	}
	if !c.Grant.IsZero() && c.Grant != c.ID {
		w.Grant = c.Grant[:]
	}
	var uuid [16]byte
	if parseUUID(&uuid, c.Subject) {
		w.SubjectUUID = uuid[:]
	} else {
		w.Subject = c.Subject
	}
	for _, prefix := range c.Addresses {
		b, err := prefix.MarshalBinary()
		if err != nil {
			return nil, err
		}
		w.Addresses = append(w.Addresses, b)
	}
	return encMode.Marshal(&w)
}

func (c *Claims) unmarshal(b []byte) error {
	var w wireClaims
	if err := decMode.Unmarshal(b, &w); err != nil {
		return err
	}
	if len(w.Role) != len(c.Role) || (w.Grant != nil && len(w.Grant) != len(c.Grant)) || w.Lifetime < 0 ||
		w.GrantLifetime < 0 || w.GrantLifetime > maxGrantLifetime || (w.Addresses != nil && len(w.Addresses) == 0) {
		return fmt.Errorf("claims have the wrong shape")
	}
	c.Grant = c.ID
	copy(c.Grant[:], w.Grant)
	copy(c.Role[:], w.Role)
	c.RoleVersion = w.RoleVersion
	c.Subject = w.Subject
	if len(w.SubjectUUID) == 16 {
		c.Subject = formatUUID(w.SubjectUUID)
	}
	c.IssuedAt = time.Unix(w.IssuedAt, 0)
	c.ExpiresAt = time.Unix(w.IssuedAt+w.Lifetime, 0)
	c.Scopes, c.Audience, c.Regions, c.Hosts, c.Metadata = w.Scopes, w.Audience, w.Regions, w.Hosts, w.Metadata
	c.Confirmation = Confirmation{JKT: w.JKT, X5T: w.X5T}
	c.Generation = w.Generation
	c.GrantLifetime = time.Duration(w.GrantLifetime) * time.Second
	c.Status = StatusRef{}
	if w.Status != nil {
		c.Status = *w.Status
	}
	c.Addresses = nil
	for _, b := range w.Addresses {
		var prefix netip.Prefix
		if err := prefix.UnmarshalBinary(b); err != nil {
			return err
		}
		c.Addresses = append(c.Addresses, prefix)
	}
	return c.check()
}

// parseUUID parses the canonical form of a UUID (RFC 9562 section 4), as formatUUID writes it.
func parseUUID(dst *[16]byte, s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return parseHex(dst[0:4], s[0:8]) == nil &&
		parseHex(dst[4:6], s[9:13]) == nil &&
		parseHex(dst[6:8], s[14:18]) == nil &&
		parseHex(dst[8:10], s[19:23]) == nil &&
		parseHex(dst[10:16], s[24:36]) == nil
}

func formatUUID(b []byte) string {
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	s[8] = '-'
	hex.Encode(s[9:13], b[4:6])
	s[13] = '-'
	hex.Encode(s[14:18], b[6:8])
	s[18] = '-'
	hex.Encode(s[19:23], b[8:10])
	s[23] = '-'
	hex.Encode(s[24:36], b[10:16])
	return string(s[:])
}

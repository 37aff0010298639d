package token

import (
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// wire returns the members of encoded claims, by key.
func wire(t testing.TB, c *Claims) map[int]any {
	t.Helper()
	b, err := c.marshal()
	if err != nil {
		t.Fatal(err)
	}
	var members map[int]any
	if err := cbor.Unmarshal(b, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

func TestClaimsOfTheWrongShape(t *testing.T) {
	for _, c := range []struct {
		claims *Claims
		key    int
		value  any
		good   bool
	}{
		{fullClaims(), 1, make([]byte, 11), false},
		{fullClaims(), 1, make([]byte, 12), true},
		{fullClaims(), 1, make([]byte, 13), false},
		{fullClaims(), 2, make([]byte, 7), false},
		{fullClaims(), 2, make([]byte, 9), false},
		{fullClaims(), 7, -1, false},
		{fullClaims(), 7, 0, true},
		{refreshClaims(), 16, -1, false},
		{refreshClaims(), 16, 0, false}, // a refresh token has a lifetime of its grant
		{refreshClaims(), 16, 1, true},
		{refreshClaims(), 16, maxGrantLifetime, true},
		{refreshClaims(), 16, maxGrantLifetime + 1, false},
		{testClaims(), 16, 1, false}, // no other token has one
		{fullClaims(), 9, [][]byte{{1, 2, 3}}, false},
		{fullClaims(), 17, []string{}, false},
		{fullClaims(), 18, 1, false},
		{fullClaims(), 18, []string{}, false},
		{fullClaims(), 18, []string{"DE"}, true},
		{fullClaims(), 19, 1, false},
	} {
		members := maps.Clone(wire(t, c.claims))
		members[c.key] = c.value
		b, err := cbor.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		if err := new(Claims).unmarshal(b); (err == nil) != c.good {
			t.Errorf("%d: %v: %v", c.key, c.value, err)
		}
	}
}

// Each claim is read as it was written, in both formats.
func TestClaimsWithRegionsAndHosts(t *testing.T) {
	claims := fullClaims()
	claims.Regions = []string{"CH", "DE"}
	claims.Hosts = []string{"api.example.com", "*.internal"}
	b, err := claims.marshal()
	if err != nil {
		t.Fatal(err)
	}
	read := &Claims{ID: claims.ID}
	if err := read.unmarshal(b); err != nil {
		t.Fatal(err)
	}
	read.IssuedAt, read.ExpiresAt = read.IssuedAt.UTC(), read.ExpiresAt.UTC()
	claims.IssuedAt, claims.ExpiresAt = claims.IssuedAt.UTC(), claims.ExpiresAt.UTC()
	if !reflect.DeepEqual(read, claims) {
		t.Errorf("read %+v\nwant %+v", read, claims)
	}
	ring := testSigningRing(t, "ES256")
	text, err := MintJWT(ring, testPayload(t, claims, ""))
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := OpenJWT(ring, text); err != nil || !reflect.DeepEqual(opened.Hosts, claims.Hosts) {
		t.Errorf("%+v, %v", opened, err)
	} else if !reflect.DeepEqual(opened.Regions, claims.Regions) {
		t.Errorf("regions %q", opened.Regions)
	}
	claims.Hosts = []string{}
	if err := claims.check(); err == nil {
		t.Error("an empty set of hosts is written")
	}
	claims.Hosts, claims.Regions = nil, []string{}
	if err := claims.check(); err == nil {
		t.Error("an empty set of regions is written")
	}
}

func TestGrantLifetime(t *testing.T) {
	for lifetime, good := range map[time.Duration]bool{0: false, time.Second - 1: false, time.Second: true} {
		claims := refreshClaims()
		claims.GrantLifetime = lifetime
		if err := claims.check(); (err == nil) != good {
			t.Errorf("%s: %v", lifetime, err)
		}
	}
}

func TestSubjects(t *testing.T) {
	const uuid = "8d4b4a3e-8c4f-4f0a-9e0b-3a8f0a1b2c3d"
	subjects := []string{"", uuid, strings.ToUpper(uuid), uuid + "0", uuid[1:], "0123456789abcdef"}
	for i := range uuid {
		subjects = append(subjects, uuid[:i]+"_"+uuid[i+1:], uuid[:i]+"-"+uuid[i+1:])
	}
	for _, subject := range subjects {
		claims := testClaims()
		claims.Subject = subject
		b, err := claims.marshal()
		if err != nil {
			t.Fatal(err)
		}
		read := new(Claims)
		if err := read.unmarshal(b); err != nil || read.Subject != subject {
			t.Errorf("%q is read as %q, %v", subject, read.Subject, err)
		}
		if _, compact := wire(t, claims)[4]; compact != (subject == uuid) {
			t.Errorf("%q: written as 16 bytes: %v", subject, compact)
		}
	}
}

// The digits at both ends of each range are hexadecimal, and their neighbours are not.
func TestHexDigits(t *testing.T) {
	for c, good := range map[byte]bool{'0': true, '9': true, 'a': true, 'f': true, '/': false, ':': false, '`': false, 'g': false, 'A': false} {
		if _, err := ParseID(strings.Repeat(string(c), 24)); (err == nil) != good {
			t.Errorf("%q: %v", c, err)
		}
	}
}

func TestRoleIDs(t *testing.T) {
	id, err := NewRoleID(strings.NewReader("\x01\x02\x03\x04\x05\x06\x07\x08"))
	if err != nil || id.String() != "0102030405060708" {
		t.Error(id, err)
	}
	var read RoleID
	if err := read.UnmarshalText([]byte(id.String())); err != nil || read != id {
		t.Error(read, err)
	}
	if _, err := NewRoleID(strings.NewReader("short")); err == nil {
		t.Error("a role id from too little randomness")
	}
}

// A token of the greatest length opens, in both formats.
func TestMaxLen(t *testing.T) {
	signing, ring := testSigningRing(t, "ES256"), testRing(t, 7)
	var opaque, signed bool
	for n := 2000; n < MaxLen && !(opaque && signed); n++ {
		claims := fullClaims()
		claims.Metadata = map[string]string{"a": strings.Repeat("b", n)}
		if text, err := Mint(ring, "apt", claims); len(text) == MaxLen {
			opaque = true
			if _, openErr := Open(ring, text); err != nil || openErr != nil {
				t.Error("opaque", err, openErr)
			}
		}
		if text, err := MintJWT(signing, testPayload(t, claims, "")); len(text) == MaxLen {
			signed = true
			if _, openErr := OpenJWT(signing, text); err != nil || openErr != nil {
				t.Error("JWT", err, openErr)
			}
		}
	}
	if !opaque || !signed {
		t.Errorf("no token of %d bytes: opaque %v, JWT %v", MaxLen, opaque, signed)
	}
}

func TestConfirmation(t *testing.T) {
	const thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	for s, good := range map[string]bool{thumbprint: true, thumbprint[:42]: false, thumbprint + "A": false, thumbprint[:42] + "J": false, "": false} {
		if err := CheckThumbprint(s); (err == nil) != good {
			t.Errorf("%q: %v", s, err)
		}
	}
	if !(Confirmation{}).IsZero() || (Confirmation{JKT: "x"}).IsZero() || (Confirmation{X5T: "x"}).IsZero() {
		t.Error("IsZero")
	}
}

// The longest part of a token that is too long is named.
func TestTooLongNamesThePart(t *testing.T) {
	long := []string{strings.Repeat("a", MaxLen)}
	for field, change := range map[string]func(*Claims){
		"scopes":            func(c *Claims) { c.Scopes = long },
		"audience":          func(c *Claims) { c.Audience = long },
		"bound_hosts":       func(c *Claims) { c.Hosts = long },
		"bound_regions":     func(c *Claims) { c.Regions = long },
		"token_bound_cidrs": func(c *Claims) { c.Addresses = make([]netip.Prefix, 600) },
	} {
		claims := fullClaims()
		change(claims)
		for i := range claims.Addresses {
			claims.Addresses[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32)
		}
		var tooLong *TooLongError
		if _, err := Mint(testRing(t, 7), "apt", claims); !errors.As(err, &tooLong) || tooLong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
	"time"
)

func TestNewKey(t *testing.T) {
	key, err := NewKey(bytes.NewReader(append([]byte{0, 0, 1, 0xff}, bytes.Repeat([]byte{7}, 32)...)), issued)
	if err != nil || key.Name != "000001ff" || key.Algorithm != AlgorithmGCM || !bytes.Equal(key.Secret, bytes.Repeat([]byte{7}, 32)) {
		t.Errorf("%+v, %v", key, err)
	}
	if key.State() != "current" || !key.CreatedAt.Equal(issued) || !key.UsedFrom.Equal(issued) {
		t.Errorf("%+v", key)
	}
	if _, err := NewKey(strings.NewReader("short"), issued); err == nil {
		t.Error("a key from too little randomness")
	}
}

func TestFind(t *testing.T) {
	ring := testRing(t, 1, 2)
	if key := ring.Find("00000002"); key == nil || key.Name != "00000002" {
		t.Errorf("%+v", key)
	}
	if key := ring.Find("00000003"); key != nil {
		t.Errorf("%+v", key)
	}
	if len(ring.All()) != 2 || new(Ring).Current() != nil || new(Ring).Successor() != nil {
		t.Error("keys of rings")
	}
}

// A key retires when the next one begins, and is needed as long as what it has made may live.
func TestNeededUntil(t *testing.T) {
	if k := (&Key{LongestLifetime: time.Hour}); !k.NeededUntil().IsZero() {
		t.Error(k.NeededUntil())
	}
	if k := (&Key{LongestLifetime: time.Hour, RetiredAt: issued}); !k.NeededUntil().Equal(issued.Add(time.Hour)) {
		t.Error(k.NeededUntil())
	}
}

// A key of the wrong name, algorithm or length is broken, and opens nothing.
func TestBrokenKeys(t *testing.T) {
	for name, change := range map[string]func(*Key){
		"not a number": func(k *Key) { k.Name = "key" },
		"upper case":   func(k *Key) { k.Name = "0000000A" },
		"short":        func(k *Key) { k.Name = "7" },
		"algorithm":    func(k *Key) { k.Algorithm = "A128GCM" },
		"length":       func(k *Key) { k.Secret = k.Secret[:16] },
	} {
		keys := testRing(t, 7).Keys
		change(&keys[0])
		ring := NewRing(keys)
		if ring.Keys[0].State() != "broken" || ring.Current() != nil {
			t.Errorf("%s: %s", name, ring.Keys[0].State())
		}
		if _, err := Mint(ring, "apt", testClaims()); err == nil {
			t.Errorf("%s: the ring seals", name)
		}
	}
}

func TestUnknownKey(t *testing.T) {
	text, err := Mint(testRing(t, 0x1ff), "apt", testClaims())
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(testRing(t, 7), text)
	unknown, ok := errors.AsType[*UnknownKeyError](err)
	if !ok || unknown.Name != "000001ff" || !errors.Is(err, ErrUnknownKey) || err.Error() != ErrUnknownKey.Error() {
		t.Errorf("%#v", err)
	}
}

func TestPlainGrant(t *testing.T) {
	claims := fullClaims()
	opaque, err := Mint(testRing(t, 7), "apt", claims)
	if err != nil {
		t.Fatal(err)
	}
	if grant, ok := PlainGrant(opaque); !ok || grant != claims.ID {
		t.Error(grant, ok)
	}
	ring := testSigningRing(t, "ES256")
	signed, err := MintJWT(ring, testPayload(t, claims, ""))
	if err != nil {
		t.Fatal(err)
	}
	if grant, ok := PlainGrant(signed); !ok || grant != claims.Grant {
		t.Error(grant, ok)
	}
	nameless, err := ring.Sign(TypeAccessToken, []byte(`{"jti": "noise"}`))
	if err != nil {
		t.Fatal(err)
	}
	shapeless, err := ring.Sign(TypeAccessToken, []byte(`[]`))
	if err != nil {
		t.Fatal(err)
	}
	short := withChecksum("apt_" + string(appendBase62(nil, make([]byte, headerBytes-1))))
	if !Checksum(short) {
		t.Fatal(short)
	}
	for _, s := range []string{"", "noise", "a.b.c", nameless, shapeless, opaque[1:], short, withChecksum("apt_0")} {
		if grant, ok := PlainGrant(s); ok {
			t.Errorf("%q belongs to %s", s, grant)
		}
	}
	header := withChecksum("apt_" + string(appendBase62(nil, make([]byte, headerBytes))))
	if grant, ok := PlainGrant(header); !ok || !grant.IsZero() {
		t.Error(grant, ok)
	}
	nothingSealed := append([]byte{opaqueVersion, 0, 0, 0, 7}, make([]byte, headerBytes-5)...)
	for s, want := range map[string]error{
		header: ErrMalformed, // of an unknown version
		short:  ErrMalformed,
		withChecksum("apt_" + string(appendBase62(nil, nothingSealed))): ErrForged,
	} {
		if _, err := Open(testRing(t, 0, 7), s); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", s, err, want)
		}
	}
}

func TestPlaces(t *testing.T) {
	place := StatusRef{List: 0x01020304, Index: 0x0a0b0c}
	id, err := NewGrantID(bytes.NewReader(bytes.Repeat([]byte{0xff}, 12)), place)
	if err != nil || id.String() != "ffffffffff010203040a0b0c" || id.Place() != place {
		t.Error(id, id.Place(), err)
	}
	if place.IsZero() || !(StatusRef{Index: 1}).IsZero() {
		t.Error("lists are counted from 1")
	}
	if _, err := NewGrantID(strings.NewReader("short"), place); err == nil {
		t.Error("an id from too little randomness")
	}
}

func TestIDsInJSON(t *testing.T) {
	type ids struct {
		ID   ID
		Role RoleID
	}
	in := ids{ID{1}, RoleID{2}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out ids
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%s: %+v, %v", b, out, err)
	}
}

// A bit of a list is the first of its byte if it is the least significant one. A list has a byte for its last bits.
func TestStatusListSizes(t *testing.T) {
	for size, want := range map[int]int{0: 0, 1: 1, 8: 1, 9: 2, 1024: 128} {
		var set []uint32
		if size > 0 {
			set = []uint32{0, uint32(size - 1)}
		}
		lst, _, err := EncodeStatusList(size, set, nil)
		if err != nil {
			t.Fatal(err)
		}
		list, err := DecodeStatusList(lst)
		if err != nil || len(list) != want {
			t.Errorf("%d bits: %d bytes, %v", size, len(list), err)
		}
		for _, place := range set {
			if list[place/8]&(1<<(place%8)) == 0 {
				t.Errorf("bit %d of %d is not set", place, size)
			}
		}
	}
	for _, lst := range []string{"!", "AAAA"} {
		if list, err := DecodeStatusList(lst); err == nil {
			t.Errorf("%q: %x", lst, list)
		}
	}
}

// A JWT that grants nothing is malformed, even if its signature is good.
func TestJWTThatGrantsNothing(t *testing.T) {
	ring := testSigningRing(t, "ES256")
	for name, change := range map[string]func(*JWT){
		"scopes":   func(p *JWT) { p.Scope = "" },
		"audience": func(p *JWT) { p.Audience = nil },
		"id":       func(p *JWT) { p.ID = "" },
		"role":     func(p *JWT) { p.Engine.Role = "reader" },
		"address":  func(p *JWT) { p.Engine.TokenBoundCIDRs = []string{"10.0.0.0"} },
	} {
		payload := testPayload(t, fullClaims(), "")
		change(payload)
		text, err := MintJWT(ring, payload)
		if err != nil {
			t.Fatal(err)
		}
		if claims, err := OpenJWT(ring, text); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, claims, err)
		}
	}
}

func TestChecksumNeedsAPrefix(t *testing.T) {
	for s, good := range map[string]bool{"a_0": true, "apt_0": true, "_0": false, "apt0": false, "": false} {
		if got := Checksum(withChecksum(s)); got != good {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestNoneIn(t *testing.T) {
	opaque := withChecksum("apt_0123456789012345678901234567890")
	for text, found := range map[string]bool{
		"token=" + opaque: true, "(" + opaque + ").": true, opaque + "," + opaque: true, "a eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.e30.AAAA": true,
		"": false, "see wiki.example.com, client 1.2.3": false, "192.0.2.7 ...": false, opaque[:len(opaque)-1]: false, "api_token": false,
		"id" + opaque: true, opaque + "x": true, "A-" + opaque + "_b": true, opaque + opaque: true, "xeyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.e30.AAAA": true,
	} {
		if err := NoneIn(text); (err != nil) != found {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// withChecksum ends a text as a token ends.
func withChecksum(s string) string {
	return string(appendDigits([]byte(s), uint64(crc32.ChecksumIEEE([]byte(s))), checksumDigits))
}

package token

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

var issued = time.Unix(1_767_225_600, 0)

// testRing is a ring with keys that do not change from run to run; the last one seals.
func testRing(_ testing.TB, numbers ...uint32) *Ring {
	keys := make([]Key, len(numbers))
	for i, number := range numbers {
		keys[i] = Key{
			Name: keyName(number), Algorithm: AlgorithmGCM, Secret: bytes.Repeat([]byte{byte(number)}, 32),
			CreatedAt: issued, UsedFrom: issued.Add(time.Duration(i) * time.Second),
		}
	}
	return NewRing(keys)
}

func testClaims() *Claims {
	id := ID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	return &Claims{
		ID: id, Grant: id, Role: RoleID{1, 2, 3, 4, 5, 6, 7, 8}, RoleVersion: 3,
		Subject:  "8d4b4a3e-8c4f-4f0a-9e0b-3a8f0a1b2c3d",
		IssuedAt: issued, ExpiresAt: issued.Add(time.Hour),
	}
}

func refreshClaims() *Claims {
	c := testClaims()
	c.Grant, c.Generation, c.GrantLifetime = ID{9}, 2, 24*time.Hour
	return c
}

func fullClaims() *Claims {
	c := testClaims()
	c.Grant = ID{9}
	c.Subject = "not-a-uuid"
	c.Scopes = []string{"invoices:read", "invoices:lines:*"}
	c.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	c.Audience = []string{"https://billing.example.com"}
	c.Metadata = map[string]string{"team": "billing", "owner": "ann"}
	return c
}

func boundClaims() *Claims {
	c := testClaims()
	c.Regions = []string{"CH", "DE"}
	c.Hosts = []string{"api.example.com"}
	return c
}

// The format of a token is a promise to tokens that are already out: a change of these vectors needs a
// new format version.
func TestGoldenVectors(t *testing.T) {
	ring := testRing(t, 7)
	for name, vector := range map[string]struct {
		claims *Claims
		token  string
	}{
		"plain":   {testClaims(), "apt_05K1WLvcSt00G3FqOdzujy10UaC6BAPBl6YuSIhoEtpsAGyfpX5MBAbF28ugszloMS0K2mJWeiMOWKwE6yh7EDO6Dv1O6jDpvJu6JZ2spNtA"},
		"refresh": {refreshClaims(), "apt_05K1WLvcSt00G3FqOdzujy10DoCVa8Ywb6J46M7Zpk20LLcGTMFLJxJ4e528L241W26rBqwDxYsOIH7qeqLp0xoN7mQSE7AHNaeDAoUPJa0ouZDBTyRzmPJ5XK4h0lBiEWPB1Oiikn"},
		"bound":   {boundClaims(), "apt_05K1WLvcSt00G3FqOdzujy10XA39FukM16YuSIhoEtpsAGyfpX5MBAbF28ugszloMS0K2mJWeiMOWKwF7bOLwMgO2XO0DebTIy9Fnnsy2e33CyBbZxZQjfYDJ72TdoEw8v623LM53v28Upwc"},
		"full":    {fullClaims(), "apt_05K1WLvcSt00G3FqOdzujy10GO3Yesu6r6J46M7Zpk20LLcGTMFLJxJ4e528L3EAeA9mY6vP4fmdBLd1ggYyI7wK5JRi7v3OGgMLNvHBlDycu6Ex3RdIkNiddKt5aHocMHDqKjqA3uih7BvJN0lACfPSWo5doifDnCu7y71efCV9BDbNDTRhyVWMyN9HR49vh0nC2F4Ix23VjQDcW3eszCerI24m1cre5M2SjaG04ThKmKnkah75VYgArNVAZ8cpYyF6OwPmDAKYwwe3tPefZ"},
	} {
		t.Run(name, func(t *testing.T) {
			minted, err := Mint(ring, "apt", vector.claims)
			if err != nil {
				t.Fatal(err)
			}
			if minted != vector.token {
				t.Errorf("minted %s\n want %s", minted, vector.token)
			}
			opened, err := Open(ring, vector.token)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(opened, vector.claims) {
				t.Errorf("opened %+v\n want %+v", opened, vector.claims)
			}
		})
	}
}

func TestOpenTellsWhatIsWrong(t *testing.T) {
	ring := testRing(t, 7)
	good, err := Mint(ring, "apt", testClaims())
	if err != nil {
		t.Fatal(err)
	}
	// reseal gives s a checksum that fits.
	reseal := func(s string) string { return withChecksum(s[:len(s)-checksumDigits]) }
	without := func(f func(*Key)) *Ring {
		keys := slices.Clone(ring.Keys)
		f(&keys[0])
		return NewRing(keys)
	}

	for _, c := range []struct {
		name  string
		ring  *Ring
		token string
		want  error
	}{
		{"good", ring, good, nil},
		{"a retired key", testRing(t, 7, 8), good, nil},
		{"empty", ring, "", ErrMalformed},
		{"noise", ring, "hello", ErrMalformed},
		{"prefix only", ring, "apt_", ErrMalformed},
		{"cut short", ring, good[:len(good)-1], ErrMalformed},
		{"a letter more", ring, good + "0", ErrMalformed},
		{"leading space", ring, " " + good, ErrMalformed},
		{"trailing newline", ring, good + "\n", ErrMalformed},
		{"mistyped", ring, strings.Replace(good, good[20:21], other(good[20]), 1), ErrMalformed},
		{"other case", ring, strings.ToUpper(good), ErrMalformed},
		{"binary", ring, "apt_\x00\xff" + good[6:], ErrMalformed},
		{"as long as can be", ring, "apt_" + strings.Repeat("z", MaxLen-4), ErrMalformed},
		{"10 MB", ring, "apt_" + strings.Repeat("0", 10<<20), ErrMalformed},
		{"another prefix", ring, reseal("tok" + good[3:]), ErrForged},
		{"a changed ciphertext", ring, reseal(good[:60] + other(good[60]) + good[61:]), ErrForged},
		{"another mount's", testRing(t, 8), good, ErrUnknownKey},
		{"no key at all", new(Ring), good, ErrUnknownKey},
		{"an expired key", without(func(k *Key) { k.Secret = nil }), good, ErrExpiredKey},
		{"a destroyed key", without(func(k *Key) { k.Secret, k.Destroyed = nil, true }), good, ErrDestroyedKey},
		{"a damaged key", without(func(k *Key) { k.Secret = k.Secret[:16] }), good, ErrBrokenKey},
		{"another algorithm", without(func(k *Key) { k.Algorithm = "A128GCM" }), good, ErrBrokenKey},
	} {
		claims, err := Open(c.ring, c.token)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if (claims != nil) != (c.want == nil) {
			t.Errorf("%s: claims %v with error %v", c.name, claims, err)
		}
	}
}

// other is a base62 digit that is not c.
func other(c byte) string {
	if c == 'x' {
		return "y"
	}
	return "x"
}

func TestMintRefusesWhatIsTooLong(t *testing.T) {
	claims := testClaims()
	for i := range 60 {
		claims.Scopes = append(claims.Scopes, fmt.Sprintf("%060d", i))
	}
	for field, claims := range map[string]*Claims{
		"scopes":   claims,
		"metadata": {Role: claims.Role, Scopes: []string{"a"}, Metadata: map[string]string{"a": strings.Repeat("b", 4000)}},
	} {
		var tooLong *TooLongError
		if s, err := Mint(testRing(t, 7), "apt", claims); !errors.As(err, &tooLong) || tooLong.Field != field || tooLong.Len <= MaxLen {
			t.Errorf("minted %d bytes, %v", len(s), err)
		}
	}
}

// An empty set would be read as an absent one, which stands for all that the role allows.
func TestEmptySetsAreRefused(t *testing.T) {
	for name, empty := range map[string]func(*Claims){
		"scopes":            func(c *Claims) { c.Scopes = []string{} },
		"audience":          func(c *Claims) { c.Audience = []string{} },
		"token_bound_cidrs": func(c *Claims) { c.Addresses = []netip.Prefix{} },
	} {
		claims := fullClaims()
		empty(claims)
		if s, err := Mint(testRing(t, 7), "apt", claims); err == nil {
			t.Errorf("%s: minted %s", name, s)
		}
		if _, err := NewJWT(claims, "https://i", "e", "reader", ""); err == nil {
			t.Errorf("%s: a JWT", name)
		}
	}
	good, err := fullClaims().marshal()
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[int]any
	if err := cbor.Unmarshal(good, &decoded); err != nil {
		t.Fatal(err)
	}
	for _, key := range []int{8, 9, 10} {
		kept := decoded[key]
		decoded[key] = []any{}
		b, err := cbor.Marshal(decoded)
		if err != nil {
			t.Fatal(err)
		}
		if err := new(Claims).unmarshal(b); err == nil {
			t.Errorf("an empty set is read at %d", key)
		}
		decoded[key] = kept
	}
}

func TestNames(t *testing.T) {
	alone, member := testClaims(), fullClaims()
	for _, c := range []*Claims{alone, member} {
		if id, grant, err := ParseName(c.Name()); err != nil || id != c.ID || grant != c.Grant {
			t.Errorf("%s: %s, %s, %v", c.Name(), id, grant, err)
		}
	}
	name := member.Name()
	for _, s := range []string{"", ".", name + ".", "." + name, name[1:], strings.ToUpper(name), name + "0", name[:24] + "." + name[:24], name[:24] + ".", name + "." + name[:24]} {
		if _, _, err := ParseName(s); err == nil {
			t.Errorf("%q is read", s)
		}
	}
}

func TestPatternFindsTokens(t *testing.T) {
	token, err := Mint(testRing(t, 7), "apt", testClaims())
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(Pattern("apt", "old_one"))
	for text, want := range map[string]string{
		"curl -H 'Authorization: Bearer " + token + "' https://example.com": token,
		"TOKEN=" + token + "\n": token,
		token:                   token,
		"old_one" + token[3:]:   "old_one" + token[3:],
		"xapt" + token[3:]:      "",
		"apt_tooshort":          "",
		"tok" + token[3:]:       "",
	} {
		if got := pattern.FindString(text); got != want {
			t.Errorf("in %q found %q", text, got)
		}
	}
	if !Checksum(token) {
		t.Error("the checksum of a token does not fit")
	}
	if Checksum(strings.Replace(token, token[30:31], other(token[30]), 1)) {
		t.Error("the checksum of a look-alike fits")
	}
}

func TestCheckPrefix(t *testing.T) {
	for prefix, good := range map[string]bool{
		"apt": true, "a1": true, "acme_prod": true, "abcdefghijklmnop": true,
		"": false, "a": false, "1a": false, "_a": false, "Apt": false, "a-b": false, "abcdefghijklmnopq": false, "apt\n": false, "ä1": false,
	} {
		if err := CheckPrefix(prefix); (err == nil) != good {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

// A key retires when the next one begins, regardless of their order in storage and of the process that added them.
func TestKeysInOrder(t *testing.T) {
	secret := bytes.Repeat([]byte{1}, 32)
	at := func(name string, second int) Key {
		return Key{Name: name, Algorithm: AlgorithmGCM, Secret: secret, UsedFrom: issued.Add(time.Duration(second) * time.Second)}
	}
	successor := Key{Name: "00000009", Algorithm: AlgorithmGCM, Secret: secret, CreatedAt: issued}
	broken := Key{Name: "0000000a", Broken: errors.New("damaged")}
	destroyed := at("00000003", 3)
	destroyed.Secret, destroyed.Destroyed = nil, true
	expired := at("00000000", 0)
	expired.Secret = nil
	for name, c := range map[string]struct {
		keys               []Key
		states             string
		current, successor string
	}{
		"none":                     {nil, "", "", ""},
		"one":                      {[]Key{at("00000001", 1)}, "current", "00000001", ""},
		"out of order":             {[]Key{at("00000002", 2), expired, at("00000001", 1)}, "expired retired current", "00000002", ""},
		"begun at once":            {[]Key{at("00000002", 1), at("00000001", 1)}, "retired current", "00000002", ""},
		"a successor":              {[]Key{successor, at("00000001", 1)}, "current successor", "00000001", "00000009"},
		"the last is destroyed":    {[]Key{at("00000001", 1), destroyed}, "retired destroyed", "", ""},
		"one before is destroyed":  {[]Key{at("00000004", 4), at("00000001", 1), destroyed}, "retired destroyed current", "00000004", ""},
		"one that cannot be read":  {[]Key{broken, at("00000001", 1), successor}, "current broken successor", "00000001", "00000009"},
		"nothing but one retired":  {[]Key{expired}, "expired", "", ""},
		"a name that is no number": {[]Key{at("hello", 2), at("00000001", 1)}, "retired broken", "", ""},
	} {
		ring := NewRing(c.keys)
		var states []string
		for i := range ring.Keys {
			states = append(states, ring.Keys[i].State())
		}
		name1, name2 := "", ""
		if k := ring.Current(); k != nil {
			name1 = k.Name
		}
		if k := ring.Successor(); k != nil {
			name2 = k.Name
		}
		if got := strings.Join(states, " "); got != c.states || name1 != c.current || name2 != c.successor {
			t.Errorf("%s: %s, current %q, successor %q", name, got, name1, name2)
		}
	}
	keys := NewRing([]Key{at("00000001", 1), at("00000002", 60)}).Keys
	keys[0].LongestLifetime = time.Hour
	if until := keys[0].NeededUntil(); !until.Equal(issued.Add(time.Hour + time.Minute)) {
		t.Errorf("needed until %s", until)
	}
	if !keys[1].NeededUntil().IsZero() {
		t.Error("the current key has an end")
	}
	if _, err := Mint(new(Ring), "apt", testClaims()); err == nil {
		t.Error("an empty ring has minted")
	}
}

func TestBase62(t *testing.T) {
	for n := range 40 {
		for _, fill := range []byte{0, 1, 0x7f, 0xff} {
			b := bytes.Repeat([]byte{fill}, n)
			text := string(appendBase62(nil, b))
			decoded, ok := appendBase62Decoded(nil, text)
			if !ok || !bytes.Equal(decoded, b) {
				t.Fatalf("%d bytes of %x: %q decodes to %x, %v", n, fill, text, decoded, ok)
			}
		}
	}
	for _, s := range []string{"0", "0000", "00000000", "zz", "zzz", "zzzzzzzzzzz", "LygHa16AHYG", "0_", "0 ", "é0"} {
		if b, ok := appendBase62Decoded(nil, s); ok {
			t.Errorf("%q decodes to %x", s, b)
		}
	}
}

func TestIDs(t *testing.T) {
	id := ID{0xab, 1}
	for s, good := range map[string]bool{
		id.String():                  true,
		strings.ToUpper(id.String()): false,
		id.String()[:22]:             false,
		id.String() + "00":           false,
		"":                           false,
		"zz" + id.String()[2:]:       false,
	} {
		parsed, err := ParseID(s)
		if (err == nil) != good || (good && parsed != id) {
			t.Errorf("%q: %v, %v", s, parsed, err)
		}
	}
	if _, err := NewID(strings.NewReader("short")); err == nil {
		t.Error("an id from too little randomness")
	}
	if id.Compare(ID{0xab, 2}) != -1 || id.Compare(id) != 0 || id.Compare(ID{}) != 1 {
		t.Error("ids are ordered wrongly")
	}
}

// FuzzOpen looks for a panic, and for a second spelling of a token: what opens must be what Mint writes.
func FuzzOpen(f *testing.F) {
	ring := testRing(f, 7)
	for _, c := range []*Claims{testClaims(), fullClaims(), refreshClaims()} {
		s, err := Mint(ring, "apt", c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s)
		f.Add(s[:len(s)-6] + "000000")
	}
	f.Add("apt_")
	f.Fuzz(func(t *testing.T, s string) {
		claims, err := Open(ring, s)
		if err != nil {
			return
		}
		again, err := Mint(ring, s[:strings.LastIndexByte(s, '_')], claims)
		if err != nil || again != s {
			t.Errorf("%q opens, and is minted as %q (%v)", s, again, err)
		}
	})
}

// FuzzClaims looks for a panic in what only a holder of the key could send.
func FuzzClaims(f *testing.F) {
	for _, c := range []*Claims{testClaims(), fullClaims(), refreshClaims()} {
		b, err := c.marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = new(Claims).unmarshal(b)
	})
}

func BenchmarkMint(b *testing.B) {
	ring, claims := testRing(b, 7), testClaims()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Mint(ring, "apt", claims); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	ring := testRing(b, 7)
	s, err := Mint(ring, "apt", testClaims())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Open(ring, s); err != nil {
			b.Fatal(err)
		}
	}
}

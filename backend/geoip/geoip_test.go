package geoip

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip/geoiptest"
)

// lookup is a database under test with its file, clock and warnings.
type lookup struct {
	*Database
	t        *testing.T
	path     string
	at       atomic.Int64 // nanoseconds
	mu       sync.Mutex
	warnings []string
}

func newLookup(t *testing.T) *lookup {
	l := &lookup{t: t, path: filepath.Join(t.TempDir(), "country.mmdb")}
	l.Database = New(func() time.Time { return time.Unix(0, l.at.Load()) }, func(msg string, args ...any) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.warnings = append(l.warnings, fmt.Sprint(append([]any{msg}, args...)...))
	})
	return l
}

func (l *lookup) pass(d time.Duration) { l.at.Add(int64(d)) }

func (l *lookup) expect(addr, want string) {
	l.t.Helper()
	if got := l.Region(l.path, netip.MustParseAddr(addr)); got != want {
		l.t.Errorf("%s is in %q, want %q", addr, got, want)
	}
}

func TestRegion(t *testing.T) {
	l := newLookup(t)
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "DE", "2001:db8::/32": "FR", "198.51.100.0/24": "long"})
	if err := Check(l.path); err != nil {
		t.Fatal(err)
	}
	l.expect("192.0.2.77", "DE")
	l.expect("::ffff:192.0.2.77", "DE")
	l.expect("2001:db8::1", "FR")
	l.expect("2001:db8::1%eth0", "FR")
	l.expect("203.0.113.1", "")
	l.expect("198.51.100.1", "") // not a code
	if got := l.Region(l.path, netip.Addr{}); got != "" {
		t.Errorf("no address is in %q", got)
	}
}

// A change of the file is noticed within five seconds, also where size and name stay the same, and no look-up in
// between touches the file.
func TestFileIsReadAgain(t *testing.T) {
	l := newLookup(t)
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "DE"})
	l.expect("192.0.2.1", "DE")
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "FR"})
	l.pass(recheck - 1)
	l.expect("192.0.2.1", "DE")
	l.pass(1)
	l.expect("192.0.2.1", "FR")
	l.pass(-time.Hour) // a clock that was set back does not stop the look
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "US"})
	l.expect("192.0.2.1", "US")
	if len(l.warnings) > 0 {
		t.Error(l.warnings)
	}
}

// A file that can no longer be read leaves the last good content in force, with one warning for each failure.
func TestTheLastGoodContentStays(t *testing.T) {
	l := newLookup(t)
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "DE"})
	l.expect("192.0.2.1", "DE")
	good, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	for i, damage := range []func() error{
		func() error { return os.Remove(l.path) },
		func() error { return os.WriteFile(l.path, good[:len(good)/2], 0o600) }, // half of a copy
		func() error { return errors.Join(os.Remove(l.path), os.Mkdir(l.path, 0o700)) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			l.pass(recheck)
			l.expect("192.0.2.1", "DE")
		}
		if len(l.warnings) != i+1 || !strings.HasSuffix(l.warnings[i], "true") {
			t.Fatalf("after damage %d: %q", i, l.warnings)
		}
	}
	if err := os.Remove(l.path); err != nil {
		t.Fatal(err)
	}
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "FR"})
	l.pass(recheck)
	l.expect("192.0.2.1", "FR")
	// The same failure after a recovery is another warning.
	if err := os.Remove(l.path); err != nil {
		t.Fatal(err)
	}
	l.pass(recheck)
	l.expect("192.0.2.1", "FR")
	if len(l.warnings) != 4 {
		t.Errorf("%d warnings: %q", len(l.warnings), l.warnings)
	}
}

// Without a file no region is known, until there is a file. The content of another path is not used.
func TestNoFile(t *testing.T) {
	l := newLookup(t)
	for range 3 {
		l.expect("192.0.2.1", "")
		l.pass(recheck)
	}
	if len(l.warnings) != 1 || !strings.Contains(l.warnings[0], "no such file") || !strings.HasSuffix(l.warnings[0], "false") {
		t.Errorf("%q", l.warnings)
	}
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "DE"})
	l.expect("192.0.2.1", "DE")
	if got := l.Region(l.path+".other", netip.MustParseAddr("192.0.2.1")); got != "" {
		t.Errorf("another path: %q", got)
	}
	l.expect("192.0.2.1", "DE")
}

// Requests that come while the file is read for the first time wait for the content. A region that is not known would
// refuse good tokens.
func TestTheFirstLookUpsWait(t *testing.T) {
	l := newLookup(t)
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "DE"})
	var wrong atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				if l.Region(l.path, netip.MustParseAddr("192.0.2.1")) != "DE" {
					wrong.Add(1)
				}
				l.pass(recheck / 3)
			}
		})
	}
	all.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d look-ups found nothing", n)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	noise, other := filepath.Join(dir, "noise"), filepath.Join(dir, "asn.mmdb")
	if err := os.WriteFile(noise, []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	geoiptest.WriteOther(t, other, map[string]string{"192.0.2.0/24": "DE"})
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxFileBytes+1); err != nil { // a hole
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"country.mmdb":   "must be an absolute path",
		"":               "must be an absolute path",
		dir:              "is not a regular file",
		"/dev/zero":      "is not a regular file",
		dir + "/missing": "no such file",
		noise:            "is not a MaxMind DB file",
		other:            "has no country.iso_code: want a database of countries or cities",
		large:            "at most 1073741824 are allowed",
	} {
		if err := Check(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func BenchmarkRegion(b *testing.B) {
	path := filepath.Join(b.TempDir(), "country.mmdb")
	geoiptest.Write(b, path, map[string]string{"192.0.2.0/24": "DE"})
	d := New(time.Now, func(string, ...any) {})
	addr := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		if d.Region(path, addr) != "DE" {
			b.Fatal()
		}
	}
}

// A database of cities says where an address is. A database of countries says only the country.
func TestPlace(t *testing.T) {
	l := newLookup(t)
	berlin := geoiptest.Place{Country: "DE", City: 2950159, Latitude: 52.5, Longitude: 13.4, Radius: 20, Network: 64496}
	geoiptest.WritePlaces(t, l.path, map[string]geoiptest.Place{"192.0.2.0/24": berlin, "198.51.100.0/24": {Country: "FR"}})
	place := func(addr string) Place { return l.Place(l.path, netip.MustParseAddr(addr)) }
	want := Place{Region: "DE", City: 2950159, Network: 64496, Located: true, Latitude: 52.5, Longitude: 13.4, Radius: 20}
	if got := place("::ffff:192.0.2.7"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := place("198.51.100.7"); got != (Place{Region: "FR"}) {
		t.Errorf("got %+v of a country", got)
	}
	if got := place("203.0.113.7"); got != (Place{}) {
		t.Errorf("got %+v of an unknown address", got)
	}
	if got := l.Place(l.path, netip.Addr{}); got != (Place{}) {
		t.Errorf("got %+v of no address", got)
	}
	if located, networks := l.Offers(l.path); !located || !networks {
		t.Errorf("a database of cities and networks offers %t, %t", located, networks)
	}
	geoiptest.Write(t, l.path, map[string]string{"192.0.2.0/24": "DE"})
	l.pass(recheck)
	if located, networks := l.Offers(l.path); located || networks {
		t.Errorf("a database of countries offers %t, %t", located, networks)
	}
	if located, networks := l.Offers(l.path + "x"); located || networks {
		t.Errorf("no database offers %t, %t", located, networks)
	}
}

package role

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

var started = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// pasts returns versions that were in force for an hour each.
func pasts(n int, terms func(i int) Terms) (past []Past, end time.Time) {
	for i := range n {
		number := uint32(i + 1)
		past = append(past, Past{Terms: terms(i), First: number, Version: number, Since: started.Add(time.Duration(i) * time.Hour)})
	}
	return past, started.Add(time.Duration(n) * time.Hour)
}

// Past versions are joined only beyond a limit, and no further than the limit requires.
func TestBounded(t *testing.T) {
	small := func(int) Terms { return Terms{Scopes: access.Scopes{"a"}} }
	large := func(int) Terms { return Terms{Scopes: access.Scopes{strings.Repeat("a", 60_000)}} }
	one, _ := pasts(1, large)
	size, err := encodedSize(&one[0])
	if err != nil {
		t.Fatal(err)
	}
	fit := maxPastBytes / size
	for _, c := range []struct {
		n     int
		terms func(int) Terms
		want  int
	}{
		{1, large, 1}, {maxPast, small, maxPast}, {maxPast + 1, small, maxPast}, {fit, large, fit}, {fit + 1, large, fit}, {3 * fit, large, fit},
	} {
		past, end := pasts(c.n, c.terms)
		past, err := bounded(past, end)
		if err != nil || len(past) != c.want {
			t.Errorf("%d versions are joined to %d, want %d (%v)", c.n, len(past), c.want, err)
		}
		if first, last := past[0].First, past[len(past)-1].Version; first != 1 || int(last) != c.n {
			t.Errorf("the versions %d to %d are left of %d", first, last, c.n)
		}
	}
}

// Joined versions have only the metadata that both have.
func TestJoinMetadata(t *testing.T) {
	past, _ := pasts(2, func(i int) Terms {
		return Terms{Scopes: access.Scopes{"a"}, Metadata: map[string]string{"same": "x", "other": fmt.Sprint(i), fmt.Sprint("only", i): "y"}}
	})
	joined, ok := past[0].join(&past[1])
	if !ok || !maps.Equal(joined.Metadata, map[string]string{"same": "x"}) {
		t.Error(joined.Metadata, ok)
	}
}

// Joined versions have the regions that both have, and versions without a common region cannot be joined.
func TestJoinRegions(t *testing.T) {
	for _, c := range []struct{ older, newer, want string }{
		{"", "", ""}, {"DE FR", "", "DE FR"}, {"", "DE", "DE"}, {"DE FR", "FR US", "FR"}, {"DE", "US", "nothing"},
	} {
		past, _ := pasts(2, func(i int) Terms {
			return Terms{Scopes: access.Scopes{"a"}, BoundRegions: strings.Fields([]string{c.older, c.newer}[i])}
		})
		joined, ok := past[0].join(&past[1])
		if ok != (c.want != "nothing") || ok && strings.Join(joined.BoundRegions, " ") != c.want {
			t.Errorf("%q and %q: %q, %v", c.older, c.newer, joined.BoundRegions, ok)
		}
	}
}

// Freeze sets only what the role has narrowed since the issue: tokens do not get longer for other changes.
func TestFreeze(t *testing.T) {
	first := Entry{TokenFormat: FormatOpaque, Version: 1, Since: started, Terms: Terms{
		Scopes: access.Scopes{"a", "b"}, Audience: []string{"x", "y"}, BoundHosts: []string{"h.example.com"}, TokenBoundCIDRs: []string{"10.0.0.0/8"}, BoundRegions: []string{"DE", "FR"},
	}}
	second := first
	second.Scopes = access.Scopes{"a"}
	if err := second.Succeed(&first, time.Hour, started); err != nil {
		t.Fatal(err)
	}
	r, err := New("reader", second)
	if err != nil {
		t.Fatal(err)
	}
	for _, narrowed := range [][]string{nil, {"x"}} {
		claims := &token.Claims{RoleVersion: 1, Audience: narrowed}
		permissions, _ := r.Permissions(claims)
		r.Freeze(claims, permissions)
		if !slices.Equal(claims.Scopes, []string{"a"}) || !slices.Equal(claims.Audience, narrowed) || claims.Addresses != nil || claims.Regions != nil || claims.Hosts != nil {
			t.Errorf("%+v", claims)
		}
	}
}

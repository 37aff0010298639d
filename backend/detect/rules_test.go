package detect

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// bench is a Detector under test with its clock, its places, and one state of each token.
type bench struct {
	*Detector
	t         testing.TB
	now       time.Time
	places    map[string]Place
	issued    time.Time
	revoked   []token.ID
	suspended []string // notes
	fails     error    // of a revocation
	tokens    map[token.ID]*Token
	before    map[token.ID]*Before
}

var start = time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)

// The places of the tests: a degree of longitude on the equator has 111.19 km.
const (
	berlin = "192.0.2.1"    // AS64496
	sydney = "198.51.100.1" // AS64497
	far    = "203.0.113.1"  // the same network as berlin
)

func newBench(t testing.TB) *bench {
	b := &bench{t: t, now: start, places: map[string]Place{}, tokens: map[token.ID]*Token{}, before: map[token.ID]*Before{}}
	b.Detector = New(Config{
		Storage: new(logical.InmemStorage), Now: func() time.Time { return b.now }, Log: hclog.NewNullLogger,
		Place:   func(a netip.Addr) Place { return b.places[a.String()] },
		Holder:  func(token.ID) (Holder, bool) { return Holder{Role: "r", Subject: "ann", IssuedAt: b.issued}, true },
		Respond: b,
	})
	return b
}

func (b *bench) Suspend(_ context.Context, id token.ID, note string) error {
	if b.fails == nil {
		b.suspended = append(b.suspended, note)
	}
	return b.fails
}

func (b *bench) Revoke(_ context.Context, id token.ID) error {
	if b.fails == nil {
		b.revoked = append(b.revoked, id)
	}
	return b.fails
}

func (b *bench) pass(d time.Duration) { b.now = b.now.Add(d) }

func idOf(n int) (id token.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint32(id[8:], uint32(n))
	return id
}

// saw has the detector see a token, as package insight does.
func (b *bench) saw(n int, seen Seen) {
	id := idOf(n)
	if b.tokens[id] == nil {
		b.tokens[id], b.before[id] = new(Token), new(Before)
	}
	if seen.At.IsZero() {
		seen.At = b.now
	}
	before := b.before[id]
	b.Saw(id, b.tokens[id], before, &seen)
	if at := seconds(seen.At); seen.Uses > 0 && at >= before.At {
		*before = Before{At: at, Address: seen.Address, Network: seen.Network}
		copy(before.Region[:], seen.Region)
	}
}

func (b *bench) use(n int, addr string) { b.saw(n, Seen{Uses: 1, Address: ip(addr)}) }

func (b *bench) refuse(n int, reason access.Reason, count uint32) {
	b.saw(n, Seen{Refusals: []Refusals{{Reason: reason, Count: count}}})
}

func ip(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func (b *bench) set(c Change) {
	b.t.Helper()
	if _, err := b.Change(context.Background(), b.Storage, &c); err != nil {
		b.t.Fatal(err)
	}
}

// found returns the findings of a rule.
func (b *bench) found(rule Rule) []Finding {
	list, _, _ := b.List(&Filter{Rule: rule}, "", maxFindings)
	return list
}

// learn teaches the detector the place of the role.
func (b *bench) learn(n int, addr string) {
	for range 10 {
		b.use(n, addr)
		b.pass(24 * time.Hour)
	}
}

func at(degrees, radius float64) Place {
	return Place{Located: true, Longitude: degrees, Radius: radius, Region: "DE"}
}

// Each rule just below its threshold makes no finding, and at its threshold makes one.
func TestThresholds(t *testing.T) {
	travel := func(apart time.Duration, degrees, radius float64) func(b *bench) {
		return func(b *bench) {
			b.places[berlin], b.places[far] = at(0, 0), at(degrees, radius)
			b.use(1, berlin)
			b.pass(apart)
			b.use(1, far)
		}
	}
	networks := func(n int, every time.Duration) func(b *bench) {
		return func(b *bench) {
			for i := range n {
				b.use(1, fmt.Sprintf("192.0.%d.1", i))
				b.pass(every)
			}
		}
	}
	surge := func(learn int, uses uint64) func(b *bench) {
		return func(b *bench) {
			for range learn {
				b.saw(1, Seen{Uses: 20})
				b.pass(time.Minute)
			}
			b.saw(1, Seen{Uses: uses})
		}
	}
	guess := func(refusals, tokens, uses int) func(b *bench) {
		return func(b *bench) {
			for i := range refusals {
				b.Unknown(ip(sydney), uint32(1+i%tokens), 1)
				if i == 0 {
					b.saw(1, Seen{Uses: uint64(uses), Address: ip(sydney)})
				}
				b.pass(time.Second)
			}
		}
	}
	expired := func(b *bench) {
		b.saw(1, Seen{EndedAt: start.Add(-time.Hour), Refusals: []Refusals{{Reason: access.Expired, Count: 1}}})
	}
	covered := make(map[Rule]bool)
	for _, c := range []struct {
		rule         Rule
		name         string
		below, above func(b *bench)
	}{
		// 900 km/h for 2 h are 1800 km, 16.19 degrees; and for the least interval of 10 minutes 150 km, 1.349 degrees.
		{ImpossibleTravel, "speed", travel(2*time.Hour, 16.18, 0), travel(2*time.Hour, 16.2, 0)},
		{ImpossibleTravel, "at once", travel(time.Second, 1.34, 0), travel(time.Second, 1.36, 0)},
		{ImpossibleTravel, "inexact coordinates", travel(2*time.Hour, 17, 100), travel(2*time.Hour, 17, 80)},
		{ImpossibleTravel, "distance", func(b *bench) {
			b.set(Change{Numbers: map[string]int64{"impossible_travel_interval": 0}})
			travel(time.Minute, 0.449, 0)(b)
		}, func(b *bench) {
			b.set(Change{Numbers: map[string]int64{"impossible_travel_interval": 0}})
			travel(time.Minute, 0.450, 0)(b)
		}},
		{ImpossibleTravel, "a late report", func(b *bench) {
			travel(-2*time.Hour, 16.18, 0)(b)
		}, travel(-2*time.Hour, 16.2, 0)},
		{NewRegion, "uses", func(b *bench) {
			b.places[berlin], b.places[sydney] = Place{Region: "DE"}, Place{Region: "AU"}
			for range 9 {
				b.use(1, berlin)
				b.pass(time.Hour)
				b.use(1, berlin)
				b.pass(23 * time.Hour)
			}
			b.use(2, sydney)
		}, func(b *bench) {
			b.places[berlin], b.places[sydney] = Place{Region: "DE"}, Place{Region: "AU"}
			b.learn(1, berlin)
			b.use(2, sydney)
		}},
		{NewRegion, "time", func(b *bench) {
			b.places[berlin], b.places[sydney] = Place{Region: "DE"}, Place{Region: "AU"}
			b.use(1, berlin)
			b.pass(14*24*time.Hour - time.Second)
			b.use(2, sydney)
		}, func(b *bench) {
			b.places[berlin], b.places[sydney] = Place{Region: "DE"}, Place{Region: "AU"}
			b.use(1, berlin)
			b.pass(14 * 24 * time.Hour)
			b.use(2, sydney)
		}},
		{NewNetwork, "network", func(b *bench) {
			b.places[berlin], b.places[far] = Place{Network: 64496}, Place{Network: 64496}
			b.learn(1, berlin)
			b.use(2, far)
		}, func(b *bench) {
			b.places[berlin], b.places[far] = Place{Network: 64496}, Place{Network: 64497}
			b.learn(1, berlin)
			b.use(2, far)
		}},
		{SeveralNetworks, "time", func(b *bench) {
			b.places[berlin], b.places[sydney] = Place{Network: 1}, Place{Network: 2}
			b.use(1, berlin)
			b.pass(30*time.Minute + time.Second)
			b.use(1, sydney)
		}, func(b *bench) {
			b.places[berlin], b.places[sydney] = Place{Network: 1}, Place{Network: 2}
			b.use(1, berlin)
			b.pass(30 * time.Minute)
			b.use(1, sydney)
		}},
		{SeveralNetworks, "fidelity", func(b *bench) {
			b.set(Change{Numbers: map[string]int64{"several_networks_fidelity": 2}})
			b.places[berlin], b.places[sydney] = Place{Network: 1, City: 5}, Place{Network: 2, City: 5}
			b.use(1, berlin)
			b.use(1, sydney)
		}, func(b *bench) {
			b.set(Change{Numbers: map[string]int64{"several_networks_fidelity": 2}})
			b.places[berlin], b.places[sydney] = Place{Network: 1, City: 5}, Place{Network: 2, City: 6}
			b.use(1, berlin)
			b.use(1, sydney)
		}},
		{SeveralNetworks, "unknown places", func(b *bench) {
			b.places[berlin], b.places[sydney] = Place{Network: 1, Region: "DE"}, Place{City: 7}
			b.use(1, berlin)
			b.use(1, sydney)
		}, func(b *bench) {
			b.places[berlin], b.places[sydney] = Place{Region: "DE"}, Place{Region: "AU"}
			b.use(1, berlin)
			b.use(1, sydney)
		}},
		{RefusedBurst, "number", func(b *bench) { b.refuse(1, access.InsufficientScope, 19) }, func(b *bench) {
			b.refuse(1, access.InsufficientScope, 19)
			b.pass(time.Minute)
			b.refuse(1, access.HostNotAllowed, 1)
		}},
		{RefusedBurst, "window", func(b *bench) {
			b.refuse(1, access.InsufficientScope, 19)
			b.pass(5 * time.Minute)
			b.refuse(1, access.InsufficientScope, 1)
		}, func(b *bench) {
			b.refuse(1, access.InsufficientScope, 19)
			b.pass(4 * time.Minute)
			b.refuse(1, access.InsufficientScope, 1)
		}},
		{Guessing, "stuffing, refusals", guess(24, 24, 0), guess(25, 25, 0)},
		{Guessing, "stuffing, failed", guess(25, 25, 7), guess(25, 25, 6)},
		{Guessing, "stuffing, tokens", func(b *bench) {
			b.set(Change{Numbers: map[string]int64{"guessing_spraying_refusals": 60_000}})
			guess(28, 14, 0)(b)
		}, func(b *bench) {
			b.set(Change{Numbers: map[string]int64{"guessing_spraying_refusals": 60_000}})
			guess(28, 15, 0)(b)
		}},
		{Guessing, "spraying", guess(14, 5, 0), guess(15, 5, 0)},
		{Guessing, "spraying, tokens", guess(16, 4, 0), guess(16, 5, 0)},
		{Guessing, "tokens that nobody tells apart", func(b *bench) { b.Unknown(ip(sydney), 0, 24) }, func(b *bench) { b.Unknown(ip(sydney), 0, 25) }},
		{Guessing, "a client that retries", guess(10_000, 3, 0), func(b *bench) {
			for i := range 15 {
				b.saw(1+i%5, Seen{Address: ip(sydney), Refusals: []Refusals{{Reason: access.HostNotAllowed, Count: 1}}})
			}
		}},
		{Shared, "addresses", networks(5, time.Minute), networks(6, time.Minute)},
		{Shared, "time", networks(6, 13*time.Minute), networks(6, 12*time.Minute)},
		{Shared, "networks count once", func(b *bench) {
			for i := range 6 {
				b.places[fmt.Sprintf("192.0.%d.1", i)] = Place{Network: uint32(1 + i%5)}
			}
			networks(6, time.Minute)(b)
		}, func(b *bench) {
			for i := range 7 {
				b.places[fmt.Sprintf("192.0.%d.1", i)] = Place{Network: uint32(1 + i%6)}
			}
			networks(7, time.Minute)(b)
		}},
		{Shared, "a network that comes again", func(b *bench) {
			for i := range 12 {
				b.use(1, fmt.Sprintf("192.0.%d.%d", i%2, i))
				b.pass(time.Minute)
			}
			b.use(1, sydney)
		}, func(b *bench) {
			for i := range 12 {
				b.use(1, fmt.Sprintf("192.0.%d.%d", i%5, i))
				b.pass(time.Minute)
			}
			b.use(1, sydney)
		}},
		{DormantAwake, "since the last use", func(b *bench) {
			b.use(1, "")
			b.pass(30*24*time.Hour - time.Second)
			b.use(1, "")
		}, func(b *bench) {
			b.use(1, "")
			b.pass(30 * 24 * time.Hour)
			b.use(1, "")
		}},
		{DormantAwake, "since the issue", func(b *bench) {
			b.issued = b.now.Add(-30*24*time.Hour + time.Second)
			b.use(1, "")
		}, func(b *bench) {
			b.issued = b.now.Add(-30 * 24 * time.Hour)
			b.use(1, "")
		}},
		{UsedAfterEnd, "revoked", func(b *bench) {
			b.refuse(1, access.Revoked, 1)
			b.pass(10*time.Minute - time.Second)
			b.refuse(1, access.Revoked, 1)
		}, func(b *bench) {
			b.refuse(1, access.Revoked, 1)
			b.pass(10 * time.Minute)
			b.refuse(1, access.Revoked, 1)
		}},
		{UsedAfterEnd, "expired", func(b *bench) {
			expired(b)
			b.pass(10*time.Minute - time.Second)
			expired(b)
		}, func(b *bench) {
			expired(b)
			delete(b.tokens, idOf(1)) // the state of a token leaves memory when the token expires
			b.pass(10 * time.Minute)
			expired(b)
		}},
		{Surge, "uses", surge(61, 200), surge(61, 201)},
		{Surge, "learning", surge(19, 1000), surge(20, 1000)},
		{Surge, "floor", func(b *bench) {
			b.set(Change{Numbers: map[string]int64{"surge_floor": 1000}})
			surge(61, 1000)(b)
		}, func(b *bench) {
			b.set(Change{Numbers: map[string]int64{"surge_floor": 1000}})
			surge(61, 1001)(b)
		}},
		{ProofFailed, "reasons", func(b *bench) { b.refuse(1, "use_dpop_nonce", 1) }, func(b *bench) { b.refuse(1, "proof_replayed", 1) }},
		{WrongEnvironment, "any", func(*bench) {}, func(b *bench) { b.Foreign(ip(sydney)) }},
		{RefreshReuse, "any", func(*bench) {}, func(b *bench) { b.RefreshReused(idOf(1), "r", "ann", sydney) }},
		{Leaked, "any", func(*bench) {}, func(b *bench) {
			b.Leaked(&Leak{Grant: idOf(1), Role: "r", Subject: "ann", URL: "https://example.com/x#L5", Source: "content", Client: sydney})
		}},
	} {
		covered[c.rule] = true
		t.Run(string(c.rule)+"/"+c.name, func(t *testing.T) {
			b := newBench(t)
			c.below(b)
			if list := b.found(c.rule); len(list) > 0 {
				t.Errorf("below the threshold: %+v", list)
			}
			b = newBench(t)
			c.above(b)
			list := b.found(c.rule)
			if len(list) != 1 {
				t.Fatalf("at the threshold: %d findings: %+v", len(list), list)
			}
			checkFinding(t, &list[0])

			off := newBench(t)
			off.set(Change{Modes: map[Rule]Mode{c.rule: Off}})
			c.above(off)
			if list := off.found(c.rule); len(list) > 0 {
				t.Errorf("a rule that is off: %+v", list)
			}
		})
	}
	for _, r := range Rules {
		if !covered[r.Rule] {
			t.Errorf("the rule %s has no test", r.Rule)
		}
	}
}

// Networks that role and entity have used for days are far apart and used at the same time without a finding. On the first two
// days, and with another network, there is a finding. A thief does not become familiar before his theft is found.
func TestFamiliarNetworks(t *testing.T) {
	b := newBench(t)
	b.places[berlin], b.places[sydney] = at(0, 0), at(90, 0)
	b.places[far] = at(-90, 0)
	for i, addr := range []string{berlin, sydney, far} {
		p := b.places[addr]
		p.Network, p.City = uint32(1+i), uint32(1+i)
		b.places[addr] = p
	}
	count := func(n int, addrs ...string) int {
		before := len(b.found(ImpossibleTravel)) + len(b.found(SeveralNetworks))
		for _, addr := range addrs {
			b.use(n, addr)
			b.pass(time.Minute)
		}
		return len(b.found(ImpossibleTravel)) + len(b.found(SeveralNetworks)) - before
	}
	for day := range 4 {
		if found, want := count(1+day, berlin, sydney, berlin), day < 2; (found == 2) != want || !want && found != 0 {
			t.Errorf("day %d: %d findings", day, found)
		}
		b.pass(24*time.Hour - 3*time.Minute)
	}
	if found := count(9, berlin, far); found != 2 {
		t.Errorf("a new network: %d findings", found)
	}
	b.pass(time.Hour)
	if found := count(10, far); found != 0 {
		t.Errorf("a new network alone: %d findings", found)
	}
	if found := count(10, berlin); found != 2 {
		t.Errorf("the holder after the thief: %d findings", found)
	}

	// A known range is as good as a familiar network: the exit of the company's VPN.
	b.set(Change{Ranges: &[]string{far + "/32"}})
	if found := count(11, berlin, far, berlin); found != 0 {
		t.Errorf("a known range and a familiar network: %d findings", found)
	}
}

func TestAdviceFollowsTheResponse(t *testing.T) {
	for response, want := range map[string]string{
		"": "tokens revoke suspend findings", Failed: "tokens revoke suspend findings", Suspended: "tokens revoke resume findings",
		Refused: "tokens revoke findings", Revoked: "tokens findings",
	} {
		f := &Finding{ID: "1", Rule: Shared, TokenID: "2", Response: response}
		f.State = Open
		var got []string
		for _, command := range f.Advice("m/") {
			path := strings.Fields(command)[2]
			got = append(got, strings.Split(strings.TrimPrefix(path, "m/"), "/")[0])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %s", response, got, want)
		}
	}
}

// checkFinding checks that a finding explains itself.
func checkFinding(t *testing.T, f *Finding) {
	t.Helper()
	if f.Summary == "" || len(f.Numbers) == 0 || len(f.Evidence) == 0 || f.Severity == "" || f.State != Open || f.Count == 0 || f.First.After(f.Last) {
		t.Errorf("the finding does not explain itself: %+v", f)
	}
	if !f.Rule.ofAddress() && (f.TokenID == "" || f.Role != "r" || f.EntityID != "ann") {
		t.Errorf("the finding does not name the token and its holder: %+v", f)
	}
	commands := f.Advice("apitoken/")
	if len(commands) < 2 || !strings.Contains(strings.Join(commands, "\n"), "apitoken/findings/"+f.ID) {
		t.Errorf("the commands are %q", commands)
	}
	t.Logf("%s: %s", f.Rule, f.Summary)
}

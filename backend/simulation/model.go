package simulation

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// mark is when something was acknowledged, and by which node. The zero mark: never.
type mark struct {
	seq uint64
	by  *node
	at  time.Time
}

// before reports whether something was acknowledged before a moment, and a node must know of it.
func (m mark) before(began uint64, n *node) bool {
	return m.seq != 0 && m.seq < began && n.knows(m.seq, m.by)
}

// moment is a value from one acknowledged change to the next. Where doubt is set, the change was not acknowledged: it
// may have happened or not, or may yet.
type moment[V any] struct {
	mark
	doubt bool
	value V
}

// timeline is what a value has been, oldest first.
type timeline[V any] []moment[V]

// possible gives what a node may believe: the last change that it must know of, and all that came after.
func (t timeline[V]) possible(n *node) []V {
	from := 0
	for i, m := range t {
		if !m.doubt && n.knows(m.seq, m.by) {
			from = i
		}
	}
	values := make([]V, 0, len(t)-from)
	for _, m := range t[from:] {
		values = append(values, m.value)
	}
	return values
}

func (t timeline[V]) last() V { return t[len(t)-1].value }

// roleState is what is true of a role.
type roleState struct {
	exists  bool
	life    int // counts how often a role of this name was made
	scopes  []string
	allowed []string
	regions []string // bound_regions; allRegions: not restricted
	limit   int      // max_tokens; 0: none
}

// role is a role of one name, in all its lives.
type role struct {
	*kind
	states timeline[roleState]
	unsure bool // a change was not acknowledged: it must be read before it is changed again
	busy   bool // a request changes it

	flying int         // requests for creds that are on their way
	begun  int         // requests for creds so far
	lost   []time.Time // when tokens end at the latest whose answers were lost

	unknown []unknownHold // of shared tokens
}

// period is the end of a grant: not before lo, and not after hi.
type period struct{ lo, hi time.Time }

// grant is what one answer of creds gave: all that hangs on its lease.
type grant struct {
	n         int
	role      *role
	life      int // of the role; 0: not known
	subject   string
	scopes    []string
	reach     reach
	tokens    []*issued
	ids       []string // by which it may be revoked
	lease     *lease   // nil: none
	ends      timeline[period]
	revoked   mark
	over      mark      // its lease was revoked, maybe after its end
	overAt    time.Time // by the clock of the node that revoked it
	doubtful  bool      // a revocation was tried, and was not acknowledged
	upstream  *upstreamToken
	refreshes []*issued // refresh tokens, oldest first

	suspended suspended

	unlisted    bool // its revocation was acknowledged with a warning: no status list shows it
	lostRefresh bool // a refresh was not acknowledged

	limited bool   // it took a place below max_tokens
	stored  uint64 // when its row was in storage; 0: not that anybody knows
	faults  int64  // of storage until it was issued
}

// issued is one token of a grant.
type issued struct {
	mark
	grant   *grant
	text    string
	id      string
	scopes  []string
	reach   reach
	looks   int // how often it was looked at
	refresh bool
	end     time.Time // its own, to the second; renewing the lease moves that of the grant
	moves   bool      // its end is that of the grant
	list    string    // of a JWT: its status list; "": none
	place   int

	generation int // of a refresh token
}

// upstreamToken is a token of the service, and who holds it.
type upstreamToken struct {
	text     string
	id       string
	grants   []*grant
	revoked  mark // by another door than the leases
	doubtful bool
}

// model is what is true.
type model struct {
	roles     map[string]*role
	grants    []*grant
	tokens    []*issued
	upstreams map[string]*upstreamToken // by the text of the token
	sealed    map[string]string         // key number and id of an opaque token -> the token
	destroyed map[string]*destruction   // by the name of the key
	statics   map[string]*static
	suspended map[string]*suspended // by the id of the entity

	acknowledged map[string]*acknowledged // by the id of the finding

	connection connection
}

// static is a static role.
type static struct {
	name, role string
	exists     bool
	unsure     bool
	overlap    time.Duration
	period     time.Duration
}

// period gives the end of a grant as a node may know it.
func (g *grant) period(n *node) period {
	possible := g.ends.possible(n)
	p := possible[0]
	for _, other := range possible[1:] {
		if other.lo.Before(p.lo) {
			p.lo = other.lo
		}
		p.hi = maxTime(p.hi, other.hi)
	}
	return p
}

func within(some, all []string) bool {
	for _, s := range some {
		if !slices.Contains(all, s) {
			return false
		}
	}
	return true
}

func common(a, b []string) []string {
	var both []string
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}

// kind is a sort of role, of which there is one by its name.
type kind struct {
	name      string
	upstream  bool
	jwt       bool
	refresh   bool
	exchange  bool
	leaseless bool
	shared    bool
	static    bool
	ttl       time.Duration
}

var kinds = []*kind{
	{name: "opaque", exchange: true, ttl: 10 * time.Minute},
	{name: "refreshed", refresh: true, exchange: true, ttl: 15 * time.Minute},
	{name: "signed", jwt: true, exchange: true, ttl: 10 * time.Minute},
	{name: "signed-refreshed", jwt: true, refresh: true, exchange: true, ttl: 15 * time.Minute},
	{name: "leaseless", jwt: true, leaseless: true, ttl: 5 * time.Minute},
	{name: "kept", static: true, ttl: time.Hour},
	{name: "upstream", upstream: true, ttl: 5 * time.Minute},
	{name: "shared", upstream: true, shared: true, ttl: 5 * time.Minute},
	{name: "upstream-leaseless", upstream: true, leaseless: true, ttl: 3 * time.Minute},
	{name: "upstream-kept", upstream: true, static: true, ttl: 10 * time.Minute},
}

const (
	accessTTL = 2 * time.Minute
	maxTTL    = time.Hour
	reuse     = time.Minute
)

var allScopes = []string{"a:read", "a:write", "b:read", "c:read"}

// fields are what the role is written with.
func (k *kind) fields(s roleState) map[string]any {
	data := map[string]any{"ttl": int(k.ttl.Seconds()), "max_ttl": int(maxTTL.Seconds()), "max_tokens": s.limit}
	if k.leaseless {
		data["max_ttl"] = int(k.ttl.Seconds())
		data["generate_lease"] = false
	}
	if k.upstream {
		data["connection"] = "service"
		data["params"] = map[string]any{"may": strings.Join(s.scopes, ",")}
		if k.shared {
			data["reuse"] = int(reuse.Seconds())
		}
		return data
	}
	data["scopes"] = strings.Join(s.scopes, ",")
	data["allowed_scopes"] = strings.Join(s.allowed, ",")
	data["bound_regions"] = regionsField(s.regions)
	data["exchange"] = k.exchange
	data["refresh"] = k.refresh
	if k.refresh {
		data["access_ttl"] = int(accessTTL.Seconds())
	}
	if k.jwt {
		data["token_format"] = "jwt"
		data["audience"] = "api"
		data["require_bound_checks"] = true
	}
	return data
}

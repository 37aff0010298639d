package detect

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// maxAddresses is the maximum number of addresses with refused tokens: about 3 MB.
	maxAddresses = 10_000

	// maxRefusedTokens is the number of different refused tokens that are kept of an address.
	maxRefusedTokens = 16

	// addressFor is how long an address is kept after its last refusal, in seconds.
	addressFor = day
)

// addresses has the addresses from which refused tokens came. An IPv6 client counts as its /64.
type addresses struct {
	count  atomic.Int32 // number of entries
	mu     sync.Mutex
	byAddr map[netip.Addr]*addressState
}

// addressState has the refusals of an address: about 220 bytes. Uses count from the first refusal on.
type addressState struct {
	last     uint32
	untold   uint32                // when a refused token was last not told apart from others
	refusals [len(guesses)]counter // within the window of the kind
	uses     [len(guesses)]counter // that were allowed, within the window of the kind
	tokens   [maxRefusedTokens]struct{ text, at uint32 }
}

// guesses are the kinds of guessing, with the places of their thresholds.
var guesses = [...]struct {
	name                             string
	refusals, tokens, failed, window int
	least, most                      uint64 // refusals of each token, on average
}{
	{"stuffing", stuffingRefusals, stuffingTokens, stuffingFailed, stuffingWindow, 0, 2},
	{"spraying", sprayingRefusals, sprayingTokens, sprayingFailed, sprayingWindow, 2, 6},
}

// guess is an address that guesses tokens.
type guess struct {
	address  netip.Addr
	kind     string
	refusals uint64
	tokens   int  // different tokens, maxRefusedTokens at most
	untold   bool // whether some refusals did not tell tokens apart
	failed   float64
	limit    int64
	window   int64
}

// hashID returns a hash of an ID, never 0.
func hashID(id token.ID) uint32 { return max(binary.BigEndian.Uint32(id[8:]), 1) }

// clientOf returns the key of an address in the table.
func clientOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		prefix, _ := addr.Prefix(64)
		return prefix.Addr()
	}
	return addr
}

// used counts allowed uses of an address that is in the table.
func (as *addresses) used(addr netip.Addr, n uint64, at uint32, s *Settings) {
	if as.count.Load() == 0 {
		return
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	if a := as.byAddr[clientOf(addr)]; a != nil {
		for i, kind := range guesses {
			a.uses[i].add(at, s.numbers[kind.window], n)
		}
	}
}

// refused counts refused tokens of an address. It returns a guess if the address begins to guess; nil otherwise. text is a
// hash of the token; 0: the tokens are not told apart.
func (as *addresses) refused(addr netip.Addr, text uint32, n uint64, at uint32, s *Settings) (found *guess) {
	addr = clientOf(addr)
	as.mu.Lock()
	defer as.mu.Unlock()
	a := as.byAddr[addr]
	if a == nil {
		a = as.place(addr)
	}
	a.last = max(a.last, at)
	if text == 0 {
		a.untold = at
	} else {
		a.see(text, at)
	}
	for i, kind := range guesses {
		_, refusals := a.refusals[i].add(at, s.numbers[kind.window], n)
		_, uses := a.uses[i].add(at, s.numbers[kind.window], 0)
		g := guess{
			address: addr, kind: kind.name, refusals: refusals, tokens: a.distinct(at, s.numbers[kind.window]),
			untold: a.untold != 0 && int64(since(a.untold, at)) < s.numbers[kind.window],
			failed: 100 * float64(refusals) / float64(refusals+uses), limit: s.numbers[kind.refusals],
			window: s.numbers[kind.window],
		}
		each := g.between(kind.least, kind.most) && int64(g.tokens) >= s.numbers[kind.tokens]
		if g.untold {
			each = kind.least == 0
		}
		if found == nil && each && int64(refusals) >= g.limit && g.failed >= s.limit(kind.failed) { //nolint:gosec // small counts
			found = &g
		}
	}
	return found
}

// between reports whether each token was refused at least and at most so often, on average: a client that retries with a
// dead token is no guesser. Of more than maxRefusedTokens tokens, the upper bound is not known.
func (g *guess) between(least, most uint64) bool {
	tokens := uint64(g.tokens) //nolint:gosec // not negative
	return g.refusals >= least*tokens && (g.tokens >= maxRefusedTokens || g.refusals <= most*tokens)
}

// see notes a refused token.
func (a *addressState) see(text, at uint32) {
	oldest := 0
	for i := range a.tokens {
		if a.tokens[i].text == text {
			a.tokens[i].at = at
			return
		}
		if a.tokens[i].at < a.tokens[oldest].at {
			oldest = i
		}
	}
	a.tokens[oldest].text, a.tokens[oldest].at = text, at
}

// distinct returns the number of different refused tokens within a window.
func (a *addressState) distinct(at uint32, window int64) (n int) {
	for i := range a.tokens {
		if a.tokens[i].text != 0 && int64(since(a.tokens[i].at, at)) < window {
			n++
		}
	}
	return n
}

// place adds an address to the table, in place of an address that was not refused for long if the table is full. The
// caller holds mu.
func (as *addresses) place(addr netip.Addr) *addressState {
	if as.byAddr == nil {
		as.byAddr = make(map[netip.Addr]*addressState)
	}
	if len(as.byAddr) >= maxAddresses {
		const tries = 16
		var oldest netip.Addr
		last, n := ^uint32(0), 0
		for addr, a := range as.byAddr {
			if a.last <= last {
				oldest, last = addr, a.last
			}
			if n++; n == tries {
				break
			}
		}
		delete(as.byAddr, oldest)
	}
	a := new(addressState)
	as.byAddr[addr] = a
	as.count.Store(int32(len(as.byAddr))) //nolint:gosec // at most maxAddresses
	return a
}

func (as *addresses) prune(now uint32) {
	as.mu.Lock()
	defer as.mu.Unlock()
	for addr, a := range as.byAddr {
		if since(a.last, now) > addressFor {
			delete(as.byAddr, addr)
		}
	}
	as.count.Store(int32(len(as.byAddr))) //nolint:gosec // at most maxAddresses
}

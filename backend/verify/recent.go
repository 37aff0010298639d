package verify

import (
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"sync/atomic"
)

// recent has the texts of a few JWTs that were used lately. A JWT is long: to compare its text takes a third of the time of
// a digest. What a text is depends on the comparison alone: the hash only says where to look.
type recent struct {
	seed  maphash.Seed
	slots [recentSlots]atomic.Pointer[recentToken]
}

const (
	recentSlots = 4096
	oneIn       = 16 // of the uses of other tokens take a slot, so that many tokens do not drive each other out all the time
)

type recentToken struct {
	text  string
	facts *facts
}

func newRecent() *recent { return &recent{seed: maphash.MakeSeed()} }

func (r *recent) slot(text string) *atomic.Pointer[recentToken] {
	return &r.slots[maphash.String(r.seed, text)%recentSlots]
}

// get returns the facts about a text; nil if the text was not used lately. The facts may be out of date.
func (r *recent) get(text string) *facts {
	if one := r.slot(text).Load(); one != nil && one.text == text {
		return one.facts
	}
	return nil
}

// put remembers the facts about a text.
func (r *recent) put(text string, f *facts) {
	slot := r.slot(text)
	one := slot.Load()
	switch {
	case one == nil:
		text = strings.Clone(text) // not the whole request
	case one.text == text:
		text = one.text
	case rand.Uint32N(oneIn) != 0: //nolint:gosec // no secret
		return
	default:
		text = strings.Clone(text)
	}
	slot.Store(&recentToken{text, f})
}

// forget drops everything.
func (r *recent) forget() {
	for i := range r.slots {
		r.slots[i].Store(nil)
	}
}

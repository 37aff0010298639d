package detect

import (
	"hash/maphash"
	"slices"
	"sync"
)

const (
	// learnEvery is how often a use counts for learning, in seconds: a day's uses count once, as a login does.
	learnEvery = day

	// familiarAfter is after how many days a network of a baseline is familiar. A thief's network is not, on the day of the theft.
	familiarAfter = 2

	// baselinePlaces is the number of regions, and of networks, that are kept of a role and subject.
	baselinePlaces = 16

	// maxBaselines is the maximum number of baselines: about 12 MB.
	maxBaselines = 50_000
)

// baselines has what is usual for each role and subject. Tokens live too short to have a baseline of their own. A token
// keeps its baseline, even if the table drops the baseline.
type baselines struct {
	mu    sync.Mutex
	byKey map[uint64]*baseline // by a hash of role and subject
}

var baselineSeed = maphash.MakeSeed()

// of returns the baseline of a role and subject.
func (bs *baselines) of(role, subject string, at uint32) *baseline {
	var h maphash.Hash
	h.SetSeed(baselineSeed)
	_, _ = h.WriteString(role)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(subject)
	sum := h.Sum64()
	bs.mu.Lock()
	defer bs.mu.Unlock()
	b := bs.byKey[sum]
	if b != nil {
		return b
	}
	if bs.byKey == nil {
		bs.byKey = make(map[uint64]*baseline)
	}
	if len(bs.byKey) >= maxBaselines {
		bs.makeRoom()
	}
	b = &baseline{first: at}
	bs.byKey[sum] = b
	return b
}

// makeRoom drops the one of some baselines that was not used for longest.
func (bs *baselines) makeRoom() {
	const tries = 16
	var oldest uint64
	last, n := ^uint32(0), 0
	for sum, b := range bs.byKey {
		b.mu.Lock()
		if b.last <= last {
			oldest, last = sum, b.last
		}
		b.mu.Unlock()
		if n++; n == tries {
			break
		}
	}
	delete(bs.byKey, oldest)
}

// baseline has the places of a role and subject: 160 bytes.
type baseline struct {
	mu       sync.Mutex
	first    uint32 // time of the first use
	last     uint32 // time of the last use that counted
	uses     uint16 // that counted
	networks [baselinePlaces]uint32
	since    [baselinePlaces]uint16 // days since 1970 when the networks were first used
	regions  [baselinePlaces][2]byte
}

// learned says what a baseline knows.
type learned struct {
	first    uint32
	uses     uint16
	regions  []string
	networks []string
}

// learn adds a use to a baseline, and reports whether the region or the network is new after the time of learning. The
// first known region, and the first known network, are never new.
func (b *baseline) learn(region string, network, at uint32, s *Settings) (newRegion, newNetwork bool, was learned) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := int64(since(b.first, at)) >= s.numbers[learnFor] || int64(b.uses) >= s.numbers[learnUses]
	regions, networks := b.regions[0] != [2]byte{}, b.networks[0] != 0
	isRegion, isNetwork := b.lacks(region, network)
	if known && (isRegion && regions || isNetwork && networks) {
		was = b.known()
	}
	b.note(region, network, at)
	return known && isRegion && regions, known && isNetwork && networks, was
}

// add adds a use to a baseline without judging the use.
func (b *baseline) add(region string, network, at uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.first = min(b.first, at)
	b.note(region, network, at)
}

// note adds a use. The caller holds mu.
func (b *baseline) note(region string, network, at uint32) {
	if isRegion, isNetwork := b.lacks(region, network); isRegion || isNetwork {
		if isRegion {
			copy(b.regions[1:], b.regions[:])
			b.regions[0] = [2]byte{region[0], region[1]}
		}
		if isNetwork {
			copy(b.networks[1:], b.networks[:])
			copy(b.since[1:], b.since[:])
			b.networks[0], b.since[0] = network, dayOf(at)
		}
	}
	if at/learnEvery > b.last/learnEvery || b.last == 0 {
		b.last = at
		b.uses = min(b.uses+1, 1<<15)
	}
}

func dayOf(at uint32) uint16 { return uint16(at / day) } //nolint:gosec // until the year 2149

// familiar reports whether a place is usual: the role and subject have used its network for some days, and its region before.
func (b *baseline) familiar(p *Place, at uint32) bool {
	if !b.knows(p.Network, at) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	isRegion, _ := b.lacks(p.Region, p.Network)
	return !isRegion
}

// knows reports whether the role and subject have used a network for some days.
func (b *baseline) knows(network, at uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.networks[:], network)
	return network != 0 && i >= 0 && dayOf(at) >= b.since[i]+familiarAfter
}

// lacks reports whether a known region, and a known network, are not in the baseline. The caller holds mu.
func (b *baseline) lacks(region string, network uint32) (isRegion, isNetwork bool) {
	isRegion = len(region) == 2
	for i := 0; isRegion && i < baselinePlaces; i++ {
		isRegion = string(b.regions[i][:]) != region
	}
	isNetwork = network != 0
	for i := 0; isNetwork && i < baselinePlaces; i++ {
		isNetwork = b.networks[i] != network
	}
	return isRegion, isNetwork
}

func (b *baseline) known() learned {
	l := learned{first: b.first, uses: b.uses}
	for i := range baselinePlaces {
		if b.regions[i] != [2]byte{} {
			l.regions = append(l.regions, string(b.regions[i][:]))
		}
		if b.networks[i] != 0 {
			l.networks = append(l.networks, asn(b.networks[i]))
		}
	}
	return l
}

package detect

import "net/netip"

// Token is the state of a token: 56 bytes, and 112 bytes more for a token that was used from several networks. The zero
// Token is that of a token of which nothing was seen.
type Token struct {
	base    *baseline // of the role and subject; nil: no use was seen
	window  *window   // nil: all uses came from one network
	refused counter   // refusals within burstWindow
	ended   uint32    // when the token was first refused for an end; 0: never
	issued  uint32    // when the token was issued, until its first use; 0: not known, or used
	minute  uint32    // minute of the last use, since 1970
	uses    uint32    // in that minute
	usual   float32   // mean number of uses a minute, of the minutes with uses
	minutes uint16    // number of minutes that usual is made of
}

// counterSlots is the number of parts that a window has.
const counterSlots = 5

// counter counts events in a window that slides in fifths: events in the window and at most a fifth less.
type counter struct {
	slots [counterSlots]uint16
	tick  uint32 // number of the fifth that slots[tick%counterSlots] counts, since 1970
}

// add counts n events at a time, and returns the number in the window before and after.
func (c *counter) add(at uint32, window int64, n uint64) (before, after uint64) {
	tick := at / uint32(max(window/counterSlots, 1)) //nolint:gosec // at most some days
	switch {
	case tick >= c.tick+counterSlots || tick+counterSlots <= c.tick: // late, or another window
		c.slots = [counterSlots]uint16{}
		c.tick = tick
	case tick < c.tick:
		tick = c.tick
	}
	for c.tick < tick {
		c.tick++
		c.slots[c.tick%counterSlots] = 0
	}
	before = c.sum()
	slot := &c.slots[tick%counterSlots]
	*slot = uint16(min(uint64(*slot)+min(n, 1<<16), 1<<16-1))
	return before, c.sum()
}

func (c *counter) sum() (n uint64) {
	for _, slot := range c.slots {
		n += uint64(slot)
	}
	return n
}

// windowSlots is the number of networks that are kept of a token.
const windowSlots = 6

// window has the networks from which a token was last used: 108 bytes. A list for each field saves the padding that a list of
// spots would have.
type window struct {
	at       [windowSlots]uint32
	networks [windowSlots]uint32
	cities   [windowSlots]uint32
	prefixes [windowSlots][6]byte
}

// spot is a network from which a token was used. The zero value is no spot.
type spot struct {
	at      uint32  // of the last use, in seconds since 1970
	network uint32  // number of the autonomous system; 0: not known
	city    uint32  // GeoNames ID, or the country with countryBit; 0: not known
	prefix  [6]byte // of the address: an IPv6 /48, or ff ff and an IPv4 /24
}

// spot returns the spot at a place of the window.
func (w *window) spot(i int) spot {
	return spot{at: w.at[i], network: w.networks[i], city: w.cities[i], prefix: w.prefixes[i]}
}

func (w *window) set(i int, s spot) {
	w.at[i], w.networks[i], w.cities[i], w.prefixes[i] = s.at, s.network, s.city, s.prefix
}

// spots returns the spots of the window.
func (w *window) spots(yield func(spot) bool) {
	for i := range windowSlots {
		if w.at[i] != 0 && !yield(w.spot(i)) {
			return
		}
	}
}

const countryBit = 1 << 31

func spotOf(addr netip.Addr, p *Place, at uint32) spot {
	s := spot{at: at, network: p.Network, city: p.City, prefix: prefixOf(addr)}
	if s.city == 0 && len(p.Region) == 2 {
		s.city = countryBit | uint32(p.Region[0])<<8 | uint32(p.Region[1])
	}
	return s
}

func prefixOf(addr netip.Addr) (prefix [6]byte) {
	if addr = addr.Unmap(); addr.Is4() {
		four := addr.As4()
		return [6]byte{0xff, 0xff, four[0], four[1], four[2]}
	}
	sixteen := addr.As16()
	copy(prefix[:], sixteen[:])
	return prefix
}

// prefixText returns the range of a prefix.
func prefixText(prefix [6]byte) string {
	if prefix[0] == 0xff && prefix[1] == 0xff {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{prefix[2], prefix[3], prefix[4]}), 24).String()
	}
	var sixteen [16]byte
	copy(sixteen[:], prefix[:])
	return netip.PrefixFrom(netip.AddrFrom16(sixteen), 48).String()
}

// apart returns the seconds between the uses of two spots.
func (s *spot) apart(o *spot) int64 { return int64(since(s.at, o.at) + since(o.at, s.at)) }

// same reports whether two spots are in one network: of one autonomous system where both are known, and not of different
// cities, otherwise of one range. Neighbours that share a provider are one network, and people all over a country are not.
func (s *spot) same(o *spot) bool {
	if s.network != 0 && o.network != 0 {
		return s.network == o.network && !s.otherCity(o)
	}
	return s.prefix == o.prefix
}

// otherNetwork reports whether two spots are certainly in different autonomous systems.
func (s *spot) otherNetwork(o *spot) bool {
	return s.network != 0 && o.network != 0 && s.network != o.network
}

// otherCity reports whether two spots are certainly in different cities, or in different countries.
func (s *spot) otherCity(o *spot) bool {
	return s.city != 0 && o.city != 0 && s.city&countryBit == o.city&countryBit && s.city != o.city
}

// furthest returns which of some spots differs most from a spot: in the network and the city (2), in one of them (1), or in none
// (0).
func (w *window) furthest(now *spot, some func(*spot) bool) (differs int, was spot) {
	for other := range w.spots {
		n := 0
		if other.otherNetwork(now) {
			n++
		}
		if other.otherCity(now) {
			n++
		}
		if n > differs && some(&other) {
			differs, was = n, other
		}
	}
	return differs, was
}

// others returns the number of spots of the last seconds; 0 if one of them is of the same network as a spot.
func (w *window) others(now *spot, seconds int64) (n int) {
	for was := range w.spots {
		switch {
		case was.apart(now) > seconds:
		case was.same(now):
			return 0 // the network was counted before
		default:
			n++
		}
	}
	return n
}

// put puts a spot into the window, in place of an older spot of the same network or the oldest spot.
func (w *window) put(now spot) {
	oldest := 0
	for i := range windowSlots {
		was := w.spot(i)
		if was.at != 0 && was.same(&now) {
			if now.at >= was.at {
				w.set(i, now)
			}
			return
		}
		if was.at < w.at[oldest] {
			oldest = i
		}
	}
	w.set(oldest, now)
}

package detect

import "net/netip"

// Token is the state of a token: 64 bytes, and 128 bytes more for a token that was used from several networks.
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

// window has the networks from which a token was last used: 120 bytes.
type window [windowSlots]spot

// spot is a network from which a token was used. The zero value is no spot.
type spot struct {
	at      uint32  // of the last use, in seconds since 1970
	network uint32  // number of the autonomous system; 0: not known
	city    uint32  // GeoNames ID, or the country with countryBit; 0: not known
	prefix  [6]byte // of the address: an IPv6 /48, or ff ff and an IPv4 /24
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

// same reports whether two spots are in one network: of one autonomous system where both are known, otherwise of one range.
func (s *spot) same(o *spot) bool {
	if s.network != 0 && o.network != 0 {
		return s.network == o.network
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

// put puts a spot into the window, in place of an older spot of the same network or the oldest spot.
func (w *window) put(now spot) {
	oldest := &w[0]
	for i := range w {
		if w[i].at != 0 && w[i].same(&now) {
			if now.at >= w[i].at {
				w[i] = now
			}
			return
		}
		if w[i].at < oldest.at {
			oldest = &w[i]
		}
	}
	*oldest = now
}

package detect

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"
)

// dormant finds a use after a long time without a use. A token that was never used counts from its issue.
func (d *Detector) dormant(s *sight) {
	last := s.before.At
	if last == 0 {
		last, s.token.issued = s.token.issued, 0
	}
	idle := since(last, s.at)
	if last == 0 || int64(idle) < s.numbers[dormantAfter] || !s.on(DormantAwake) {
		return
	}
	d.raise(s.key(DormantAwake, ""), s.at, 1, func(f *Finding) {
		f.Severity = Medium
		f.Numbers = numbers{"idle_seconds": float64(idle), "allowed_seconds": s.limit(dormantAfter)}
		f.Summary = fmt.Sprintf("the token was used after %s without a use, allowed are %s", span(idle), s.span(dormantAfter))
		d.witness(f, s, nil)
	})
}

// surge finds more uses a minute than usual.
func (d *Detector) surge(s *sight) {
	t, at := s.token, s.at/minute
	if at < t.minute {
		return // a late report
	}
	if at > t.minute {
		if t.uses > 0 {
			count := float32(t.uses)
			if t.minutes > 0 { // an attack must not become the usual number
				count = min(count, max(t.usual, 1)*float32(s.numbers[surgeFactor]))
			}
			t.minutes = min(t.minutes+1, 10_000)
			t.usual += (count - t.usual) / float32(min(t.minutes, 1000))
		}
		t.minute, t.uses = at, 0
	}
	before := t.uses
	t.uses = uint32(min(uint64(before)+s.seen.Uses, math.MaxUint32))
	limit := max(float64(t.usual)*s.limit(surgeFactor), s.limit(surgeFloor))
	if int64(t.minutes) < s.numbers[surgeLearn] || float64(before) > limit || float64(t.uses) <= limit || !s.on(Surge) {
		return
	}
	uses, usual := t.uses, float64(t.usual)
	d.raise(s.key(Surge, ""), s.at, 1, func(f *Finding) {
		f.Severity = Medium
		f.Numbers = numbers{"uses_a_minute": float64(uses), "usual_uses_a_minute": usual, "allowed_uses_a_minute": limit}
		f.Summary = fmt.Sprintf("the token was used %d times within a minute, usual are %.1f, allowed are %.0f", uses, usual,
			limit)
		d.witness(f, s, nil)
	})
}

const earthRadius = 6371.0 // km

// distance returns the length of the shortest way between two places, in kilometres, as short as the accuracy of the
// coordinates allows.
func distance(a, b *Place) float64 {
	rad := math.Pi / 180
	sinLat := math.Sin((b.Latitude - a.Latitude) * rad / 2)
	sinLon := math.Sin((b.Longitude - a.Longitude) * rad / 2)
	h := sinLat*sinLat + math.Cos(a.Latitude*rad)*math.Cos(b.Latitude*rad)*sinLon*sinLon
	return max(2*earthRadius*math.Asin(math.Sqrt(min(h, 1)))-a.Radius-b.Radius, 0)
}

// travel finds two uses that are too far apart for the time between them, unless role and subject have used both networks for
// days: gateways of carriers and exits of VPNs seem to be far away.
func (d *Detector) travel(s *sight, here *Place) {
	if !here.Located || !s.on(ImpossibleTravel) {
		return
	}
	there := d.at(s.before)
	if !there.Located || s.exempt(s.seen.Address, here) && s.exempt(s.before.Address, &there) ||
		s.usual(s.seen.Address, here) && s.usual(s.before.Address, &there) {
		return
	}
	km := distance(here, &there)
	apart := since(s.before.At, s.at) + since(s.at, s.before.At)
	seconds := max(float64(apart), s.limit(travelInterval), 1)
	speed := km / seconds * hour
	if km < s.limit(travelDistance) || speed <= s.limit(travelSpeed) {
		return
	}
	d.raise(s.key(ImpossibleTravel, ""), s.at, 1, func(f *Finding) {
		f.Severity = High
		f.Numbers = numbers{
			"distance_km": math.Round(km), "seconds_apart": float64(apart), "speed_kmh": math.Round(speed),
			"allowed_kmh": s.limit(travelSpeed),
		}
		f.Summary = fmt.Sprintf("the token was used at two places that are %.0f km and %s apart: that is %.0f km/h, allowed "+
			"are %.0f km/h",
			km, span(apart), speed, s.limit(travelSpeed))
		if apart < uint32(seconds) {
			f.Summary += fmt.Sprintf(" (uses within %s count as %[1]s apart)", s.span(travelInterval))
		}
		d.witness(f, s, &there, here)
	})
}

// exempt reports whether impossible_travel ignores a place: a known range, or a hosting network.
func (s *Settings) exempt(addr netip.Addr, p *Place) bool {
	return s.within(addr) || p.Network != 0 && s.hosting[p.Network]
}

// usual reports whether a place is in a known range, or familiar to role and subject.
func (s *sight) usual(addr netip.Addr, p *Place) bool {
	return s.within(addr) || s.token.base.familiar(p, s.at)
}

// spread evaluates the rules about the networks from which a token was used lately.
func (d *Detector) spread(s *sight, here *Place) {
	now := spotOf(s.seen.Address, here, s.at)
	w := s.token.window
	if w == nil {
		if !s.before.Address.IsValid() || s.within(s.before.Address) {
			return
		}
		there := d.at(s.before)
		was := spotOf(s.before.Address, &there, s.before.At)
		if was.same(&now) {
			return
		}
		w = new(window)
		w.set(0, was)
		s.token.window = w
	}
	d.several(s, w, &now, here)
	d.shared(s, w, &now)
	w.put(now)
}

// several finds uses from several networks or cities at the same time, unless role and subject have used both networks for
// days: the office and the phone of a person.
func (d *Detector) several(s *sight, w *window, now *spot, here *Place) {
	familiar := s.token.base.familiar(here, s.at)
	best, other := w.furthest(now, func(o *spot) bool {
		return o.apart(now) <= s.numbers[severalWindow] && !(familiar && s.token.base.knows(o.network, s.at))
	})
	if best == 0 || int64(best) < s.numbers[severalFidelity] || !s.on(SeveralNetworks) {
		return
	}
	was := other                    // only a finding needs the spot on the heap
	apart := uint32(was.apart(now)) //nolint:gosec // the distance of two 32-bit times
	d.raise(s.key(SeveralNetworks, ""), s.at, 1, func(f *Finding) {
		f.Severity = Medium
		if best > 1 {
			f.Severity = High
		}
		f.Numbers = numbers{"fidelity": float64(best), "seconds_apart": float64(apart), "window_seconds": s.limit(severalWindow)}
		var differ []string
		if was.otherNetwork(now) {
			differ = append(differ, "networks")
		}
		if was.otherCity(now) {
			differ = append(differ, map[bool]string{true: "countries", false: "cities"}[now.city&countryBit != 0])
		}
		f.Summary = fmt.Sprintf("the token was used from different %s within %s, uses within %s count as at the same time",
			strings.Join(differ, " and "), span(apart), s.span(severalWindow))
		d.witness(f, s, nil)
		f.Evidence = append([]Sight{was.sight()}, f.Evidence...)
	})
}

// shared finds a token that is used from many networks.
func (d *Detector) shared(s *sight, w *window, now *spot) {
	others := w.others(now, s.numbers[sharedWindow])
	if int64(others) < s.numbers[sharedNetworks] || !s.on(Shared) {
		return
	}
	d.raise(s.key(Shared, ""), s.at, 1, func(f *Finding) {
		f.Severity = Medium
		f.Numbers = numbers{
			"addresses": float64(others + 1), "allowed_addresses": s.limit(sharedNetworks), "window_seconds": s.limit(sharedWindow),
		}
		f.Summary = fmt.Sprintf("the token was used from %d addresses within %s, a network counted once, allowed are %.0f",
			others+1, s.span(sharedWindow), s.limit(sharedNetworks))
		for was := range w.spots {
			if was.apart(now) <= s.numbers[sharedWindow] {
				f.Evidence = append(f.Evidence, was.sight())
			}
		}
		d.witness(f, s, nil)
	})
}

// sight returns a spot as evidence.
func (s *spot) sight() Sight {
	e := Sight{At: fromSeconds(s.at), Address: prefixText(s.prefix), Network: asn(s.network)}
	if s.city&countryBit != 0 {
		e.Region = string([]byte{byte(s.city >> 8 & 0xff), byte(s.city & 0xff)})
	}
	return e
}

// familiar finds a region or a network that is new for the role and the subject.
func (d *Detector) familiar(s *sight, here *Place) {
	region, network, learned := s.token.base.learn(here.Region, here.Network, s.at, s.Settings)
	if region && s.on(NewRegion) {
		d.raiseNew(s, here, NewRegion, here.Region, &learned)
	}
	if network && s.on(NewNetwork) {
		d.raiseNew(s, here, NewNetwork, asn(here.Network), &learned)
	}
}

func (d *Detector) raiseNew(s *sight, here *Place, rule Rule, what string, learned *learned) {
	holder, _ := d.Holder(s.id)
	k := key{rule: rule, extra: strings.Join([]string{holder.Role, holder.Subject, what}, " ")}
	d.raise(k, s.at, 1, func(f *Finding) {
		f.Severity = Low
		f.TokenID, f.Role, f.EntityID = s.id.String(), holder.Role, holder.Subject
		f.Numbers = numbers{"learned_seconds": float64(since(learned.first, s.at)), "learned_uses": float64(learned.uses)}
		known := learned.regions
		if rule == NewNetwork {
			known = learned.networks
		}
		f.Summary = fmt.Sprintf("a token of this role and entity was used from %s, before only from %s", what,
			strings.Join(known, ", "))
		d.witness(f, s, nil, here)
	})
}

// key returns the identity of a finding about the token.
func (s *sight) key(rule Rule, extra string) key { return key{rule: rule, token: s.id, extra: extra} }

// witness adds to a finding the holder of the token, and what was seen: the use before if the rule compared with the use,
// and what was seen now.
func (d *Detector) witness(f *Finding, s *sight, there *Place, here ...*Place) {
	holder, _ := d.Holder(s.id)
	f.TokenID, f.Role, f.EntityID = s.id.String(), holder.Role, holder.Subject
	if there != nil {
		f.Evidence = append(f.Evidence, sightOf(s.before.At, s.before.Address, s.before.region(), s.before.Network, there))
	}
	var p *Place
	if len(here) > 0 {
		p = here[0]
	}
	f.Evidence = append(f.Evidence, sightOf(s.at, s.seen.Address, s.seen.Region, s.seen.Network, p))
	if s.seen.Address.IsValid() {
		f.Address = s.seen.Address.Unmap().WithZone("").String()
	}
}

// sightOf returns a use as evidence, with what the place adds.
func sightOf(at uint32, addr netip.Addr, region string, network uint32, p *Place) Sight {
	e := Sight{At: fromSeconds(at), Region: region, Network: asn(network)}
	if addr.IsValid() {
		e.Address = addr.Unmap().WithZone("").String()
	}
	if p != nil {
		e.Region, e.Network = p.Region, asn(p.Network)
	}
	return e
}

func asn(network uint32) string {
	if network == 0 {
		return ""
	}
	return fmt.Sprintf("AS%d", network)
}

// span returns a time in words.
func span(seconds uint32) string { return short(time.Duration(seconds) * time.Second) }

package main

import (
	"fmt"
	"net/netip"
)

// Assumptions about people who work at a computer: a token of twelve hours each working day.
const (
	personUses     = 12 * minute // mean time between uses during work
	atHome         = 0.4         // of the days; of these, half behind the company's VPN
	togglesVPN     = 2 * hour    // mean time after which a person at home switches the company's VPN on or off, who does so
	togglers       = 0.5         // of the people
	privateVPN     = 0.04        // of the people use a VPN of their own, on a third of their days
	travels        = 0.015       // of the days a journey begins: three days in another city, half of the journeys abroad
	flies          = 0.7         // of the journeys go by plane, and 15 % of the flights have a network that is used
	flightSpeed    = 780.        // km/h, from door to door two hours more
	showsOldToken  = 0.15        // of the days begin with yesterday's expired token
	hotspot        = 0.08        // of the uses outside the office are over a phone for a while
	personTokenTTL = 12 * hour
)

// person works at a computer.
type person struct {
	*world
	name    string
	city    int // where the person lives
	at      int // where the person is
	office  *office
	home    netip.Addr
	toggles bool
	private *network // a VPN; nil: none
	server  *verifier
	token   *issued
	old     *issued
	from    netip.Addr // of the next uses
	away    int        // days until the return from a journey
	until   int64      // end of the working day
}

// office is a site of the company: all clients there share an address.
type office struct {
	city int
	addr netip.Addr
	vpn  netip.Addr // the exit of the company's VPN
}

// newOffices makes the sites of the company: the headquarters, where the VPN ends, and five others.
func (w *world) newOffices() (offices []*office) {
	own, headquarters := w.net.network(company), w.net.cityOf("DE")
	for i := range 6 {
		o := &office{city: headquarters, vpn: w.net.address(own, headquarters)}
		o.addr = w.net.address(own, headquarters)
		if i > 0 {
			o.city = w.net.cityWhere(anywhere)
			o.addr = w.net.address(w.net.provider(cities[o.city].country), o.city)
		}
		w.ranges = append(w.ranges, o.addr.String()+"/32", o.vpn.String()+"/32")
		offices = append(offices, o)
	}
	return offices
}

func (w *world) newPerson(i int, offices []*office) {
	o := offices[w.rand.IntN(len(offices))]
	p := &person{world: w, name: fmt.Sprintf("person-%d", i), city: o.city, at: o.city, office: o, server: w.server()}
	p.home = w.net.address(w.net.provider(cities[p.city].country), p.city)
	p.toggles = w.chance(togglers)
	if w.chance(privateVPN) {
		p.private = w.net.vpns[w.rand.IntN(len(w.net.vpns))]
	}
	// The local midnight of the first day.
	w.at(begin+(day-int64(cities[p.city].lon/15*float64(hour)))%day, p.midnight)
}

func (p *person) midnight() {
	p.in(day, p.midnight)
	if p.away > 0 {
		if p.away--; p.away == 0 {
			p.at = p.city
		}
	}
	if p.weekend() || p.chance(0.06) { // a day off
		return
	}
	p.in(8*hour+p.about(hour), p.morning)
}

// morning begins a working day, at home or in the office.
func (p *person) morning() {
	p.until = p.now + int64(p.between(7, 9))*hour
	switch {
	case p.away > 0:
		p.from = p.net.address(p.net.provider(cities[p.at].country), p.at)
	case p.chance(atHome):
		p.from = p.home
		if p.chance(0.5) {
			p.from = p.office.vpn
		}
		if p.toggles {
			p.in(p.about(togglesVPN), p.toggle)
		}
		if p.private != nil && p.chance(1./3) {
			p.from = p.net.address(p.private, p.net.cityWhere(anywhere))
		}
	default:
		p.from = p.office.addr
	}
	p.old, p.token = p.token, nil
	if p.old != nil && p.chance(showsOldToken) {
		p.use(p.old, p.between(1, 2), p.from)
	}
	p.token = p.issue("developer", p.name, personTokenTTL, p.at, p.server)
	p.token.rate = 0.3
	p.work()
	if p.away == 0 && p.chance(travels) {
		p.in(p.about(3*hour), p.leave)
	}
}

// work uses the token until the end of the day.
func (p *person) work() {
	if p.now >= p.until || !p.token.alive(p.now) {
		return
	}
	p.use(p.token, p.between(1, 6), p.from)
	if p.from != p.office.addr && p.chance(hotspot) {
		p.tether()
	}
	p.in(p.about(personUses), p.work)
}

// tether has the next uses come over a phone, for half an hour or so.
func (p *person) tether() {
	before := p.from
	country := cities[p.at].country
	p.from = p.net.address(p.net.mobile[country][0], p.at)
	mobile := p.from
	p.in(p.about(30*minute), func() {
		if p.from == mobile {
			p.from = before
		}
	})
}

// toggle switches the company's VPN on or off, at home.
func (p *person) toggle() {
	if p.now >= p.until || p.away > 0 {
		return
	}
	if p.from == p.home {
		p.from = p.office.vpn
	} else {
		p.from = p.home
	}
	p.in(p.about(togglesVPN), p.toggle)
}

// leave begins a journey. On the way the token is used only from a plane with a network, and from the hotel on.
func (p *person) leave() {
	country := cities[p.city].country
	to := p.net.cityWhere(anywhere)
	if p.chance(0.5) {
		to = p.net.cityOf(country)
	}
	if to == p.at {
		return
	}
	km := distance(p.at, to)
	takes := 2*hour + int64(km/flightSpeed*float64(hour))
	if !p.chance(flies) {
		takes = hour + int64(km/90*float64(hour))
	} else if p.chance(0.15) {
		p.in(takes/2, func() { p.from = p.net.address(p.net.planes, to) })
	}
	p.away, p.at = 4, to
	p.from = p.net.address(p.net.mobile[country][0], p.city) // the way to the station
	p.until = max(p.until, p.now+takes+hour)
	p.in(takes, func() { p.from = p.net.address(p.net.provider(cities[to].country), to) })
}

package main

import (
	"fmt"
	"net/netip"
)

// Assumptions about apps on phones: a token of thirty days, which the app refreshes each hour of use.
const (
	phoneUses     = 25 * minute // mean time between uses while awake
	phoneSwitches = 100 * minute
	phoneAbroad   = 0.004 // of the days a journey abroad begins: half roam through the carrier at home, half through one there
	weekendTrip   = 0.08  // of the weekends are spent in another city
	lostRefresh   = 1. / 20_000
	bound         = 0.1          // of the phones bind their token to a key
	wrongClock    = 1. / 500 / 7 // a day: the clock of a phone is off, and proofs are refused until it is set
	phoneTTL      = 30 * day
)

// phone has an app.
type phone struct {
	*world
	name    string
	city    int
	at      int
	carrier *network
	home    netip.Addr
	office  netip.Addr
	from    netip.Addr
	token   *issued
	server  *verifier
	bound   bool
	away    int
	uses    int
}

func (w *world) newPhone(i int, offices []*office) {
	o := offices[w.rand.IntN(len(offices))]
	country := cities[o.city].country
	p := &phone{world: w, name: fmt.Sprintf("phone-%d", i), city: o.city, at: o.city, office: o.addr, server: w.server()}
	p.carrier = w.net.mobile[country][w.rand.IntN(3)]
	p.home = w.net.address(w.net.provider(country), p.city)
	p.from, p.bound = p.home, w.chance(bound)
	w.at(begin-w.about(10*day), p.renew)
	w.at(begin+w.about(hour), p.awake)
	w.at(begin+w.about(hour), p.move)
	w.at(begin+w.about(day), p.daily)
}

// login gets a new token.
func (p *phone) login() {
	p.token = p.issue("mobile", p.name, phoneTTL, p.city, p.server)
	p.token.rate = 0.1
}

func (p *phone) renew() {
	p.login()
	p.in(phoneTTL-hour, p.renew)
}

// daily decides on journeys, and on what goes wrong.
func (p *phone) daily() {
	p.in(day, p.daily)
	country := cities[p.city].country
	if p.away > 0 {
		if p.away--; p.away == 0 {
			p.at = p.city
		}
		return
	}
	switch {
	case p.chance(phoneAbroad):
		p.at, p.away = p.net.cityWhere(func(c *city) bool { return c.country != country }), p.between(2, 9)
	case p.weekend() && p.chance(weekendTrip/2):
		p.at, p.away = p.net.cityOf(country), 2
	}
	if p.bound && p.chance(wrongClock) {
		p.refuse(p.token, "proof_invalid", p.between(1, 30), p.from)
	}
}

// awake uses the token from seven to 23 o'clock.
func (p *phone) awake() {
	if h := p.localHour(p.at); h < 7 || h > 23 {
		p.in(hour, p.awake)
		return
	}
	if !p.token.alive(p.now) {
		p.login()
	}
	p.use(p.token, p.between(1, 3), p.from)
	if p.uses++; p.uses%3 == 0 && p.chance(lostRefresh) { // the app retries with a refresh token that was used
		p.refreshReused(p.token, p.from)
		p.login()
	}
	p.in(p.about(phoneUses), p.awake)
}

// move changes the network: the carrier on the way, else the network of the home, the office or a hotel.
func (p *phone) move() {
	p.in(p.about(phoneSwitches), p.move)
	country := cities[p.at].country
	abroad := country != cities[p.city].country
	h := p.localHour(p.at)
	switch {
	case abroad && p.chance(0.5):
		p.from = p.net.address(p.net.provider(country), p.at) // a hotel
	case abroad && p.chance(0.5):
		p.from = p.net.address(p.net.mobile[country][0], p.at)
	case abroad || p.chance(0.45):
		p.from = p.net.address(p.carrier, p.at)
	case p.at != p.city:
		p.from = p.net.address(p.net.provider(country), p.at)
	case h > 9 && h < 17 && !p.weekend():
		p.from = p.office
	default:
		p.from = p.home
	}
}

// refreshReused revokes a grant whose refresh token a thief and the holder have used, as the engine does.
func (w *world) refreshReused(t *issued, from netip.Addr) {
	t.revoked = true
	w.detect.RefreshReused(t.id, t.holder.Role, t.holder.Subject, from.String())
}

package main

import (
	"net/netip"
)

// Assumptions about what else comes to API servers.
const (
	scannersADay = 20.       // addresses of the internet that show one to eight random tokens
	monitors     = 1. / 2000 // of the tokens: a monitor that shows one dead token each minute, for days
	stagingTests = 1.        // a day: a test shows a token of the test environment, to see that it is refused
	shortlyDead  = 1. / 2000 // of the tokens and days: a token is revoked, and its client goes on for up to 15 minutes
	mistakes     = 1. / 300  // of the tokens and days: a client asks for what its token may not do, a few times
)

// noise is what happens each day beside the uses of clients.
func (w *world) noise() {
	w.in(day, w.noise)
	for range w.poisson(scannersADay) {
		w.in(w.about(day/2), w.scanner)
	}
	for range w.poisson(stagingTests) {
		w.in(w.about(day/2), func() { w.foreign(w.net.address(w.net.clouds[0], 11)) })
	}
	for range w.poisson(shortlyDead * float64(w.clients)) {
		w.in(w.about(day/2), w.dies)
	}
	for range w.poisson(mistakes * float64(w.clients)) {
		w.in(w.about(day/2), w.mistake)
	}
}

func (w *world) scanner() {
	from := w.net.address(w.net.clouds[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	server := w.server()
	for i := range w.between(1, 8) {
		w.in(int64(i)*w.about(minute), func() { w.unknown(server, from, uint32(w.rand.IntN(1<<30))+1) })
	}
}

// monitor shows a token that nobody knows any more, again and again.
func (w *world) monitor() {
	from := w.net.address(w.net.clouds[w.rand.IntN(3)], w.net.cityWhere(anywhere))
	server, until, text := w.server(), w.now+w.lasting(day, 10*day), uint32(w.rand.IntN(1<<30))+1
	var again func()
	again = func() {
		w.unknown(server, from, text)
		if w.now < until {
			w.in(minute, again)
		}
	}
	again()
}

// unknown has an API server see a token that nobody knows. A verifier does not tell such tokens apart.
func (w *world) unknown(at *verifier, from netip.Addr, text uint32) {
	if at != nil {
		at.reject(from)
		return
	}
	w.usage.Refused(from, text, 1)
}

// foreign has introspection see a token of another mount.
func (w *world) foreign(from netip.Addr) {
	w.usage.Refused(from, 1, 1)
	w.detect.Foreign(from)
}

// dies revokes a token, and its client notices after a few minutes.
func (w *world) dies() {
	t := w.victim(func(t *issued) bool { return t.kind == "developer" || t.kind == "ci" })
	if t == nil {
		return
	}
	t.revoked = true
	from, until := w.net.address(w.net.home["DE"][0], t.city), w.now+w.lasting(minute, 15*minute)
	var again func()
	again = func() {
		w.use(t, 1, from)
		if w.now < until {
			w.in(45, again)
		}
	}
	again()
}

func (w *world) mistake() {
	t := w.victim(func(*issued) bool { return true })
	if t == nil {
		return
	}
	from := w.net.address(w.net.home["DE"][0], t.city)
	for i := range w.between(1, 8) {
		w.in(int64(i)*20, func() { w.refuse(t, "insufficient_scope", 1, from) })
	}
}

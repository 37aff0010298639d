package simulation

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// fault is what becomes of a call.
type fault int

const (
	answers    fault = iota
	resets           // the connection is cut before anything is done
	resetsDone       // and after it is done
	cutShort         // it is done, and the answer breaks off
	fails            // 500, and nothing is done
	failsDone        // 500, and it is done
	late             // it is done, and the answer comes late
	muchLater        // it is done only when the client has given up
	nonsense         // it is done, and the answer makes no sense
	limited          // 429 with Retry-After
	slow             // it is done, and the answer takes most of a second
	twice            // it is done, the connection is cut, and somebody on the way repeats what makes something
	faultCount
)

// answer answers a request in the way of a fault; serve does what the request asks for.
func (s *service) answer(w http.ResponseWriter, r *http.Request, do fault, serve func(answer func(status int, body any))) {
	silently := func() { serve(func(int, any) {}) }
	cut := func() {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	}
	if s.world.hungUpAtService(silently, cut) {
		return
	}
	switch do {
	case answers:
	case resets:
		cut()
		return
	case resetsDone:
		silently()
		cut()
		return
	case twice:
		silently()
		cut()
		if r.Method == http.MethodPost {
			s.wait(5 * time.Second)
			silently()
		}
		return
	case cutShort:
		silently()
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{"id": "1", "tok`))
		return
	case fails:
		w.WriteHeader(500)
		return
	case failsDone:
		silently()
		w.WriteHeader(500)
		return
	case slow:
		s.wait(700 * time.Millisecond)
	case late:
		s.wait(3 * time.Second)
	case muchLater:
		s.wait(20 * time.Second)
	case nonsense:
		status := http.StatusOK
		serve(func(told int, _ any) { status = told }) // what is refused is refused in nonsense, too
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"unexpected": [{}]}`))
		return
	case limited:
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(429)
		return
	}
	serve(func(status int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	})
}

// wait delays an answer, unless the world has come to rest.
func (s *service) wait(d time.Duration) {
	if !s.world.calm.Load() {
		time.Sleep(d)
	}
}

// trouble has some of the next calls go wrong.
func (s *service) trouble(r *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.IntN(6) {
	case 0:
		s.down = true
	case 1:
		s.lag = time.Duration(r.IntN(40)) * time.Second
	case 2:
		for id, t := range s.tokens {
			if !t.root && r.IntN(3) == 0 {
				s.refuse[id] = time.Now().Add(time.Duration(r.IntN(300)) * time.Second)
			}
		}
	default:
		for range 1 + r.IntN(4) {
			s.faults = append(s.faults, fault(r.IntN(int(faultCount))))
		}
	}
	s.world.say("the service is in trouble: down %v, lag %s, faults %v, refuses %d", s.down, s.lag, slices.Clone(s.faults), len(s.refuse))
}

// heal ends all trouble.
func (s *service) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.lag, s.faults = false, 0, nil
	clear(s.refuse)
	for _, t := range s.tokens {
		if t.listedAt.After(time.Now()) {
			t.listedAt = time.Now()
		}
	}
}

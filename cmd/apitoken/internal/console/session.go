package console

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

// maxSessions bounds the memory of sessions: a session has a few kilobytes.
const maxSessions = 1000

// session is a signed-in browser.
type session struct {
	id       string // in the cookie
	csrf     string // in each form
	caller   *caller
	Name     string   // display name of the Vault token
	Policies []string // of the Vault token
	own      bool     // the console signed in: it revokes the Vault token at the end
	ends     time.Time

	mu    sync.Mutex
	seen  time.Time
	flash string // shown once, on the next page
}

// say has the next page show a text.
func (s *session) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flash = clip(text, 4000)
}

// said returns what the page is to show.
func (s *session) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.flash
	s.flash = ""
	return text
}

// errFull says that no session can start.
var errFull = errors.New("there are too many sessions: try again later")

// sessions are in memory only, under the hashes of their IDs.
type sessions struct {
	idle, longest time.Duration
	now           func() time.Time

	mu   sync.Mutex
	byID map[[sha256.Size]byte]*session
}

func newSessions(idle, longest time.Duration, now func() time.Time) *sessions {
	return &sessions{idle: idle, longest: longest, now: now, byID: map[[sha256.Size]byte]*session{}}
}

// start starts a session under a new ID. tokenEnds is the expiry of the Vault token; zero: none.
func (s *sessions) start(one *session, tokenEnds time.Time) error {
	now := s.now()
	one.id, one.csrf = rand.Text()+rand.Text(), rand.Text()
	one.seen, one.ends = now, now.Add(s.longest)
	if !tokenEnds.IsZero() && tokenEnds.Before(one.ends) {
		one.ends = tokenEnds
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= maxSessions {
		return errFull
	}
	s.byID[sha256.Sum256([]byte(one.id))] = one
	return nil
}

// get returns the live session of an ID, and notes the request; nil: none.
func (s *sessions) get(id string) *session {
	s.mu.Lock()
	one := s.byID[sha256.Sum256([]byte(id))]
	s.mu.Unlock()
	if one == nil || !s.alive(one) {
		return nil
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.seen = s.now()
	return one
}

func (s *sessions) alive(one *session) bool {
	one.mu.Lock()
	defer one.mu.Unlock()
	now := s.now()
	return now.Before(one.ends) && now.Sub(one.seen) < s.idle
}

// end removes a session, and reports whether the session was there.
func (s *sessions) end(one *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sha256.Sum256([]byte(one.id))
	_, there := s.byID[key]
	delete(s.byID, key)
	return there
}

// expired removes and returns the sessions that are over; all: every session.
func (s *sessions) expired(all bool) (over []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, one := range s.byID {
		if all || !s.alive(one) {
			delete(s.byID, key)
			over = append(over, one)
		}
	}
	return over
}

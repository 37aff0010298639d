package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serviceHost is where the service is, for those who dial; at otherHost there is nothing but 404.
const (
	serviceHost = "service.test:80"
	otherHost   = "other.test"
)

// serviceProvider describes the API of the service.
const serviceProvider = `
name: service
title: Service
expiry: seconds
credential:
  root: {type: string, secret: true, required: true, description: The credential.}
params:
  may: {type: list, required: true, description: What the token may be used for.}
operations:
  create:
    requests:
      - {method: POST, path: /tokens, headers: {authorization: credential.root}, json: '{"name": name, "may": params.may, "ends": unix(expires_at)}'}
    result: {id: string(response.body.id), token: response.body.token, expires_at: response.body.ends}
  find:
    requests:
      - {method: GET, path: /tokens, headers: {authorization: credential.root}, query: {page: page}}
    items: response.body
    next: 'size(response.body) < 20 ? "" : string(page + 1)'
  list:
    requests:
      - {method: GET, path: /tokens, headers: {authorization: credential.root}, query: {page: page}}
    items: response.body
    next: 'size(response.body) < 20 ? "" : string(page + 1)'
    result: {id: item.id, name: item.name, expires_at: item.ends}
  revoke:
    requests:
      - {method: DELETE, path: '/tokens/{id}', headers: {authorization: credential.root}, gone: [404]}
  renew:
    requests:
      - {method: PATCH, path: '/tokens/{id}', headers: {authorization: credential.root}, json: '{"ends": unix(expires_at)}', gone: [404]}
    result: {expires_at: response.body.ends}
  check:
    requests:
      - {method: GET, path: /self, headers: {authorization: credential.root}}
    result: {data: '{"name": response.body.name}'}
  rotate_root:
    requests:
      - {method: POST, path: /roots, headers: {authorization: credential.root}, json: '{"name": name}'}
    result: {credential: '{"root": string(response.body.token)}'}
FIND_ROOT
  retire_root:
    requests:
      - {method: DELETE, path: /self, headers: {authorization: credential.root}, gone: [401]}
`

// service is an upstream: it mints tokens, and does not always do as it is told.
type service struct {
	world  *world
	server *http.Server
	accept chan net.Conn
	done   chan struct{}

	mu     sync.Mutex
	tokens map[string]*serviceToken // id -> a token that exists
	names  map[string]string        // text of a token that exists, or has existed -> its name
	next   int
	calls  int
	faults []fault              // of the next calls
	refuse map[string]time.Time // ids of tokens that it does not end before
	down   bool                 // nothing is listening
	lag    time.Duration        // after which a new token is in the listing
}

// serviceToken is a token of the service; a root is one that may mint others.
type serviceToken struct {
	id, name, text string
	root           bool
	planted        bool      // by somebody who does not use the engine
	ends           time.Time // zero: never
	listedAt       time.Time
	made           uint64                   // stamp of its creation
	host           string                   // that knows it
	lives          map[*connectionLife]bool // of a root: that may use it
	brought        bool                     // a root: by the operator, to whom it belongs
	doomed         bool                     // a root: somebody has asked for its end
}

// generosity is how much longer a token lives than was asked for: what the engine does not revoke is seen, whatever the
// clocks say.
const generosity = 20 * time.Minute

func newService(w *world) *service {
	s := &service{world: w, accept: make(chan net.Conn), done: make(chan struct{}), tokens: make(map[string]*serviceToken), names: make(map[string]string), refuse: make(map[string]time.Time)}
	s.server = &http.Server{Handler: s, ErrorLog: nil}
	s.create("root-0", true, time.Time{}, serviceHost).brought = true
	go func() { _ = s.server.Serve(s) }()
	return s
}

// Accept, Close and Addr make it a net.Listener.
func (s *service) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accept:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *service) Close() error   { return nil }
func (s *service) Addr() net.Addr { return &net.TCPAddr{} }

func (s *service) stop() {
	close(s.done)
	_ = s.server.Close()
}

// dial connects to the service at an address.
func (w *world) dial(ctx context.Context, address string) (net.Conn, error) {
	if address == alertHost {
		return w.pager.dial(ctx)
	}
	s := w.service
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	if down || address != serviceHost && address != secondHost && address != otherHost+":80" {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	client, server := net.Pipe()
	select {
	case s.accept <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name string
		May  []string
		Ends int64
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	if r.Host == otherHost {
		w.WriteHeader(404)
		return
	}
	s.ends(r)
	s.world.gate.pass()
	s.mu.Lock()
	s.calls++
	do := answers
	if len(s.faults) > 0 {
		do, s.faults = s.faults[0], s.faults[1:]
	}
	s.mu.Unlock()
	if do != answers {
		s.world.say("      the service: %s %s: fault %d", r.Method, r.URL.Path, int(do))
	}
	s.answer(w, r, do, func(answer func(int, any)) { s.serve(r, in.Name, in.Ends, answer) })
}

// serve does what is asked.
func (s *service) serve(r *http.Request, name string, ends int64, answer func(status int, body any)) {
	type object = map[string]any
	s.mu.Lock()
	defer s.mu.Unlock()
	var self *serviceToken
	for _, t := range s.tokens {
		if t.root && t.text == r.Header.Get("Authorization") {
			self = t
		}
	}
	host := strings.TrimSuffix(r.Host, ":80") + ":80"
	s.goesTo(host, r.Header.Get("Authorization"))
	if self == nil || self.host != host {
		answer(401, object{"message": "who is " + r.Header.Get("Authorization") + "?"})
		return
	}
	id, single := strings.CutPrefix(r.URL.Path, "/tokens/")
	if t := s.tokens[id]; single && t != nil {
		s.rightfully(host, self, t, r.Method)
	}
	switch {
	case r.Method == "POST" && r.URL.Path == "/tokens":
		t := s.create(name, false, time.Unix(ends, 0).Add(generosity), host)
		s.rightfully(host, self, t, r.Method)
		answer(201, object{"id": t.id, "token": t.text, "ends": ends})
	case r.Method == "POST" && r.URL.Path == "/roots":
		t := s.create(name, true, time.Time{}, host)
		s.rightfully(host, self, t, r.Method)
		t.lives[s.world.model.connection.life(name)] = true
		answer(201, object{"id": t.id, "token": t.text})
	case r.Method == "GET" && (r.URL.Path == "/tokens" || r.URL.Path == "/roots"):
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		list := []object{}
		for _, t := range s.sorted() {
			if t.host == host && !time.Now().Before(t.listedAt) && (r.URL.Path == "/tokens" || t.root) {
				list = append(list, object{"id": t.id, "name": t.name, "ends": t.endsUnix()})
			}
		}
		from := min(len(list), max(0, page-1)*20)
		answer(200, list[from:min(len(list), from+20)])
	case r.Method == "GET" && r.URL.Path == "/self":
		answer(200, object{"name": self.name})
	case r.Method == "DELETE" && r.URL.Path == "/self":
		delete(s.tokens, self.id)
		s.world.say("      the service: root %s is ended", self.id)
		answer(200, object{})
	case single && s.tokens[id] == nil:
		answer(404, object{"message": "there is no such token"})
	case single && r.Method == "DELETE":
		if time.Now().Before(s.refuse[id]) {
			answer(403, object{"message": "this token is protected"})
			return
		}
		delete(s.tokens, id)
		answer(200, object{})
	case single && r.Method == "PATCH":
		s.tokens[id].ends = time.Unix(ends, 0).Add(generosity)
		answer(200, object{"ends": ends})
	default:
		answer(404, object{"message": "there is no such path"})
	}
}

// create makes a token. The caller holds mu.
func (s *service) create(name string, root bool, ends time.Time, host string) *serviceToken {
	s.next++
	kind := "tok"
	if root {
		kind = "root"
	}
	t := &serviceToken{id: fmt.Sprint(s.next), name: name, text: fmt.Sprintf("svc-%s-%d-secret", kind, s.next), root: root, ends: ends, listedAt: time.Now().Add(s.lag), made: s.world.stamp(), host: host}
	s.names[t.text] = name
	if root {
		t.lives = make(map[*connectionLife]bool)
	}
	s.tokens[t.id] = t
	return t
}

// endsUnix is the end of a token in seconds of Unix time; 0: never.
func (t *serviceToken) endsUnix() int64 {
	if t.ends.IsZero() {
		return 0
	}
	return t.ends.Unix()
}

func (s *service) sorted() []*serviceToken {
	all := make([]*serviceToken, 0, len(s.tokens))
	for _, t := range s.tokens {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *serviceToken) int {
		x, _ := strconv.Atoi(a.id)
		y, _ := strconv.Atoi(b.id)
		return x - y
	})
	return all
}

// alive finds a token that works, by itself.
func (s *service) alive(text string) bool {
	t, found := s.byText(text)
	return found && (t.ends.IsZero() || time.Now().Before(t.ends))
}

// madeSince reports whether a token that still exists was made after a moment.
func (s *service) madeSince(text string, seq uint64) bool {
	t, found := s.byText(text)
	return found && t.made > seq
}

// byText returns the token with a text.
func (s *service) byText(text string) (_ serviceToken, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.text == text {
			return *t, true
		}
	}
	return serviceToken{}, false
}

// live lists the tokens that work; roots only, or none of them.
func (s *service) live(root bool) []*serviceToken {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(s.sorted(), func(t *serviceToken) bool {
		return t.root != root || t.planted || !t.ends.IsZero() && !time.Now().Before(t.ends)
	})
}

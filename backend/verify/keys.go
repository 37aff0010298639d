package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxJWKS        = 1 << 20 // bytes
	maxKeys        = 1000
	unknownKeyWait = 30 * time.Second // between two reads of the keys for the sake of unknown keys
	minKeysAge     = 30 * time.Second
	defaultKeysAge = 5 * time.Minute
	maxKeysAge     = time.Hour // keys that could not be read again for so long are not used
)

var (
	errUnknownKey = errors.New("made with a key that the mount has not published")
	errKeysTooOld = errors.New("the keys of JWTs could not be read for an hour")
)

// key is a published key. Only its own algorithm counts, whatever a JWT says (RFC 8725 section 3.1).
type key struct {
	jose.JSONWebKey
	gone atomic.Bool // no longer published, or destroyed

	headers sync.Map // header of a good JWT as sent -> typ; at most maxHeaders
	count   atomic.Int32
}

// keySet are the published keys of the mount. A known key is returned at once, whatever happens to an unknown one.
type keySet struct {
	fetch func(context.Context) (body []byte, maxAge time.Duration, err error)
	now   func() time.Time

	known  atomic.Pointer[map[string]*key]
	readAt atomic.Int64 // nanoseconds since 1970: the last successful read
	dueAt  atomic.Int64 // nanoseconds since 1970: the next read in the background
	reads  atomic.Uint64

	mu      sync.Mutex
	err     error               // of the last read
	tried   time.Time           // the last read for the sake of an unknown key
	running *read               // nil: no read is on its way
	wanted  uint64              // grows when the keys must be read again, whatever a read on its way brings
	ended   map[string]struct{} // destroyed keys: no answer that is older than the event brings a key back
}

// read is a read of the keys that is on its way. All who wait share its outcome.
type read struct {
	done chan struct{}
	err  error
}

// get returns a key by its name. The first unknown key in 30 seconds has the keys read again.
func (s *keySet) get(ctx context.Context, kid string) (*key, error) {
	if s.tooOld(s.now()) {
		return nil, errKeysTooOld
	}
	if k := (*s.known.Load())[kid]; k != nil {
		return k, nil
	}
	s.mu.Lock()
	r := s.running
	if r == nil {
		if s.now().Sub(s.tried) < unknownKeyWait {
			s.mu.Unlock()
			return nil, errUnknownKey
		}
		s.tried = s.now()
		r = s.start(ctx)
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.done:
	}
	if k := (*s.known.Load())[kid]; k != nil {
		return k, nil
	}
	if r.err != nil {
		return nil, fmt.Errorf("reading the keys of JWTs: %w", r.err)
	}
	return nil, errUnknownKey
}

// refresh reads the keys, or waits for the read that is on its way.
func (s *keySet) refresh(ctx context.Context) error {
	s.mu.Lock()
	r := s.running
	if r == nil {
		r = s.start(ctx)
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return r.err
	}
}

// refreshDue reads the keys if it is time. It returns why the keys could not be read, now or before.
func (s *keySet) refreshDue(ctx context.Context) error {
	if now := s.now().UnixNano(); now >= s.dueAt.Load() || now < s.readAt.Load()-int64(clockSlack) {
		return s.refresh(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// start reads the keys in the background. The caller holds mu. The read goes on if the caller stops waiting.
func (s *keySet) start(ctx context.Context) *read {
	r := &read{done: make(chan struct{})}
	s.running = r
	ctx = context.WithoutCancel(ctx)
	go func() {
		r.err = s.readNow(ctx)
		s.mu.Lock()
		s.running, s.err = nil, r.err
		s.mu.Unlock()
		close(r.done)
	}()
	return r
}

func (s *keySet) readNow(ctx context.Context) error {
	s.reads.Add(1)
	s.mu.Lock()
	wanted := s.wanted
	s.mu.Unlock()
	began := s.now()
	s.dueAt.Store(began.Add(minKeysAge).UnixNano()) // also after a failure
	body, maxAge, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return fmt.Errorf("the keys are no JWK set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return fmt.Errorf("the JWK set has %d keys, at most %d are allowed", len(set.Keys), maxKeys)
	}
	if maxAge == 0 {
		maxAge = defaultKeysAge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publish(set.Keys)
	s.readAt.Store(began.UnixNano())
	if s.wanted == wanted {
		s.dueAt.Store(began.Add(min(max(maxAge, minKeysAge), maxKeysAge/4)).UnixNano())
	}
	return nil
}

// publish makes keys known, and no others. The caller holds mu.
func (s *keySet) publish(keys []json.RawMessage) {
	before := *s.known.Load()
	known := make(map[string]*key, len(keys))
	for _, raw := range keys {
		k := new(key)
		if err := k.UnmarshalJSON(raw); err != nil || !usable(&k.JSONWebKey) {
			continue // RFC 7517 section 5: unknown kinds of keys are ignored
		}
		if _, ended := s.ended[k.KeyID]; ended {
			continue
		}
		if old := before[k.KeyID]; old != nil && old.Algorithm == k.Algorithm && sameKey(old, k) && !old.gone.Load() {
			k = old
		}
		known[k.KeyID] = k
	}
	s.known.Store(&known)
	for name, old := range before {
		if known[name] != old {
			old.gone.Store(true)
		}
	}
}

// maxEnded is how many destroyed keys are remembered.
const maxEnded = 10_000

// destroy makes keys useless at once and for ever.
func (s *keySet) destroy(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kid := range names {
		if s.ended == nil || len(s.ended) >= maxEnded {
			s.ended = make(map[string]struct{})
		}
		s.ended[kid] = struct{}{}
		if k := (*s.known.Load())[kid]; k != nil {
			k.gone.Store(true)
		}
	}
}

// again has the keys read again soon.
func (s *keySet) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted++
	s.dueAt.Store(0)
}

// tooOld reports whether the keys could not be read for so long that no JWT is good.
func (s *keySet) tooOld(now time.Time) bool {
	return now.UnixNano()-s.readAt.Load() > int64(maxKeysAge)
}

// usable reports whether a key may verify JWTs: a public key that names itself and one of the engine's algorithms.
func usable(k *jose.JSONWebKey) bool {
	if k.KeyID == "" || !k.IsPublic() || !k.Valid() || (k.Use != "" && k.Use != "sig") {
		return false
	}
	for _, a := range algorithms {
		if string(a) == k.Algorithm {
			return true
		}
	}
	return false
}

func sameKey(a, b *key) bool {
	x, err1 := a.MarshalJSON()
	y, err2 := b.MarshalJSON()
	return err1 == nil && err2 == nil && string(x) == string(y)
}

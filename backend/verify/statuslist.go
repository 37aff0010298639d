package verify

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	maxListBody   = 4 << 20 // bytes of a signed list
	maxListBytes  = 1 << 20 // bytes of the bits: eight million places of one bit
	maxLists      = 1000
	minListTTL    = time.Second
	defaultTTL    = time.Minute
	listRetry     = 5 * time.Second  // between two reads of a list that fail
	relistRetry   = time.Second / 2  // the same where all lists are read again, for as long as relisting
	relisting     = 10 * time.Second // how long a failover may take until its status lists can be read
	listIdle      = 15 * time.Minute // a list that no token needed for so long is dropped
	listMediaType = "application/statuslist+jwt"
)

// statusList is a status list that tokens point to (draft-ietf-oauth-status-list).
type statusList struct {
	uri  string
	path string // below the mount
	bits atomic.Pointer[listBits]
	used atomic.Int64 // seconds since 1970: the last use, at most listTouch earlier
	gone atomic.Bool  // the list was dropped, and has no bits: nothing reads it again

	mu    sync.Mutex // held during a read
	tried time.Time
	err   error     // of the last read
	dueAt time.Time // of the next read
}

// listBits is a list as it was read. It does not change.
type listBits struct {
	bits     []byte
	width    int // bits for a token: 1, 2, 4 or 8
	readAt   time.Time
	issuedAt int64
	expires  int64 // seconds since 1970
	ttl      time.Duration
}

var errStaleList = errors.New("the status list of the token could not be read in time")

// listTouch is how often a use of a list is noted: processors would compete for the note of each use.
const listTouch = 30

func (l *statusList) touch(now time.Time) {
	if t := now.Unix(); t-l.used.Load() >= listTouch {
		l.used.Store(t)
	}
}

// status returns why the token at a place is not good, or access.Good. A value that is not known here counts as revoked.
func (l *statusList) status(place uint32, now time.Time) (access.Reason, error) {
	l.touch(now)
	b := l.bits.Load()
	if b == nil || now.Unix() >= b.expires {
		return access.Revoked, errStaleList
	}
	if int64(place)*int64(b.width)/8 >= int64(len(b.bits)) {
		return access.Revoked, fmt.Errorf("the status list has no place %d", place)
	}
	switch token.StatusAt(b.bits, b.width, place) {
	case token.StatusValid:
		return access.Good, nil
	case token.StatusSuspended:
		return access.Suspended, nil
	}
	return access.Revoked, nil
}

// listSet are the status lists of the mount. A list is read at the first token that points to it, then in the background.
type listSet struct {
	fetch  func(ctx context.Context, path, mediaType string, limit int64) ([]byte, time.Duration, error)
	keys   *keySet
	issuer *issuer
	now    func() time.Time

	mu    sync.RWMutex
	lists map[string]*statusList

	relisted time.Time // when all lists were last due at once
}

// at returns the list of a URI, and reads the list if it was never read or expired.
func (s *listSet) at(ctx context.Context, uri string) (*statusList, error) {
	s.mu.RLock()
	l := s.lists[uri]
	if l != nil {
		l.touch(s.now()) // under the lock: from here on drop leaves the list alone
	}
	s.mu.RUnlock()
	if l == nil {
		path, ok := strings.CutPrefix(uri, s.issuer.get())
		number, isList := strings.CutPrefix(path, "/oauth/status/")
		if !ok || !isList || number == "" || strings.Trim(number, "0123456789") != "" {
			return nil, fmt.Errorf("the token points to a status list outside the issuer")
		}
		s.mu.Lock()
		if l = s.lists[uri]; l == nil {
			if len(s.lists) >= maxLists {
				s.mu.Unlock()
				return nil, fmt.Errorf("tokens point to more than %d status lists", maxLists)
			}
			l = &statusList{uri: uri, path: path}
			s.lists[uri] = l
		}
		l.touch(s.now())
		s.mu.Unlock()
	}
	return l, s.fresh(ctx, l)
}

// fresh reads a list that was never read or has expired.
func (s *listSet) fresh(ctx context.Context, l *statusList) error {
	if b := l.bits.Load(); b != nil && s.now().Unix() < b.expires {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.bits.Load(); b != nil && s.now().Unix() < b.expires {
		return nil
	}
	if s.now().Sub(l.tried) < listRetry && l.err != nil {
		return l.err
	}
	return s.readLocked(ctx, l)
}

// refreshDue reads the lists whose ttl is over, or every list. It returns why lists could not be read, now or before.
func (s *listSet) refreshDue(ctx context.Context, every bool) error {
	if every {
		s.mu.Lock()
		s.relisted = s.now()
		s.mu.Unlock()
	}
	var failed error
	for _, l := range s.all() {
		l.mu.Lock()
		if every || !s.now().Before(l.dueAt) {
			_ = s.readLocked(ctx, l)
		}
		failed = errors.Join(failed, l.err)
		l.mu.Unlock()
	}
	return failed
}

// drop forgets the lists that no token needed for listIdle. A token that still has such a list finds the list stale, and is
// learned anew with a list that is kept up to date.
func (s *listSet) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := s.now().Add(-listIdle).Unix()
	for uri, l := range s.lists {
		if l.used.Load() <= idle {
			l.gone.Store(true)
			l.bits.Store(nil)
			delete(s.lists, uri)
		}
	}
}

func (s *listSet) all() []*statusList {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*statusList, 0, len(s.lists))
	for _, l := range s.lists {
		list = append(list, l)
	}
	return list
}

func (s *listSet) readLocked(ctx context.Context, l *statusList) error {
	l.tried = s.now()
	l.dueAt = l.tried.Add(s.retry(l.tried))
	l.err = s.readNow(context.WithoutCancel(ctx), l)
	if l.err != nil {
		l.err = fmt.Errorf("reading the status list %s: %w", l.uri, l.err)
		return l.err
	}
	if b := l.bits.Load(); b != nil {
		l.dueAt = l.tried.Add(b.ttl)
	}
	return nil
}

// retry returns how long to wait after a failure. Events may have been lost at a failover: the lists have what they said.
func (s *listSet) retry(now time.Time) time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if now.Sub(s.relisted) < relisting {
		return relistRetry
	}
	return listRetry
}

// listPayload is the payload of a status list (section 5.1 of the draft).
type listPayload struct {
	Subject  string `json:"sub"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	TTL      int64  `json:"ttl"`
	List     struct {
		Bits int    `json:"bits"`
		List string `json:"lst"`
	} `json:"status_list"`
}

func (s *listSet) readNow(ctx context.Context, l *statusList) error {
	began := s.now()
	body, _, err := s.fetch(ctx, l.path, listMediaType, maxListBody)
	if err != nil {
		return err
	}
	signed, err := jose.ParseSignedCompact(string(body), algorithms)
	if err != nil {
		return errors.New("it is no signed JWT")
	}
	header := signed.Signatures[0].Protected
	if header.ExtraHeaders[jose.HeaderType] != token.TypeStatusList {
		return fmt.Errorf("its typ is not %s", token.TypeStatusList)
	}
	k, err := s.keys.get(ctx, header.KeyID)
	if err != nil {
		return err
	}
	if k.gone.Load() || header.Algorithm != k.Algorithm {
		return errUnknownKey
	}
	payload, err := signed.Verify(k.Key)
	if err != nil {
		return errors.New("its signature is wrong")
	}
	var p listPayload
	if err := json.Unmarshal(payload, &p); err != nil {
		return err
	}
	bits, err := p.check(l.uri, began)
	if err != nil {
		return err
	}
	if old := l.bits.Load(); old != nil && old.issuedAt > p.IssuedAt {
		return errors.New("it is older than the list read before")
	}
	ttl := defaultTTL
	if p.TTL > 0 {
		ttl = max(minListTTL, min(time.Duration(p.TTL)*time.Second, 24*time.Hour))
	}
	l.bits.Store(&listBits{bits: bits, width: p.List.Bits, readAt: began, issuedAt: p.IssuedAt, expires: p.Expires, ttl: ttl})
	if l.gone.Load() { // dropped during the read
		l.bits.Store(nil)
	}
	return nil
}

func (p *listPayload) check(uri string, now time.Time) (bits []byte, err error) {
	switch {
	case p.Subject != uri:
		return nil, errors.New("its sub is another list")
	case p.Expires <= now.Unix():
		return nil, errors.New("it has expired")
	case !slices.Contains([]int{1, 2, 4, 8}, p.List.Bits):
		return nil, fmt.Errorf("it has %d bits for a token, 1, 2, 4 and 8 are allowed", p.List.Bits)
	}
	compressed, err := base64.RawURLEncoding.DecodeString(p.List.List)
	if err != nil {
		return nil, err
	}
	r, err := zlib.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	bits, err = io.ReadAll(io.LimitReader(r, maxListBytes+1))
	if err == nil && len(bits) > maxListBytes {
		err = fmt.Errorf("it has more than %d bytes", maxListBytes)
	}
	return bits, err
}

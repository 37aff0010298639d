// Package insight records how issued tokens are used: Usage counts the uses and refusals of each token, as verifiers and
// introspection report them.
package insight

import (
	"context"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

// Config has the dependencies of a Usage. All fields are required.
type Config struct {
	Storage logical.Storage // of the mount, for background work
	Now     func() time.Time
	Log     func() hclog.Logger
	Writer  string // ID of this process in storage keys

	// Detect evaluates the rules of misuse over what is counted.
	Detect *detect.Detector

	// End returns until when the inventory has a token, without renewals; false if the inventory does not have the token.
	End func(token.ID) (time.Time, bool)
}

// readLocks is the number of locks that the reads of segments share.
const readLocks = 16

// Usage counts the uses of tokens by the ID of their grant. Counting changes memory only. Run writes what has changed,
// at most one entry a second (writer.go): a crash loses the counts of the last minute. A count is never too high.
//
// A million tokens take at most 300 MB, the state of the rules of misuse included. Usage is safe for concurrent use.
type Usage struct {
	*worker.Worker
	Config
	store.Damage
	scopes    scopeSets
	reporters reporters
	unknown   unknown
	shards    [1 << 8]shard // by the first byte of the ID

	tick     atomic.Uint64 // counts the snapshots of segments
	mu       sync.Mutex    // locked after a shard's
	segments map[string]*segment
	filling  *segment // the segment that takes rows; nil: none
	made     int      // number of segments that this process has made

	reading [readLocks]sync.Mutex // held while a segment is read; by its name
	merging sync.RWMutex          // read-held while a batch is counted, held while counts and sequences of another process are merged

	staleMu   sync.Mutex
	staleKeys map[string]bool // storage keys that another node wrote

	writing   sync.Mutex // held by Run and Flush; locked before the others
	nextWrite time.Time
	failing   bool // the last write failed
}

// shard is a part of the entries.
type shard struct {
	mu      sync.Mutex
	entries map[token.ID]*entry
	_       [48]byte // keeps the locks of two shards apart: one cache line has 64 bytes
}

// New returns a Usage without counts. Load reads the counts from storage. The caller starts the worker with Run.
func New(c Config) *Usage {
	u := &Usage{Worker: worker.New(), Config: c, segments: make(map[string]*segment), staleKeys: make(map[string]bool)}
	for i := range u.shards {
		u.shards[i].entries = make(map[token.ID]*entry)
	}
	return u
}

// Seen is what was seen of a token.
type Seen = detect.Seen

// Refusals is how often uses were refused for a reason.
type Refusals = detect.Refusals

// Introspected counts an introspection of a token that expires at ownEnd by its own claims, and at end with renewals: a use
// if the reason is access.Good, otherwise a refusal.
func (u *Usage) Introspected(id token.ID, ownEnd, end time.Time, use *access.Use, reason access.Reason) {
	if reason != access.Good {
		refused := [1]Refusals{{Reason: reason, Count: 1}}
		seen := &Seen{At: u.Now(), Address: use.ClientIP, Region: use.Region, Refusals: refused[:]}
		if reason == access.Expired {
			seen.EndedAt = end
		}
		u.add(id, ownEnd, seen)
		return
	}
	u.add(id, ownEnd, &Seen{Uses: 1, At: u.Now(), Address: use.ClientIP, Region: use.Region, Scopes: use.Scopes})
}

// Refused counts refused tokens that nobody can attribute to a grant, by the address of the client. text is a hash of the
// token; 0: not known. An invalid address is not counted.
func (u *Usage) Refused(client netip.Addr, text uint32, count uint64) {
	u.unknown.add(client, count, u.Now())
	u.Detect.Unknown(client, text, count)
}

// add adds to the counts of a token. It reports false if the token is unknown: the inventory does not have the token, and
// ownEnd is zero.
func (u *Usage) add(id token.ID, ownEnd time.Time, seen *Seen) bool {
	s := &u.shards[id[0]]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		end, listed := u.End(id)
		if !listed && ownEnd.IsZero() {
			return false
		}
		if !listed || end.Before(ownEnd) {
			end = ownEnd
		}
		e = &entry{end: seconds(end)}
		s.entries[id] = e
	}
	if !ownEnd.IsZero() {
		e.end = max(e.end, seconds(ownEnd))
	}
	u.judge(id, e, seen)
	e.add(seen, &u.scopes)
	u.changed(id, e)
	return true
}

// judge evaluates the rules of misuse over what was seen of a token. The caller holds the lock of the token's shard.
func (u *Usage) judge(id token.ID, e *entry, seen *Seen) {
	before := detect.Before{At: e.last, Region: e.region, Network: e.network}
	if e.address != [16]byte{} {
		before.Address = netip.AddrFrom16(e.address).Unmap()
	}
	u.Detect.Saw(id, &e.state, &before, seen)
}

// Get returns the counts of a token. On a standby, Get first reads what the active node has written.
func (u *Usage) Get(ctx context.Context, id token.ID) (Record, error) {
	if err := u.Refresh(ctx); err != nil {
		return Record{}, err
	}
	s := &u.shards[id[0]]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return Record{}, nil
	}
	return e.record(), nil
}

// LastUse returns when a token was last used, to the second; false if no use is known.
func (u *Usage) LastUse(id token.ID) (time.Time, bool) {
	s := &u.shards[id[0]]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil || e.last == 0 {
		return time.Time{}, false
	}
	return fromSeconds(e.last), true
}

// Len returns the number of tokens with counts.
func (u *Usage) Len() int {
	n := 0
	for i := range u.shards {
		s := &u.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}

// Segments returns the number of segments, which are entries in storage.
func (u *Usage) Segments() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.segments)
}

// seconds returns a time in seconds since 1970, within 32 bits.
func seconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

func fromSeconds(s uint32) time.Time { return time.Unix(int64(s), 0) }

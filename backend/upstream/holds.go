package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/tidwall/btree"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// hold is the claim of one lease on a shared token. Each hold has its own storage entry: the thousandth hold costs as
// much as the first, and no process overwrites the hold of another.
type hold struct {
	End     time.Time `json:"end"`
	Subject string    `json:"subject,omitzero"` // Vault entity that has the lease; empty if there is none
}

// holds are the holds of one token in memory.
type holds struct {
	all   map[string]hold           // by hold ID
	byEnd *btree.BTreeG[endingHold] // the same holds, ordered by end
}

type endingHold struct {
	end time.Time
	id  string
}

func holdKey(id token.ID, hold string) string { return HoldsPrefix + id.String() + "/" + hold }

func newHolds() *holds {
	return &holds{all: make(map[string]hold), byEnd: btree.NewBTreeGOptions(func(a, b endingHold) bool {
		if c := byWall(a.end, b.end); c != 0 {
			return c < 0
		}
		return a.id < b.id
	}, btree.Options{NoLocks: true})}
}

// last returns the latest end. It returns false if there is no hold.
func (hs *holds) last() (time.Time, bool) {
	if hs == nil {
		return time.Time{}, false
	}
	h, found := hs.byEnd.Max()
	return h.end, found
}

// mostHolds is the largest number of holds that a request deletes to revoke a token, since each deletion is a write. The
// queue revokes a token with more holds.
const mostHolds = 2

// heldBy returns how many leases hold a token.
func (ts *Tokens) heldBy(id token.ID) int {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if hs := ts.holds[id]; hs != nil {
		return len(hs.all)
	}
	return 0
}

// ExpiresAt returns when a token expires unless a lease is renewed. A shared token expires with the last of its leases. A
// Live token without a lease is new, and about to get one; or the queue is about to revoke the token.
func (ts *Tokens) ExpiresAt(t *Token) time.Time {
	if !t.Shared || t.State != Live {
		return t.EndsAt
	}
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	if last, held := ts.holds[t.ID].last(); held {
		return t.capped(last)
	}
	return t.capped(t.LiveSince.Add(ts.timings.Grace))
}

// setHold puts a stored hold into memory, or removes a deleted one if h is nil. It returns how many holds the token has
// left.
func (ts *Tokens) setHold(id token.ID, name string, h *hold) (left int) {
	ts.mu.Lock()
	hs, i := ts.holds[id], ts.all[id]
	if hs == nil {
		hs = newHolds()
		ts.holds[id] = hs
	}
	live := i != nil && i.State == Live
	if old, known := hs.all[name]; known {
		delete(hs.all, name)
		hs.byEnd.Delete(endingHold{old.End, name})
		if live {
			ts.countSubject(old.Subject, id, -1)
		}
	}
	if h != nil {
		hs.all[name] = *h
		hs.byEnd.Set(endingHold{h.End, name})
		if live {
			ts.countSubject(h.Subject, id, 1)
		}
	}
	if left = len(hs.all); left == 0 {
		delete(ts.holds, id)
	}
	var at time.Time
	if live {
		ts.schedule(id, i, i.due(hs, ts.timings.Grace))
		at = i.at
	}
	ts.mu.Unlock()
	if !at.IsZero() {
		ts.soon(at)
	}
	return left
}

// reloadHold reads a hold again.
func (ts *Tokens) reloadHold(ctx context.Context, key, rest string) error {
	text, name, found := strings.Cut(rest, "/")
	id, err := token.ParseID(text)
	if err != nil || !found {
		return fmt.Errorf("%s: is not the key of a hold", key)
	}
	defer ts.lock(id)()
	_, err = ts.rereadHold(ctx, id, name)
	return err
}

// rereadHold reads a hold from storage again. It returns nil if the hold does not exist or cannot be read. The caller
// has locked the token.
func (ts *Tokens) rereadHold(ctx context.Context, id token.ID, name string) (*hold, error) {
	key := holdKey(id, name)
	entry, err := ts.storage.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	var h *hold
	if entry != nil {
		h = new(hold)
		if err := json.Unmarshal(entry.Value, h); err != nil {
			ts.damaged.NoteDamage(key, fmt.Errorf("%w: %w", errDamaged, err))
			return nil, nil
		}
	}
	ts.damaged.NoteDamage(key, nil)
	ts.setHold(id, name, h)
	return h, nil
}

// rereadHolds reads the holds of a token from storage again until it finds one that has not expired. The caller has
// locked the token.
func (ts *Tokens) rereadHolds(ctx context.Context, id token.ID, now time.Time) error {
	stored, err := ts.storage.List(ctx, HoldsPrefix+id.String()+"/")
	if err != nil {
		return err
	}
	gone := ts.holdNames(id)
	for _, name := range stored {
		delete(gone, name)
	}
	for name := range gone {
		ts.setHold(id, name, nil)
	}
	for _, name := range stored {
		h, err := ts.rereadHold(ctx, id, name)
		if err != nil {
			return err
		}
		if h != nil && now.Before(h.End.Add(ts.timings.Grace)) {
			return nil
		}
	}
	return nil
}

// holdNames returns the IDs of a token's holds in memory.
func (ts *Tokens) holdNames(id token.ID) map[string]bool {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	names := make(map[string]bool)
	if hs := ts.holds[id]; hs != nil {
		for name := range hs.all {
			names[name] = true
		}
	}
	return names
}

// hold adds a lease to a shared token. It returns the end of the hold: the requested end, or the token's end at the
// service if the token ends earlier. It returns ErrRevoked if the token is not Live.
func (ts *Tokens) hold(ctx context.Context, id token.ID, name, subject string, end, now time.Time) (time.Time, error) {
	defer ts.lockShared(id)()
	held, err := ts.putHold(ctx, id, name, hold{End: end, Subject: subject}, now)
	if err != nil { // the requester does not get the token, but storage may have the hold
		dropping, cancel := context.WithTimeout(context.WithoutCancel(ctx), RevokeWait)
		defer cancel()
		err = errors.Join(err, ts.storage.Delete(dropping, holdKey(id, name)))
		ts.setHold(id, name, nil)
	}
	return held, err
}

// moveHold moves the end of a hold, as hold does.
func (ts *Tokens) moveHold(ctx context.Context, id token.ID, name string, end, now time.Time) (time.Time, error) {
	defer ts.lock(id)() // so that nobody takes the hold away meanwhile
	h, err := ts.rereadHold(ctx, id, name)
	if err != nil {
		return time.Time{}, err
	}
	if h == nil {
		return time.Time{}, ErrRevoked
	}
	return ts.putHold(ctx, id, name, hold{End: end, Subject: h.Subject}, now)
}

// putHold stores a hold. The caller has locked the token.
func (ts *Tokens) putHold(ctx context.Context, id token.ID, name string, h hold, now time.Time) (time.Time, error) {
	t, err := ts.recall(ctx, id)
	if err == nil && t.State != Live {
		err = ErrRevoked
	}
	if err != nil {
		return time.Time{}, err
	}
	h.End = t.capped(h.End).UTC()
	value, err := json.Marshal(&h)
	if err != nil {
		return time.Time{}, err
	}
	if err := ts.storage.Put(ctx, &logical.StorageEntry{Key: holdKey(id, name), Value: value}); err != nil {
		return time.Time{}, err
	}
	// Another process may have revoked the token since.
	stored, err := ts.read(ctx, id)
	if err != nil {
		return time.Time{}, err
	}
	if stored == nil || stored.State != Live {
		ts.show(id, stored)
		return time.Time{}, ErrRevoked
	}
	ts.setHold(id, name, &h)
	return h.End, ts.dropLost(ctx, id, now)
}

// unhold removes a lease from a shared token. It moves a token without holds to Ending, and reports whether it did.
func (ts *Tokens) unhold(ctx context.Context, id token.ID, name string, now time.Time) (ended bool, err error) {
	if left, err := ts.dropHold(ctx, id, name); err != nil || left > 0 {
		return false, err
	}
	t, err := ts.revokeIf(ctx, id, now, func(*Token) bool {
		ts.mu.RLock()
		defer ts.mu.RUnlock()
		return ts.holds[id] == nil
	})
	if errors.Is(err, ErrRevoked) {
		return false, nil
	}
	return t.State == Ending, err
}

// dropHold deletes a hold. It returns how many holds of the token are left in memory.
func (ts *Tokens) dropHold(ctx context.Context, id token.ID, name string) (left int, err error) {
	defer ts.lockShared(id)()
	if err := ts.storage.Delete(ctx, holdKey(id, name)); err != nil {
		return 0, err
	}
	ts.damaged.NoteDamage(holdKey(id, name), nil)
	return ts.setHold(id, name, nil), nil
}

// dropLost deletes up to two expired holds that Vault has not revoked. A request that adds a hold pays for two writes at
// most.
func (ts *Tokens) dropLost(ctx context.Context, id token.ID, now time.Time) error {
	for range 2 {
		ts.mu.RLock()
		var first endingHold
		found := false
		if hs := ts.holds[id]; hs != nil {
			first, found = hs.byEnd.Min()
		}
		ts.mu.RUnlock()
		if !found || now.Before(first.end.Add(ts.timings.Grace)) {
			return nil
		}
		if err := ts.storage.Delete(ctx, holdKey(id, first.id)); err != nil {
			return err
		}
		ts.setHold(id, first.id, nil)
	}
	return nil
}

// dropHolds deletes all holds of a token. The caller has locked the token.
func (ts *Tokens) dropHolds(ctx context.Context, id token.ID) error {
	for name := range ts.holdNames(id) {
		if err := ts.storage.Delete(ctx, holdKey(id, name)); err != nil {
			return err
		}
		ts.setHold(id, name, nil)
	}
	return nil
}

// dropOrphans deletes the holds of tokens that no longer exist.
func (ts *Tokens) dropOrphans(ctx context.Context) error {
	ts.mu.RLock()
	var orphans []token.ID
	for id := range ts.holds {
		if ts.all[id] == nil {
			orphans = append(orphans, id)
		}
	}
	ts.mu.RUnlock()
	for _, id := range orphans {
		if err := func() error {
			defer ts.lock(id)()
			return ts.dropHolds(ctx, id)
		}(); err != nil {
			return err
		}
	}
	return nil
}

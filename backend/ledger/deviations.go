// Package ledger is what storage remembers of tokens that were issued: the deviations from what a token
// says of itself (Deviations), how far grants have been refreshed (Refreshes), which places in status lists
// are taken (StatusIndexes, DeletedRoles), and who got which token when (Inventory).
package ledger

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// DeviationsPrefix is where Deviations keeps its pages in storage.
const DeviationsPrefix = "ledger/deviations/"

// A Deviation is what has become of a token, or of a grant, other than what the token itself says.
type Deviation struct {
	_         struct{}        `cbor:",toarray"`
	ExpiresAt int64           // seconds since 1970: when the token ends, or would have ended had it not been revoked
	KeepUntil int64           // seconds since 1970: from when on the token says itself that it has ended
	Revoked   bool            //
	Status    token.StatusRef // the place in a status list that tells of the revocation; zero: none
	Revision  uint32          // counts the changes
}

func (d Deviation) keepUntil() int64 { return d.KeepUntil }

// merge returns what is true of a token of which two writers know. A revocation is for ever. The end is that of
// the writer who changed the deviation more often; of two who did so equally often, the earlier one.
func (d Deviation) merge(o Deviation) Deviation {
	if o.Revision > d.Revision || o.Revision == d.Revision && o.ExpiresAt < d.ExpiresAt {
		d, o = o, d
	}
	d.KeepUntil = max(d.KeepUntil, o.KeepUntil)
	d.Revoked = d.Revoked || o.Revoked
	if d.Status.IsZero() {
		d.Status = o.Status
	}
	return d
}

// Deviations knows which tokens and grants were revoked or renewed. A deviation whose KeepUntil has passed
// no longer says anything that the token does not say itself, and is dropped.
type Deviations struct {
	pages[Deviation]
	revision atomic.Uint64 // counts what may have changed any status list
	lists    sync.Map      // number of a status list -> *atomic.Uint64, which counts what has changed that one
}

// NewDeviations returns those of one process, which knows none until Load.
func NewDeviations(writer string) *Deviations {
	return &Deviations{pages: pages[Deviation]{prefix: DeviationsPrefix, writer: writer}}
}

// Load reads all from storage, also again.
func (d *Deviations) Load(ctx context.Context, s logical.Storage, now time.Time) error {
	defer d.revision.Add(1)
	return d.pages.Load(ctx, s, now)
}

// Reload reads one file that somebody else has written. A key that is not a file's is an error.
func (d *Deviations) Reload(ctx context.Context, s logical.Storage, key string, now time.Time) error {
	defer d.revision.Add(1)
	return d.pages.Reload(ctx, s, key, now)
}

// DropDamaged deletes a file that cannot be read. The revocations in it are lost.
func (d *Deviations) DropDamaged(ctx context.Context, s logical.Storage, key string) error {
	defer d.revision.Add(1)
	return d.pages.DropDamaged(ctx, s, key)
}

// Get tells how a token deviates; ok is false where it does not.
func (d *Deviations) Get(id token.ID) (_ Deviation, ok bool) { return d.get(id) }

// Revoke ends a token that says of itself that it ends at ownEnd. It is remembered until then, or until
// the end that a renewal gave it. Revoking twice is revoking once.
func (d *Deviations) Revoke(ctx context.Context, s logical.Storage, id token.ID, status token.StatusRef, ownEnd, now time.Time) error {
	err := d.change(ctx, s, id, now, func(old Deviation, known bool) (Deviation, error) {
		if !known {
			old.ExpiresAt = ownEnd.Unix()
		}
		old.KeepUntil = max(old.KeepUntil, old.ExpiresAt, ownEnd.Unix())
		if !old.Revoked {
			old.Revoked = true
			old.Revision++
		}
		if !status.IsZero() {
			old.Status = status
		}
		return old, nil
	})
	if !status.IsZero() {
		d.changesOf(status.List).Add(1)
	}
	return err
}

// ErrRevoked is returned for the renewal of a token that was revoked.
var ErrRevoked = errors.New("the token was revoked")

// Renew moves the end of a token that says of itself that it ends at ownEnd: forward, or back, as the
// renewal of a lease with a small increment does.
func (d *Deviations) Renew(ctx context.Context, s logical.Storage, id token.ID, ownEnd, newEnd, now time.Time) error {
	return d.change(ctx, s, id, now, func(old Deviation, _ bool) (Deviation, error) {
		if old.Revoked {
			return old, ErrRevoked
		}
		end := newEnd.Unix()
		if old.ExpiresAt == end && old.KeepUntil >= ownEnd.Unix() {
			return old, nil
		}
		return Deviation{ExpiresAt: end, KeepUntil: max(old.KeepUntil, end, ownEnd.Unix()), Revision: old.Revision + 1}, nil
	})
}

func (d *Deviations) changesOf(list uint32) *atomic.Uint64 {
	changes, _ := d.lists.LoadOrStore(list, new(atomic.Uint64))
	return changes.(*atomic.Uint64)
}

// Revision changes whenever a status list may have to show something else.
func (d *Deviations) Revision(list uint32) uint64 {
	return d.revision.Load() + d.changesOf(list).Load()
}

// RevokedIn lists the places of a status list whose tokens were revoked.
func (d *Deviations) RevokedIn(list uint32) []uint32 {
	var places []uint32
	d.all(func(v Deviation) {
		if v.Revoked && v.Status.List == list {
			places = append(places, v.Status.Index)
		}
	})
	return places
}

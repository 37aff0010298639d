// Package ledger stores what the engine must remember of issued tokens: revocations and renewals (Deviations), the last
// refresh of each grant (Refreshes), the places in status lists (StatusIndexes, DeletedRoles), and who got which token
// when (Inventory).
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

// DeviationsPrefix is where deviations are stored.
const DeviationsPrefix = "ledger/deviations/"

// A Deviation says how a token or a grant differs from the token's own claims.
type Deviation struct {
	_         struct{}        `cbor:",toarray"`
	ExpiresAt int64           // seconds since 1970: when the token expires, or would have expired without the revocation
	KeepUntil int64           // seconds since 1970: when the token has expired by its own claims, too
	Revoked   bool            //
	Status    token.StatusRef // the place in a status list that shows the revocation; zero: none
	Revision  uint32          // counts the changes
}

func (d Deviation) keepUntil() int64 { return d.KeepUntil }

// merge combines the deviations of a token by two writers. A revocation by either is final. ExpiresAt comes from the
// deviation with the higher revision, or is the earlier one if the revisions are equal.
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

// Deviations holds the revocations and renewals of tokens and grants. A deviation is dropped after its KeepUntil: the
// token has then expired by its own claims.
type Deviations struct {
	revised[Deviation]
	lists sync.Map // number of a status list -> *atomic.Uint64, counts the changes of this list
}

// NewDeviations returns empty Deviations of a writer. Load fills them.
func NewDeviations(writer string) *Deviations {
	return &Deviations{revised: revised[Deviation]{pages: pages[Deviation]{prefix: DeviationsPrefix, writer: writer}}}
}

// OnTightened has f told of each token that memory learns to be revoked, or to expire earlier than before: by a change, or
// from the file of another process. until is when the token would have expired at the latest. The caller sets f before
// other goroutines use d.
func (d *Deviations) OnTightened(f func(id token.ID, until time.Time)) {
	d.changed = func(id token.ID, old Deviation, known bool, current Deviation) {
		if !known {
			old.ExpiresAt = current.KeepUntil
		}
		if current.Revoked && !old.Revoked || current.ExpiresAt < old.ExpiresAt {
			f(id, time.Unix(max(current.KeepUntil, old.ExpiresAt), 0))
		}
	}
}

// Get returns the deviation of a token. ok is false if there is none.
func (d *Deviations) Get(id token.ID) (_ Deviation, ok bool) { return d.get(id) }

// Revoke revokes a token that expires at ownEnd by its own claims. The revocation is kept until ownEnd, or until the end
// of a renewal if that is later. Revoking a token twice has no further effect.
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

// ErrRevoked is returned by Renew if the token was revoked.
var ErrRevoked = errors.New("the token was revoked")

// Renew moves the end of a token that expires at ownEnd by its own claims. The new end may be earlier, since a lease may be
// renewed with a small increment. Renew returns the revision of the deviation. seen is the revision that the last renewal
// returned, maybe in another process; 0: not known.
func (d *Deviations) Renew(
	ctx context.Context, s logical.Storage, id token.ID, ownEnd, newEnd time.Time, seen uint32, now time.Time,
) (revision uint32, _ error) {
	err := d.change(ctx, s, id, now, func(old Deviation, _ bool) (Deviation, error) {
		if old.Revoked {
			return old, ErrRevoked
		}
		current := Deviation{ExpiresAt: newEnd.Unix(), KeepUntil: max(old.KeepUntil, newEnd.Unix(), ownEnd.Unix()), Revision: old.Revision}
		if current != old || old.Revision < seen {
			current.Revision = max(old.Revision, seen) + 1
		}
		revision = current.Revision
		return current, nil
	})
	return revision, err
}

func (d *Deviations) changesOf(list uint32) *atomic.Uint64 {
	changes, _ := d.lists.LoadOrStore(list, new(atomic.Uint64))
	return changes.(*atomic.Uint64)
}

// Revision returns a number that changes whenever a status list may have changed.
func (d *Deviations) Revision(list uint32) uint64 {
	return d.revision.Load() + d.changesOf(list).Load()
}

// RevokedIn returns the places in a status list whose tokens were revoked.
func (d *Deviations) RevokedIn(list uint32) []uint32 {
	var places []uint32
	d.all(func(v Deviation) {
		if v.Revoked && v.Status.List == list {
			places = append(places, v.Status.Index)
		}
	})
	return places
}

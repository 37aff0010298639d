package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// RefreshesPrefix is where Refreshes keeps its pages in storage.
const RefreshesPrefix = "ledger/refreshes/"

// A Refresh is the last refresh of a grant.
type Refresh struct {
	_          struct{} `cbor:",toarray"`
	Generation uint32   // of the refresh tokens that came out; the first one, from creds, is 1
	At         int64    // milliseconds since 1970
	KeepUntil  int64    // seconds since 1970: from when on no refresh token of the grant can be valid
}

func (r Refresh) keepUntil() int64 { return r.KeepUntil }

// merge returns the later refresh of two that two writers know of.
func (r Refresh) merge(o Refresh) Refresh {
	if o.Generation > r.Generation || o.Generation == r.Generation && o.At > r.At {
		r, o = o, r
	}
	r.KeepUntil = max(r.KeepUntil, o.KeepUntil)
	return r
}

// Refreshes knows the last refresh of each grant that was refreshed.
type Refreshes struct{ pages[Refresh] }

// NewRefreshes returns those of one process, which knows none until Load.
func NewRefreshes(writer string) *Refreshes {
	return &Refreshes{pages[Refresh]{prefix: RefreshesPrefix, writer: writer}}
}

// Get returns the last refresh of a grant; ok is false where it was not refreshed.
func (rs *Refreshes) Get(id token.ID) (_ Refresh, ok bool) { return rs.get(id) }

// ErrReused is returned for a refresh token that was used before, longer ago than a retry takes, or
// whose successor was used already.
var ErrReused = errors.New("the refresh token was used before")

// Reused reports whether Refresh would return ErrReused for a refresh token.
func (rs *Refreshes) Reused(grant token.ID, generation uint32, retry time.Duration, now time.Time) bool {
	last, known := rs.get(grant)
	return known && generation < last.Generation && !last.retried(generation, retry, now)
}

// retried reports whether the use of a refresh token of this generation is a retry of the last refresh.
func (r Refresh) retried(generation uint32, retry time.Duration, now time.Time) bool {
	return generation == r.Generation-1 && now.UnixMilli()-r.At <= retry.Milliseconds()
}

// Refresh uses a refresh token of one generation of a grant whose refresh tokens are valid until keepUntil at most.
// What comes out is a refresh token of the next generation. The predecessor of the current generation is accepted
// once more for as long as retry after it was used: its client has not got the answer, or has asked twice at once.
func (rs *Refreshes) Refresh(ctx context.Context, s logical.Storage, grant token.ID, generation uint32, keepUntil time.Time, retry time.Duration, now time.Time) error {
	if err := rs.Unreadable(grant); err != nil {
		return err
	}
	return rs.change(ctx, s, grant, now, func(last Refresh, known bool) (Refresh, error) {
		if !known {
			last.Generation = 1
		}
		switch {
		case generation == last.Generation:
			return Refresh{Generation: generation + 1, At: now.UnixMilli(), KeepUntil: keepUntil.Unix()}, nil
		case known && last.retried(generation, retry, now):
			return last, nil
		}
		return last, ErrReused
	})
}

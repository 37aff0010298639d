package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// RefreshesPrefix is where refreshes are stored.
const RefreshesPrefix = "ledger/refreshes/"

// A Refresh is the last refresh of a grant.
type Refresh struct {
	_          struct{} `cbor:",toarray"`
	Generation uint32   // of the new refresh token; the first refresh token of a grant, from creds, has 1
	At         int64    // milliseconds since 1970
	KeepUntil  int64    // seconds since 1970: when all refresh tokens of the grant must have expired
}

func (r Refresh) keepUntil() int64 { return r.KeepUntil }

// merge returns the later one of two writers' refreshes of a grant.
func (r Refresh) merge(o Refresh) Refresh {
	if o.Generation > r.Generation || o.Generation == r.Generation && o.At > r.At {
		r, o = o, r
	}
	r.KeepUntil = max(r.KeepUntil, o.KeepUntil)
	return r
}

// Refreshes holds the last refresh of each refreshed grant.
type Refreshes struct{ pages[Refresh] }

// NewRefreshes returns empty Refreshes of a writer. Load fills them.
func NewRefreshes(writer string) *Refreshes {
	return &Refreshes{pages[Refresh]{prefix: RefreshesPrefix, writer: writer}}
}

// Get returns the last refresh of a grant. ok is false if the grant was not refreshed.
func (rs *Refreshes) Get(id token.ID) (_ Refresh, ok bool) { return rs.get(id) }

// ErrReused is returned for a refresh token that was used before, unless the use is a retry.
var ErrReused = errors.New("the refresh token was used before")

// Reused reports whether a refresh token was used before, unless the use is a retry.
func (rs *Refreshes) Reused(grant token.ID, generation uint32, retry time.Duration, now time.Time) bool {
	last, known := rs.get(grant)
	return known && generation < last.Generation && !last.retried(generation, retry, now)
}

// retried reports whether a refresh with a token of this generation is a retry of the last refresh.
func (r Refresh) retried(generation uint32, retry time.Duration, now time.Time) bool {
	return generation == r.Generation-1 && now.UnixMilli()-r.At <= retry.Milliseconds()
}

// Refresh stores that a refresh token of a generation was used. The grant's refresh tokens are valid until keepUntil at
// most. The previous generation is accepted again until retry after its use: the client may not have received the answer,
// or may have sent two requests at once.
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

package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// GrantsPrefix is where Grants keeps its pages in storage.
const GrantsPrefix = "ledger/grants/"

// A Refresh is the last refresh of a grant: all that it takes to make the same pair of tokens again.
type Refresh struct {
	_          struct{} `cbor:",toarray"`
	Generation uint32   // of the refresh token that came out; the first one, from creds, is 1
	At         int64    // milliseconds since 1970
	AccessEnd  int64    // seconds since 1970: when the access token ends
	AccessID   token.ID
	RefreshID  token.ID
	Key        uint32 // number of the key that sealed them
	KeepUntil  int64  // seconds since 1970: from when on no refresh token of the grant can be valid
}

func (r Refresh) keepUntil() int64 { return r.KeepUntil }

// Grants knows the last refresh of each grant that was refreshed.
type Grants struct{ pages[Refresh] }

// LoadGrants reads them all from storage.
func LoadGrants(ctx context.Context, s logical.Storage) (*Grants, error) {
	g := &Grants{pages[Refresh]{prefix: GrantsPrefix}}
	return g, g.load(ctx, s)
}

// ErrReused is returned for a refresh token that was used before, longer ago than a retry takes, or
// whose successor was used already.
var ErrReused = errors.New("the refresh token was used before")

// Refresh uses the refresh token of one generation of a grant, and gives the refresh that came of it. The
// predecessor of the current refresh token gets the refresh that retired it, for as long as retry: its
// client has not got the answer. next makes a refresh where there is to be a new one; its generation is set
// here. Of many who use the same token at once, one makes the next refresh and the others get the same.
func (g *Grants) Refresh(ctx context.Context, s logical.Storage, grant token.ID, generation uint32, retry time.Duration, now time.Time, next func() (Refresh, error)) (Refresh, error) {
	var result Refresh
	err := g.change(ctx, s, grant, now, func(last Refresh, known bool) (_ Refresh, err error) {
		if !known {
			last.Generation = 1
		}
		switch {
		case generation == last.Generation:
			if result, err = next(); err != nil {
				return last, err
			}
			result.Generation = generation + 1
			result.At = now.UnixMilli()
			return result, nil
		case known && generation == last.Generation-1 && now.UnixMilli()-last.At <= retry.Milliseconds():
			result = last
			return last, nil
		}
		return last, ErrReused
	})
	return result, err
}

package upstream

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// batch processes some of the due tokens, and reports whether there may be more.
func (r *run) batch(ctx context.Context) (more bool, err error) {
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	due := r.Tokens.dueNow(r.c.ID, r.now(), batch)
	var lost []Token // tokens whose creation was interrupted
	for _, t := range due {
		if working.Err() != nil {
			break
		}
		id := t.ID
		if !r.Tokens.claim(id) {
			continue
		}
		t, known := r.Tokens.Get(id) // again: the token may have changed before the claim
		if !known {
			r.Tokens.release(id)
			continue
		}
		if t.State == Creating || t.State == Lost {
			lost = append(lost, t)
			continue
		}
		group.Go(func() error { return r.report(working, &t, r.settle(working, &t)) })
	}
	if len(lost) > 0 {
		group.Go(func() error { return r.search(working, lost) })
	}
	return len(due) == batch, group.Wait()
}

// run is one drain of a connection.
type run struct {
	*Keeper
	c        *Ready
	progress atomic.Bool

	turn     chan struct{} // a semaphore: one goroutine checks the credential
	checked  time.Time     // when the credential was last checked
	checkErr error
}

var (
	// errWait is returned while the service may still create a token.
	errWait = errors.New("it is not known yet whether the token was created")

	// errHeld is returned if a static role holds the token.
	errHeld = errors.New("a static role holds the token")
)

// report records the outcome of a try for a token. It returns an error that concerns the connection, not only the token.
func (r *run) report(ctx context.Context, t *Token, err error) error {
	if err == nil {
		r.progress.Store(true)
		r.Tokens.release(t.ID)
		return nil
	}
	if ctx.Err() != nil { // another token's error has stopped the batch
		r.Tokens.release(t.ID)
		return err
	}
	now := r.now()
	switch {
	case errors.Is(err, errHeld):
		r.Tokens.rest(t.ID, now.Add(r.Timings.Longest), nil)
		return nil
	case isUnrevocable(err):
		r.Tokens.rest(t.ID, t.expires(), err)
		return nil
	}
	if !errors.Is(err, errWait) && !r.onlyThisToken(ctx, err) {
		r.Tokens.release(t.ID)
		return err
	}
	again := r.Timings.After(Attempt{failures: r.Tokens.tries(t.ID)}, now, 0)
	r.Tokens.rest(t.ID, again.Next, err)
	return nil
}

// onlyThisToken reports whether an error concerns one token only. If the service still accepts the credential, the token
// rests and does not block the other tokens.
func (r *run) onlyThisToken(ctx context.Context, err error) bool {
	e := (*connector.Error)(nil)
	switch {
	case errors.Is(err, errOtherURL):
		return true
	case !errors.As(err, &e): // storage failed, or the provider was deleted
		return false
	case e.Status == 429 || e.RetryAfter > 0:
		return false
	case e.Status != 0 && e.Status < 500 && !e.Denied:
		return true
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return false
	}
	if now := r.now(); r.checked.IsZero() || now.Sub(r.checked) > checkLife {
		_, r.checkErr = r.c.Service.Check(ctx)
		r.checked = now
	}
	return r.checkErr == nil
}

// settle revokes a token whose time is over.
func (r *run) settle(ctx context.Context, t *Token) error {
	now := r.now()
	if t.State == Live {
		ended, err := r.Tokens.revokeIf(ctx, t.ID, now, func(t *Token) bool { return !now.Before(r.end(ctx, t)) })
		if errors.Is(err, ErrRevoked) {
			return nil
		}
		if err != nil {
			return err
		}
		if ended.State == Live {
			if t.StaticRole != "" {
				return errHeld
			}
			return nil
		}
		t = &ended
	}
	return r.revoke(ctx, r.c, t)
}

// end returns when a Live token must be revoked.
func (r *run) end(ctx context.Context, t *Token) time.Time {
	if t.StaticRole != "" && r.mount.StaticRoleHolds(ctx, t.StaticRole, t.ID) {
		return t.EndsAt.Add(r.Timings.Grace)
	}
	return r.Tokens.dueAt(t)
}

// search finds tokens whose creation was interrupted by their names, and revokes the tokens. Each token becomes Lost
// first. Tokens with the same params share one listing.
func (r *run) search(ctx context.Context, lost []Token) error {
	groups := make(map[string][]Token)
	var failed error
	for _, t := range lost {
		if failed != nil {
			r.Tokens.release(t.ID) // storage has failed
			continue
		}
		switch now, err := r.Tokens.lose(ctx, t); {
		case errors.Is(err, ErrRevoked): // another process has completed the creation
			r.Tokens.release(t.ID)
		case errors.Is(err, errDamaged): // of this token only
			r.Tokens.rest(t.ID, r.now().Add(r.Timings.Longest), err)
		case err != nil:
			failed = r.report(ctx, &t, err)
		default:
			key := shareKey(token.RoleID{}, t.ConnectionID, t.Params)
			groups[key] = append(groups[key], now)
		}
	}
	for _, group := range groups {
		var found map[string][]connector.Token
		err := failed
		if err == nil {
			found, err = r.find(ctx, group)
		}
		for i := range group {
			t := &group[i]
			if failed != nil {
				r.Tokens.release(t.ID) // the connection has failed
				continue
			}
			failed = r.report(ctx, t, r.settleLost(ctx, t, found[t.Name], err))
		}
	}
	return failed
}

// find returns the tokens that exist at the service, by name.
func (r *run) find(ctx context.Context, lost []Token) (map[string][]connector.Token, error) {
	if r.c.Broken != nil {
		return nil, r.c.Broken
	}
	if !r.c.Service.Provider.CanFind() {
		return nil, nil
	}
	names := make([]string, len(lost))
	for i := range lost {
		names[i] = lost[i].Name
	}
	all, err := r.c.Service.Find(ctx, names, lost[0].Params)
	if err != nil {
		return nil, err
	}
	found := make(map[string][]connector.Token)
	for _, t := range all {
		found[t.Name] = append(found[t.Name], t)
	}
	return found, nil
}

// settleLost revokes the tokens that a search has found under a lost token's name. It forgets a token that cannot exist
// any more.
func (r *run) settleLost(ctx context.Context, t *Token, found []connector.Token, err error) error {
	if err != nil {
		return err
	}
	now := r.now()
	if !r.c.Service.Provider.CanFind() {
		// The token expires at the service.
		if now.Before(t.EndsAt.Add(r.Timings.Grace)) {
			return errWait
		}
		return r.Tokens.Forget(ctx, t.ID)
	}
	for i := range found {
		err := r.c.Service.Revoke(ctx, &found[i])
		if isUnrevocable(err) && !now.Before(t.expires()) {
			err = nil
		}
		if err != nil && !errors.Is(err, connector.ErrGone) {
			return err
		}
		r.log.Info("token of an interrupted creation revoked", "connection", t.Connection, "name", t.Name)
	}
	// The interrupted call may still reach the service, and a proxy may repeat the call. The service may list new tokens
	// late. The wait counts from this process's first search, since the clock of the process that called may differ.
	if now.Sub(r.Tokens.searchedSince(t.ID, now)) < r.Timings.Settle+r.c.Service.Client.Timeout() {
		return errWait
	}
	return r.Tokens.Forget(ctx, t.ID)
}

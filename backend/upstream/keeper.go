package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// RevokeWait is how long a request waits for a service to revoke a token before the queue takes over.
const RevokeWait = 10 * time.Second

// Keeper keeps the tokens of one mount.
type Keeper struct {
	Tokens  *Tokens
	Timings Timings // to be changed before the first use only

	now      func() time.Time
	log      hclog.Logger
	mount    Mount
	minting  singleflight.Group // of shared tokens, by shareKey
	rotating sync.Map           // id of a connection whose credential is being rotated -> *rotation
	queue    queue
}

// Mount is what a Keeper needs to know of the mount. Its answers are those of now.
type Mount interface {
	// Active reports whether this process has read storage, and may write there.
	Active(ctx context.Context) bool

	// Connections returns all connections.
	Connections() []*Connection

	// Connection returns a connection by its id. It returns an error that names the connection where there is none.
	Connection(id, name string) (*Connection, error)

	// ConnectionDeleted and RoleDeleted report whether surely nothing has this id.
	ConnectionDeleted(id string) bool
	RoleDeleted(id token.RoleID) bool

	// Refresh reads connections and roles from storage again.
	Refresh(ctx context.Context) error

	// StaticRoleHolds reports whether a static role keeps a token. It asks storage before it says no.
	StaticRoleHolds(ctx context.Context, staticRole string, id token.ID) bool

	// ChangeRoot stores a change of the credential of a connection. The change is based on what storage holds, and
	// its error is returned.
	ChangeRoot(ctx context.Context, id string, change func(*Root) error) (*Connection, error)
}

// Connection is a connection as it is now.
type Connection struct {
	ID, Name, URL string
	Root
	Service *connector.Upstream // ready for calls, with the credential of Root; nil: see Broken
	Broken  error               // why there can be no calls
}

// New makes the keeper of a mount. wake has Look called at once.
func New(s logical.Storage, now func() time.Time, log hclog.Logger, mount Mount, wake func()) *Keeper {
	k := &Keeper{Timings: DefaultTimings, now: now, log: log, mount: mount}
	k.queue = queue{wake: wake, lines: make(map[string]*lineState)}
	k.Tokens = newTokens(s, &k.Timings, k.queue.soon)
	return k
}

// Outcome is what a revocation came to.
type Outcome struct {
	Queued  bool      // the service has not confirmed the revocation yet
	EndsAt  time.Time // the service cannot revoke the token, which ends then; zero: it can
	Service string    // name of the connection
}

// Revoke ends a token for good, whatever holds it: from now on it is not given to anybody, and the service is told
// at once, or as soon as it can be reached; a token with many holds in the background. A token that storage does not know has ended.
func (k *Keeper) Revoke(ctx context.Context, id token.ID) (Outcome, error) {
	mine := k.Tokens.claim(id) // before the queue sees that there is something to do
	release := func() {
		if mine {
			k.Tokens.release(id)
		}
	}
	t, err := k.Tokens.End(ctx, id, k.now())
	if err != nil {
		release()
		if errors.Is(err, ErrEnded) {
			err = nil
		}
		return Outcome{}, err
	}
	o := Outcome{Queued: true, Service: t.Connection}
	if !mine || t.State != Ending || k.queue.down(t.ConnectionID, k.now()) || k.Tokens.heldBy(id) > mostHolds {
		release()
		return o, nil
	}
	c, err := k.mount.Connection(t.ConnectionID, t.Connection)
	if err == nil {
		trying, cancel := context.WithTimeout(ctx, RevokeWait)
		err = k.revoke(trying, c, &t)
		cancel()
	}
	if isUnrevocable(err) {
		o.EndsAt = t.expires()
		k.Tokens.rest(id, o.EndsAt, err)
		return o, nil
	}
	release()
	if err == nil {
		return Outcome{}, nil
	}
	k.log.Warn("token not revoked; revocation queued", "connection", t.Connection, "name", t.Name, "error", err)
	return o, nil
}

// revoke has the service revoke a token that is Ending, and forgets the token.
func (k *Keeper) revoke(ctx context.Context, c *Connection, t *Token) error {
	if c.Broken != nil {
		return c.Broken
	}
	err := c.Service.Revoke(ctx, t.atService())
	switch {
	case errors.Is(err, connector.ErrGone) && t.URL != c.URL:
		// What is not there may be at the URL where the token was minted. Whether this is the same service under
		// another name is for the operator to say, with the credential; whether it is one at all, for a check.
		if _, checkErr := c.Service.Check(ctx); checkErr != nil {
			return fmt.Errorf("%w: the token was minted at %s, and a check of the connection failed: %w", errOtherURL, t.URL, checkErr)
		}
	case errors.Is(err, connector.ErrGone):
	case errors.Is(err, connector.ErrCannotRevoke) && !k.now().Before(t.expires()):
	case err != nil:
		return err
	}
	return k.Tokens.Forget(ctx, t.ID)
}

// errOtherURL says that a service that is not there as it was does not have a token.
var errOtherURL = errors.New("the service does not have the token, which does not say that the token is revoked")

func isUnrevocable(err error) bool { return errors.Is(err, connector.ErrCannotRevoke) }

// EndRole moves all tokens of a role that was deleted to Ending, and leaves their revocation to the queue.
func (k *Keeper) EndRole(ctx context.Context, id token.RoleID) error {
	defer k.queue.wake()
	err := k.endAll(ctx, k.Tokens.OfRole(id))
	if err != nil {
		k.queue.begun.Store(false) // the queue completes it
	}
	return err
}

// endAll moves tokens to Ending.
func (k *Keeper) endAll(ctx context.Context, tokens []Token) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for _, t := range tokens {
		group.Go(func() error {
			_, err := k.Tokens.End(ctx, t.ID, k.now())
			if errors.Is(err, ErrEnded) {
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// Unhold takes a lease away from a shared token. The queue revokes a token that nothing holds any more.
func (k *Keeper) Unhold(ctx context.Context, id token.ID, hold string) error {
	ended, err := k.Tokens.unhold(ctx, id, hold, k.now())
	if ended {
		k.queue.wake()
	}
	return err
}

// Shorten has a token end earlier than it would.
func (k *Keeper) Shorten(ctx context.Context, id token.ID, end time.Time) error {
	t, known := k.Tokens.Get(id)
	if !known || t.State != Live || !t.EndsAt.After(end) {
		return nil
	}
	_, err := k.Tokens.change(ctx, id, Live, func(t *Token) { t.EndsAt = end.UTC() })
	if errors.Is(err, ErrEnded) {
		return nil
	}
	return err
}

// Renew has a token live until end; hold is what its lease calls itself where the token is shared. It returns when
// the token really ends. A token that is revoked, before or meanwhile, is ErrEnded.
func (k *Keeper) Renew(ctx context.Context, id token.ID, hold string, now, end time.Time) (time.Time, error) {
	t, known, err := k.Tokens.Find(ctx, id)
	if err != nil {
		return time.Time{}, err
	}
	if !known || t.State != Live {
		return time.Time{}, ErrEnded
	}
	c, err := k.mount.Connection(t.ConnectionID, t.Connection)
	if err != nil {
		return time.Time{}, err
	}
	if c.Broken != nil {
		return time.Time{}, c.Broken
	}
	asked := end
	if hold != "" && t.EndsAt.After(end) {
		asked = t.EndsAt // that of another lease
	}
	said, err := c.Service.Renew(ctx, t.atService(), now, asked)
	if err != nil {
		return time.Time{}, err
	}
	moved := c.Service.Provider.Operations.Renew != nil // at the service
	if hold == "" || moved {
		t, err = k.Tokens.change(ctx, id, Live, func(t *Token) {
			if moved {
				t.TokenEnd = said.UTC()
			}
			t.EndsAt = t.capped(asked).UTC()
		})
		if err != nil {
			return time.Time{}, err
		}
	}
	if hold == "" {
		return t.EndsAt, nil
	}
	return k.Tokens.moveHold(ctx, id, hold, end, now)
}

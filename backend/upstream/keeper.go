package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// RevokeWait is how long a request waits for a service to revoke a token before the queue takes over.
const RevokeWait = 10 * time.Second

// Keeper manages the connections of one mount and the tokens at their services.
type Keeper struct {
	Connections *Connections
	Tokens      *Tokens
	Timings     Timings     // must not change after the first use
	Rotated     func(error) // receives the outcome of each rotation of a credential; nil: none. Set before the first use

	storage  logical.Storage
	now      func() time.Time
	log      hclog.Logger
	mount    Mount
	minting  singleflight.Group // of shared tokens, by shareKey
	renewing renewals
	rotating sync.Map // ID of a connection whose credential is being rotated -> *rotation
	queue    queue
}

// Mount answers a Keeper's questions about the mount. Each answer is current.
type Mount interface {
	// Active reports whether this process has read storage and may write to storage.
	Active(ctx context.Context) bool

	// Roles returns the roles, or nil before they are read from storage.
	Roles() *role.Store

	// StaticRoleHolds reports whether a static role holds a token. It reads storage before it returns false.
	StaticRoleHolds(ctx context.Context, staticRole string, id token.ID) bool
}

// Config configures a Keeper. All fields but Dial are required.
type Config struct {
	Storage   logical.Storage // of the mount, for background work
	Now       func() time.Time
	Log       hclog.Logger
	Mount     Mount
	Wake      func()             // makes the caller call Run at once
	UserAgent string             // of the requests to the services
	Dial      connector.DialFunc // dials the services; nil means net.Dialer
}

// New returns the keeper of a mount. The caller must load Connections and Tokens before use.
func New(c Config) *Keeper {
	k := &Keeper{
		Connections: newConnections(connector.ClientConfig{UserAgent: c.UserAgent, Dial: c.Dial, Now: c.Now}), Timings: DefaultTimings,
		storage: c.Storage, now: c.Now, log: c.Log, mount: c.Mount,
	}
	k.renewing.tokens = make(map[token.ID]*turn)
	k.queue = queue{wake: c.Wake, lines: make(map[string]*lineState)}
	k.Tokens = newTokens(c.Storage, &k.Timings, k.queue.soon)
	return k
}

// roleDeleted reports whether no role, not even an unreadable one, has an ID.
func (k *Keeper) roleDeleted(id token.RoleID) bool {
	roles := k.mount.Roles()
	return roles != nil && roles.ByID(id) == nil && roles.BrokenID(id) == nil
}

// reload reads connections and roles from storage again.
func (k *Keeper) reload(ctx context.Context) error {
	k.Connections.Writing.Lock()
	err := k.Connections.ReloadAll(ctx, k.storage)
	k.Connections.Writing.Unlock()
	roles := k.mount.Roles()
	if err != nil || roles == nil {
		return err
	}
	roles.Writing.Lock()
	defer roles.Writing.Unlock()
	return roles.ReloadAll(ctx, k.storage)
}

// Check verifies that the credential of a connection works. It returns what the service reports about the credential.
func (k *Keeper) Check(ctx context.Context, connection string) (provider string, data map[string]any, _ error) {
	c, err := k.Connections.find(connection)
	if err != nil {
		return "", nil, err
	}
	if data, err = c.Service.Check(ctx); err != nil {
		return "", nil, refusal.New("connection %q: %s", c.Name(), err)
	}
	k.Retry(c.ID)
	return c.Service.Provider.Name, data, nil
}

// Outcome is the outcome of a revocation.
type Outcome struct {
	Queued  bool      // the service has not confirmed the revocation yet
	EndsAt  time.Time // expiry of a token that the service cannot revoke; zero if the service can
	Service string    // name of the connection
}

// Revoke revokes a token whatever holds the token. From now on no request gets the token. If the service cannot be reached,
// the queue retries the revocation. The queue also revokes a token with many holds. A token that is not in storage is
// already revoked.
func (k *Keeper) Revoke(ctx context.Context, id token.ID) (Outcome, error) {
	mine := k.Tokens.claim(id) // before the token is Ending, so that the queue does not revoke it as well
	release := func() {
		if mine {
			k.Tokens.release(id)
		}
	}
	t, err := k.Tokens.Revoke(ctx, id, k.now())
	if err != nil {
		release()
		if errors.Is(err, ErrRevoked) {
			err = nil
		}
		return Outcome{}, err
	}
	o := Outcome{Queued: true, Service: t.Connection}
	if !mine || t.State != Ending || k.queue.down(t.ConnectionID, k.now()) || k.Tokens.heldBy(id) > mostHolds {
		release()
		return o, nil
	}
	c, err := k.Connections.readyByID(t.ConnectionID, t.Connection)
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

// revoke revokes an Ending token at the service, and forgets the token.
func (k *Keeper) revoke(ctx context.Context, c *Ready, t *Token) error {
	if c.Broken != nil {
		return c.Broken
	}
	err := c.Service.Revoke(ctx, t.atService())
	switch {
	case errors.Is(err, connector.ErrGone) && t.URL != c.URL:
		// The token may still exist at the URL where it was minted. An operator who changes the URL and gives the
		// credential again declares both URLs to be the same service. The check proves that the new URL is a service.
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

// errOtherURL is returned if a connection's URL has changed and the service at the new URL does not have the token.
var errOtherURL = errors.New("the service does not have the token, but the token may still exist")

func isUnrevocable(err error) bool { return errors.Is(err, connector.ErrCannotRevoke) }

// revokeAll moves tokens to Ending.
func (k *Keeper) revokeAll(ctx context.Context, tokens []Token) error {
	return store.Each(ctx, tokens, func(ctx context.Context, t Token) error {
		_, err := k.Tokens.Revoke(ctx, t.ID, k.now())
		if errors.Is(err, ErrRevoked) {
			return nil
		}
		return err
	})
}

// Unhold removes a lease from a shared token. The queue revokes a token without holds.
func (k *Keeper) Unhold(ctx context.Context, id token.ID, hold string) error {
	ended, err := k.Tokens.unhold(ctx, id, hold, k.now())
	if ended {
		k.queue.wake()
	}
	return err
}

// Shorten moves the end of a token to an earlier time.
func (k *Keeper) Shorten(ctx context.Context, id token.ID, end time.Time) error {
	t, known := k.Tokens.Get(id)
	if !known || t.State != Live || !t.EndsAt.After(end) {
		return nil
	}
	_, err := k.Tokens.change(ctx, id, Live, func(t *Token) { t.EndsAt = end.UTC() })
	if errors.Is(err, ErrRevoked) {
		return nil
	}
	return err
}

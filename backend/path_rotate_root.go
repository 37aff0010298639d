package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/hashicorp/go-secure-stdlib/base62"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	generatedLen = 40

	// rootLifetime is asked for where a service gives its credentials an end.
	rootLifetime = 364 * 24 * time.Hour
)

func (b *backend) pathsRotateRoot() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "rotate-root/" + framework.GenericNameRegex("name"),
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "root-credential"},
		Fields: map[string]*framework.FieldSchema{
			"name": {Type: framework.TypeString, Required: true, Description: "Name of the connection."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: change(b.rotateRoot, "Replace the credential of a connection by one that only the engine knows."),
		},
		HelpSynopsis:    "Replace the credential of a connection.",
		HelpDescription: "Makes another credential at the service, proves that it works, keeps it, and only then ends the old one. Nobody but the engine knows the new one.",
	}}
}

// rotateRoot replaces the credential of a connection. What it chooses is written before the service is
// asked, and what the service chooses can be found there by the name that is written before: whatever is
// cut short, the engine ends up with a credential that works, and without one that nobody knows.
func (b *backend) rotateRoot(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c, up, refusal, err := b.connectionOf(ctx, req, d)
	if refusal != nil || err != nil {
		return refusal, err
	}
	p := up.Provider
	if !p.CanRotateRoot() {
		return fieldError("name", "provider %q cannot rotate its credential", p.Name), nil
	}
	if _, busy := b.rotating.LoadOrStore(c.ID, true); busy {
		return fieldError("name", "the credential of connection %q is being rotated already", c.name), nil
	}
	defer b.reaper.kick()
	defer b.rotating.Delete(c.ID)
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if c.Pending != nil {
		if c, err = b.settlePending(ctx, st, c); err != nil {
			return logical.ErrorResponse("connection %q: an earlier rotation is not settled yet: %s", c.name, err), nil
		}
		up = up.As(c.Credential)
	}

	generated, err := base62.Random(generatedLen)
	if err != nil {
		return nil, err
	}
	name, err := c.newName(req.MountPoint, "root", p.MaxName)
	if err != nil {
		return nil, err
	}
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, err
	}
	now := b.now()
	b.reaper.begin(id)
	defer b.reaper.done(id)
	if pending := p.Generates(generated); pending != nil {
		if c, err = b.changeConnection(ctx, req.Storage, st, c, func(e *connectionEntry) {
			e.Pending, e.PendingSince = maps.Clone(e.Credential), now
			maps.Copy(e.Pending, pending)
		}); err != nil {
			return nil, err
		}
	} else if p.CanFind() {
		if err := st.upstreams.Put(ctx, req.Storage, ledger.Upstream{
			ID: id, State: ledger.Creating, Connection: c.name, ConnectionID: c.ID, Name: name, CreatedAt: now, EndsAt: now.Add(rootLifetime),
		}); err != nil {
			return nil, err
		}
	}
	credential, err := up.RotateRoot(ctx, name, generated, now, now.Add(rootLifetime))
	made := err == nil
	fresh := up.As(credential)
	if made {
		_, err = fresh.Check(ctx)
	}
	if err != nil {
		// Where the service may have taken it, the reaper finds out which of the two works.
		if e := (*connector.Error)(nil); !made && errors.As(err, &e) && !e.Unsure && c.Pending != nil {
			if _, err := b.changeConnection(ctx, req.Storage, st, c, func(e *connectionEntry) { e.Pending = nil }); err != nil {
				return nil, err
			}
		}
		if made && c.Pending == nil {
			b.giveBack(ctx, c, fresh)
		}
		return logical.ErrorResponse("connection %q: the credential was not rotated: %s", c.name, err), nil
	}
	if _, err := b.changeConnection(ctx, req.Storage, st, c, func(e *connectionEntry) {
		e.Credential, e.Pending, e.RotatedAt = credential, nil, now
	}); err != nil {
		if c.Pending == nil {
			b.giveBack(ctx, c, fresh)
		}
		return nil, fmt.Errorf("the new credential was not written, the engine goes on with the old one: %w", err)
	}
	if err := st.upstreams.Delete(ctx, req.Storage, id); err != nil {
		return nil, err
	}
	b.reaper.retry(c.ID)
	if err := up.RetireRoot(ctx); err != nil {
		resp := new(logical.Response)
		resp.AddWarning(fmt.Sprintf("the credential was rotated, but the old one was not ended at the service: %s", err))
		return resp, nil
	}
	return nil, nil
}

// giveBack ends a credential that the service has made and the engine does not take.
func (b *backend) giveBack(ctx context.Context, c *connection, fresh *connector.Upstream) {
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeWait)
	defer cancel()
	if err := fresh.RetireRoot(ending); err != nil {
		b.Logger().Warn("a credential that was not taken was not ended either, it is looked for by its name", "connection", c.name, "error", err)
	}
}

// changeConnection writes a change of a connection that nobody else has changed meanwhile.
func (b *backend) changeConnection(ctx context.Context, s logical.Storage, st *state, c *connection, change func(*connectionEntry)) (*connection, error) {
	st.connections.writing.Lock()
	defer st.connections.writing.Unlock()
	if st.connections.byID(c.ID) != c {
		return c, errors.New("the connection was changed meanwhile")
	}
	changed := *c
	change(&changed.connectionEntry)
	if err := st.connections.put(ctx, s, &changed); err != nil {
		return c, err
	}
	return &changed, nil
}

// errUndecided says that a service accepts the credential from before a rotation that was cut short, and may do
// so no longer when what was sent arrives.
var errUndecided = errors.New("the service may still take the credential that was chosen")

// settlePending finds out whether the service has taken a credential that rotateRoot has chosen.
func (b *backend) settlePending(ctx context.Context, st *state, c *connection) (*connection, error) {
	up, err := st.connections.upstream(c.name, c)
	if err != nil {
		return c, err
	}
	_, err = up.As(c.Pending).Check(ctx)
	if err == nil {
		b.Logger().Info("the service has taken the credential that was chosen before an interruption", "connection", c.name)
		return b.changeConnection(ctx, b.storage, st, c, func(e *connectionEntry) {
			e.Credential, e.Pending, e.RotatedAt = e.Pending, nil, e.PendingSince
		})
	}
	if e := (*connector.Error)(nil); !errors.As(err, &e) || !e.Denied {
		return c, err
	}
	if _, err := up.Check(ctx); err != nil {
		return c, err
	}
	if b.now().Sub(c.PendingSince) < b.reaper.timings.settle+c.client.Timeout() {
		return c, errUndecided
	}
	return b.changeConnection(ctx, b.storage, st, c, func(e *connectionEntry) { e.Pending = nil })
}

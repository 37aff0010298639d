package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// IssueRequest asks for a token of a role with a connection. Fields without a remark are required.
type IssueRequest struct {
	Role        *role.Role
	MountPoint  string    // of the engine
	Subject     string    // Vault entity that the token is for; empty: none
	DisplayName string    // of the Vault token that made the request; empty: none
	StaticRole  string    // that holds the token in place of a lease; empty: none
	Now         time.Time // of the request
	End         time.Time // until when the token is to live

	// Inventory lists the tokens that Issue makes. Mint does not use Inventory: a static role lists its tokens itself.
	Inventory *ledger.Inventory

	// Reserve reserves a place below the role's max_tokens. Issue calls Reserve before it makes a token, and not if it
	// gives a shared token again. Mint does not call Reserve.
	Reserve func() (*role.Place, error)

	// Restore has Reserve count the token that add adds to the inventory. Issue calls Restore when it gives a shared token
	// again whose row a crash lost. Mint does not call Restore.
	Restore func(add func())
}

// shared reports whether others may get the same token.
func (q *IssueRequest) shared() bool { return q.Role.Reuse > 0 && q.StaticRole == "" }

// Minted is a token that was just made, or given again.
type Minted struct {
	Token                  // with Text and Data
	Hold    string         // what the lease of a shared token is to call itself
	End     time.Time      // until when the requester has it
	Granted map[string]any // params that the service granted otherwise than asked
}

// Issued is a token as its requester gets it.
type Issued struct {
	*Minted
	TTL       time.Duration // of the lease
	Renewable bool          // whether the lease can be renewed
	Warnings  []string      // what was granted otherwise than asked
}

// Issue returns a token for a requester: a new token, or a token that others have too if the role has reuse.
func (k *Keeper) Issue(ctx context.Context, q *IssueRequest) (*Issued, error) {
	c, err := k.connectionOf(q.Role)
	if err != nil {
		return nil, err
	}
	m, err := k.mintOrShare(ctx, c, q)
	if err != nil {
		return nil, notIssued(c, err)
	}
	issued := &Issued{Minted: m, TTL: q.End.Sub(q.Now), Renewable: c.Service.Provider.CanRenew()}
	for _, name := range slices.Sorted(maps.Keys(m.Granted)) {
		issued.Warnings = append(issued.Warnings, fmt.Sprintf("%s: the upstream granted %v, not %v as the role asks for", name, m.Granted[name], q.Role.Params[name]))
	}
	if m.End.Before(q.End) {
		issued.TTL = m.End.Sub(q.Now).Truncate(time.Second)
		issued.Warnings = append(issued.Warnings, fmt.Sprintf("ttl: the upstream lets the token live for no longer than %s", refusal.Short(issued.TTL)))
	}
	return issued, nil
}

// Mint returns a new token for a static role.
func (k *Keeper) Mint(ctx context.Context, q *IssueRequest) (*Minted, error) {
	c, err := k.connectionOf(q.Role)
	if err != nil {
		return nil, err
	}
	m, err := k.mint(ctx, c, q)
	return m, notIssued(c, err)
}

// connectionOf returns the connection of a role, and refuses to issue a token if the service cannot be called.
func (k *Keeper) connectionOf(r *role.Role) (*Ready, error) {
	c := k.Connections.Get(r.Connection)
	service, err := k.Connections.service(r.Connection, c)
	if err != nil {
		return nil, refusal.New("role %q: %w", r.Name(), err)
	}
	return &Ready{Connection: c, Service: service}, nil
}

// notIssued returns a refusal if a service did not issue a token, and any other error as it is.
func notIssued(c *Ready, err error) error {
	if errors.As(err, new(*connector.Error)) {
		return refusal.New("connection %q: no token was issued: %w", c.Name(), err)
	}
	return err
}

func (k *Keeper) mintOrShare(ctx context.Context, c *Ready, q *IssueRequest) (*Minted, error) {
	if q.shared() {
		return k.share(ctx, c, q)
	}
	return k.mintListed(ctx, c, q, q.End)
}

// mintListed makes a token below the role's max_tokens, and lists the token in the inventory. A token that lives until end
// counts even if its requester hangs up, since others may get the same token.
func (k *Keeper) mintListed(ctx context.Context, c *Ready, q *IssueRequest, end time.Time) (*Minted, error) {
	place, err := q.Reserve()
	if err != nil {
		return nil, err
	}
	defer place.GiveUp()
	until := *q
	until.End = end
	m, err := k.mint(ctx, c, &until)
	if err != nil {
		return nil, err
	}
	place.Fill(func() { k.list(q, &m.Token) })
	return m, nil
}

// list adds a token to the inventory.
func (k *Keeper) list(q *IssueRequest, t *Token) {
	q.Inventory.Add(ledger.Row{
		ID: t.ID, IssuedAt: t.CreatedAt.Truncate(time.Second), ExpiresAt: t.capped(q.End).Truncate(time.Second),
		Holder: ledger.Holder{
			Role: q.Role.Name(), RoleID: q.Role.ID, RoleVersion: q.Role.Version, Subject: q.Subject, DisplayName: q.DisplayName,
		},
	})
}

// share returns a token that others of the role have too, under a hold of its own; or it mints the next one, once for
// all who ask at the same time. A token is given again only if it is good for as long as is asked for.
func (k *Keeper) share(ctx context.Context, c *Ready, q *IssueRequest) (*Minted, error) {
	id, err := token.NewID(rand.Reader)
	if err != nil {
		return nil, err
	}
	name, key := id.String(), shareKey(q.Role.ID, c.ID, q.Role.Params)
	for ctx.Err() == nil {
		t, found := k.Tokens.young(key, q.Now.Add(-q.Role.Reuse), q.End)
		if !found {
			made, err, _ := k.minting.Do(key, func() (any, error) {
				// The last requester must get the full TTL too.
				m, err := k.mintListed(context.WithoutCancel(ctx), c, q, q.End.Add(q.Role.Reuse))
				if err != nil {
					return nil, err
				}
				return m.ID, nil
			})
			if err != nil {
				return nil, err
			}
			// It is good for less than is asked for where the service gives no more.
			if t, found = k.Tokens.Get(made.(token.ID)); !found {
				continue
			}
		}
		end, err := k.Tokens.hold(ctx, t.ID, name, q.Subject, q.End, k.now())
		if errors.Is(err, ErrRevoked) {
			continue // just now
		}
		if err != nil {
			return nil, err
		}
		if !end.After(k.now()) {
			return nil, errors.Join(&connector.Error{Message: "the service created a token that has already expired"}, k.Unhold(ctx, t.ID, name))
		}
		if _, listed := q.Inventory.Get(t.ID); !listed { // a crash lost the row
			q.Restore(func() { k.list(q, &t) })
		}
		return &Minted{Token: t, Hold: name, End: end}, nil
	}
	return nil, ctx.Err()
}

// Answer returns the members of the answer of creds.
func (i *Issued) Answer() map[string]any {
	data := map[string]any{
		"token":      i.Text,
		"token_id":   i.ID.String(),
		"name":       i.Name,
		"connection": i.Connection,
		"expires_at": i.End.UTC().Format(time.RFC3339),
	}
	if len(i.Data) > 0 {
		data["upstream"] = i.Data
	}
	return data
}

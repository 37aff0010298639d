package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// Deletion is a request to delete a connection.
type Deletion struct {
	Name       string
	Force      bool   // delete the connection although roles or tokens use it
	MountPoint string // of the engine, for the text of a refusal
}

// DeleteConnection deletes a connection. The warnings say what is left behind.
func (k *Keeper) DeleteConnection(ctx context.Context, s logical.Storage, d Deletion) (warnings []string, _ error) {
	c := k.Connections.Get(d.Name)
	if c == nil {
		return k.DropBrokenConnection(ctx, s, d.Name, d.Force)
	}
	if err := k.refuseUsed(ctx, c, d); err != nil {
		return nil, err
	}
	unlock, err := k.lockRoot(ctx, c.ID)
	if errors.Is(err, errRotating) {
		return nil, refusal.New("connection %q: %s, try again", c.name, err)
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c.unsettled() {
		if _, err := k.finishRotations(ctx, k.Connections.ready(c)); err != nil && !d.Force {
			return nil, refusal.New("connection %q: a rotation of the credential is not finished: %s. Wait for it, or delete with force=true and leave a credential behind", c.name, err)
		} else if err != nil {
			warnings = append(warnings, fmt.Sprintf("a rotation of the credential was not finished: a credential may be left behind at %s, revoke it there: %s", c.URL, err))
		}
		if c = k.Connections.ByID(c.ID); c == nil {
			return nil, nil
		}
		if err := k.refuseUsed(ctx, c, d); err != nil { // meanwhile
			return nil, err
		}
	}
	if warning := k.leaveRoot(ctx, c); warning != "" {
		warnings = append(warnings, warning)
	}
	roles := k.rolesOf(c)
	left, err := k.dropConnection(ctx, s, c.ID)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		warnings = append(warnings, fmt.Sprintf("%d tokens are left behind at %s, and nobody will end them. Their names: %s", len(left), c.URL, enumerate(left)))
	}
	if len(roles) > 0 {
		warnings = append(warnings, fmt.Sprintf("roles %q have no connection any more", namesOf(roles)))
	}
	return warnings, nil
}

// refuseUsed refuses to delete a connection that roles or tokens use, unless the deletion is forced.
func (k *Keeper) refuseUsed(ctx context.Context, c *Connection, d Deletion) error {
	if d.Force {
		return nil
	}
	if roles := k.rolesOf(c); len(roles) > 0 {
		return refusal.New("connection %q is used by roles %q: delete them first, or delete with force=true", c.name, namesOf(roles))
	}
	// An old process may have minted tokens that this process has not read yet. Only this connection can revoke them.
	if err := k.Tokens.Sync(ctx); err != nil {
		return err
	}
	if left := len(k.Tokens.OfConnection(c.ID)); left > 0 {
		return refusal.New("connection %q has minted %d tokens that are not ended yet: revoke their leases (vault lease revoke -prefix %screds/...) and wait for its queue, or delete with force=true and leave them behind", c.name, left, d.MountPoint)
	}
	return nil
}

// leaveRoot revokes the credential of a connection that is about to be deleted, if the connection says so. It returns a
// warning if that fails, or if a credential that only the engine knows is left behind.
func (k *Keeper) leaveRoot(ctx context.Context, c *Connection) (warning string) {
	switch {
	case c.RevokeOnDelete:
		service, err := k.Connections.service(c.name, c)
		if err == nil {
			err = service.RetireRoot(ctx)
		}
		if err != nil {
			return fmt.Sprintf("the credential was not ended at the service: %s", err)
		}
	case c.Made:
		return fmt.Sprintf("the credential that rotate-root made, which nobody else knows, is left behind at %s: revoke it there", c.URL)
	}
	return ""
}

// dropConnection deletes a connection and forgets its tokens. It returns these tokens.
func (k *Keeper) dropConnection(ctx context.Context, s logical.Storage, id string) ([]Token, error) {
	k.Connections.Writing.Lock()
	defer k.Connections.Writing.Unlock()
	c := k.Connections.ByID(id) // which may have been changed
	if c == nil {
		return nil, nil
	}
	if err := k.Connections.drop(ctx, s, c); err != nil {
		return nil, err
	}
	// Only now: a token that was made meanwhile is known, or its request finds that the connection is gone.
	// After a crash the next start forgets the rest.
	left := k.Tokens.OfConnection(id)
	return left, k.forgetAll(ctx, left)
}

// DropBrokenConnection deletes a connection that cannot be read. It does nothing if there is none.
func (k *Keeper) DropBrokenConnection(ctx context.Context, s logical.Storage, name string, force bool) (warnings []string, _ error) {
	cs := k.Connections
	if err := k.Tokens.Sync(ctx); err != nil && !force { // which an old process may have minted
		return nil, err
	}
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	if _, err := cs.Latest(ctx, s, name); err != nil || cs.Broken(name) == nil {
		return nil, err
	}
	left := k.Tokens.Where(func(t *Token) bool { return t.Connection == name && cs.ByID(t.ConnectionID) == nil })
	if len(left) > 0 && !force {
		return nil, refusal.New("connection %q has minted %d tokens that are not ended yet: write the connection again, or delete with force=true and leave them behind", name, len(left))
	}
	if err := cs.Delete(ctx, s, name); err != nil {
		return nil, err
	}
	if err := k.forgetAll(ctx, left); err != nil || len(left) == 0 {
		return nil, err
	}
	return []string{fmt.Sprintf("%d tokens are left behind at the service of connection %q, and nobody will end them", len(left), name)}, nil
}

// forgetAll forgets the tokens of a connection that was deleted. If that fails, or if the client hangs up, the queue
// forgets the rest.
func (k *Keeper) forgetAll(ctx context.Context, tokens []Token) error {
	for _, t := range tokens {
		if err := k.Tokens.Forget(ctx, t.ID); err != nil {
			k.queue.begun.Store(false)
			k.queue.wake()
			return err
		}
	}
	return nil
}

// rolesOf returns the roles that issue tokens of a connection.
func (k *Keeper) rolesOf(c *Connection) []*role.Role {
	return slices.DeleteFunc(k.mount.Roles().All(), func(r *role.Role) bool { return r.Connection != c.name })
}

func namesOf(roles []*role.Role) []string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = r.Name()
	}
	return names
}

// enumerate returns the names of the first tokens.
func enumerate(tokens []Token) string {
	const most = 20
	var names []string
	for _, t := range tokens[:min(most, len(tokens))] {
		names = append(names, t.Name)
	}
	text := strings.Join(names, ", ")
	if len(tokens) > most {
		text += ", ..."
	}
	return text
}

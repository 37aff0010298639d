package upstream

import (
	"context"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// CheckConnection implements native.Upstreams.
func (k *Keeper) CheckConnection(name string) error {
	if !k.Connections.Has(name) {
		return refusal.Field("connection", "there is no connection %q", refusal.Clip(name))
	}
	if _, err := k.Connections.Service(name); err != nil {
		return refusal.Field("connection", "%s", err)
	}
	return nil
}

// Params implements native.Upstreams.
func (k *Keeper) Params(connection string, params map[string]any) (map[string]any, error) {
	service, err := k.Connections.Service(connection)
	if err != nil {
		return nil, refusal.Field("connection", "%s", err)
	}
	values, err := connector.Values(service.Provider.Params, params)
	if err != nil {
		return nil, refusal.Field("params", "%s (provider %q)", err, service.Provider.Name)
	}
	return values, nil
}

// RevokeRole implements native.Upstreams: it moves all tokens of a role that was deleted to Ending, and leaves their
// revocation to the queue.
func (k *Keeper) RevokeRole(ctx context.Context, id token.RoleID) error {
	defer k.queue.wake()
	err := k.revokeAll(ctx, k.Tokens.OfRole(id))
	if err != nil {
		k.queue.begun.Store(false) // the queue completes it
	}
	return err
}

package backend

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
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
		HelpDescription: "Makes a new credential at the service, proves that it works, stores it, and only then revokes the old one. Only the engine knows the new one.",
	}}
}

// rotateRoot replaces the credential of a connection.
func (b *backend) rotateRoot(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c, up, err := b.connectionOf(ctx, req, d)
	if err != nil {
		return nil, err
	}
	if !up.Provider.CanRotateRoot() {
		return nil, refusal.Field("name", "provider %q cannot rotate its credential", up.Provider.Name)
	}
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name, err := c.newName(req.MountPoint, "root", up.Provider.MaxName)
	if err != nil {
		return nil, err
	}
	warning, err := b.upstreams.Rotate(ctx, st.connections.ready(c), name)
	if refused := (*upstream.NotRotated)(nil); errors.As(err, &refused) {
		return nil, refusal.New("connection %q: the credential was not rotated: %s", c.name, refused)
	}
	if err != nil || warning == "" {
		return nil, err
	}
	resp := new(logical.Response)
	resp.AddWarning(warning)
	return resp, nil
}

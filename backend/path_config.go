package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsConfig() []*framework.Path {
	read := b.answer(b.pathConfigRead, "Read the settings of the mount.", ok(native.ConfigAnswer))
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "configuration"}
	update := b.change(b.pathConfigUpdate, "Change the settings of the mount. Omitted fields keep their values.")
	update.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "configure"}
	return []*framework.Path{path("config", "", "", native.ConfigFields,
		operations{logical.ReadOperation: read, logical.UpdateOperation: update},
		"Settings of the mount.",
		"The settings determine the format of tokens, the rotation of keys, and the privileged scopes. Every setting has a default. "+
			"token_pattern is read only: a secret scanner finds leaked tokens by this pattern.")}
}

func (b *backend) pathConfigRead(ctx context.Context, st *state, req *request, _ *input) (*response, error) {
	c, err := st.Config.Get()
	if err != nil {
		return nil, err
	}
	return members(native.ConfigAnswer, c, map[string]any{
		"environment":   c.EnvironmentOf(req.MountPoint),
		"token_pattern": token.Pattern(c.LivePrefixes(b.Now())...),
	}), nil
}

func (b *backend) pathConfigUpdate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	return warned(st.ChangeConfig(ctx, req.Storage, given[native.ConfigChange](d), req.MountPoint))
}

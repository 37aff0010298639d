package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

func (b *backend) pathsDetection() []*framework.Path {
	read := b.answer(b.pathDetectionRead, "Read the settings of the rules of misuse.", ok(detect.SettingsAnswer))
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "detection-configuration"}
	update := b.change(b.pathDetectionUpdate, "Change the settings of the rules of misuse. Omitted fields keep their values.")
	update.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "configure", OperationSuffix: "detection"}
	return []*framework.Path{path("config/detection", "", "", detect.SettingsFields,
		operations{logical.ReadOperation: read, logical.UpdateOperation: update},
		"Settings of the rules that find misuse of tokens.",
		"Each rule is off or on, or suspends or revokes the grant of the token that it finds. Each threshold has a default, with its "+
			"source in docs/insight.md. The findings are in \"findings\".")}
}

func (b *backend) pathDetectionRead(_ context.Context, _ *state, _ *request, _ *input) (*response, error) {
	return members(detect.SettingsAnswer, b.Detect.Settings().Members(), map[string]any{"unavailable": b.Unavailable()}), nil
}

func (b *backend) pathDetectionUpdate(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return warned(b.Detect.Change(ctx, req.Storage, detect.NewChange(d.GetOk)))
}

package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
)

func (b *backend) pathsFeed() []*framework.Path {
	return []*framework.Path{path("feed", "read", "feed", mount.FeedFields,
		only(logical.ReadOperation, forward(b.answer(b.pathFeedRead, "Read what has changed of issued tokens.", ok(mount.FeedAnswer)))),
		"What has changed of issued tokens, for verifiers that keep the answers of introspect.",
		"A verifier polls the feed once a second. An event says that a grant was revoked, suspended or resumed or expires "+
			"earlier, that a role was changed or deleted, that a key was destroyed, or that a Vault entity was suspended or resumed: "+
			"the verifier then drops the answers about such tokens. "+
			fmt.Sprintf("The feed is in memory and holds the last %d events.", feed.Capacity))}
}

func (b *backend) pathFeedRead(_ context.Context, _ *state, _ *request, d *input) (*response, error) {
	data, err := b.ReadFeed(given[mount.FeedRequest](d))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: data}, nil
}

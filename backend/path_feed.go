package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// maxFeedPage is the maximum number of events in an answer.
const maxFeedPage = 10_000

// feedAnswer are the members of the answer of feed.
var feedAnswer = fields{
	"epoch":  must(str("Epoch of the feed. A restart or a failover begins a new epoch.")),
	"cursor": must(num64("Position after the returned events, for the next request.")),
	"events": must(slice("Events in order, each with type (grant, role, key or subject) and id (of the grant, the key or the " +
		"Vault entity; the name of the role). The event of a grant has until: when the tokens of the grant would have expired.")),
	"more": must(flag("Whether there are more events.")),
	"resync": must(flag("Whether events may be missing, since the feed does not know the epoch or the cursor of the request. " +
		"Every kept answer may then be wrong.")),
}

func (b *backend) pathsFeed() []*framework.Path {
	return []*framework.Path{path("feed", "read", "feed", fields{
		"epoch":  query(str("Epoch of the last answer. Default: none; the answer then has only the end of the feed.")),
		"cursor": query(num64("Cursor of the last answer. Default: 0.")),
		"limit":  query(num(fmt.Sprintf("Maximum number of events to return, at most %d. Default: %[1]d.", maxFeedPage))),
	},
		only(logical.ReadOperation, forward(b.answer(b.pathFeedRead, "Read what has changed of issued tokens.", ok(feedAnswer)))),
		"What has changed of issued tokens, for verifiers that keep the answers of introspect.",
		"A verifier polls the feed once a second. An event says that a grant was revoked, suspended or resumed or expires "+
			"earlier, that a role was changed or deleted, that a key was destroyed, or that a Vault entity was suspended or resumed: "+
			"the verifier then drops the answers about such tokens. "+
			fmt.Sprintf("The feed is in memory and holds the last %d events.", feed.Capacity))}
}

func (b *backend) pathFeedRead(_ context.Context, st *state, _ *request, d *input) (*response, error) {
	limit := maxFeedPage
	if asked, given := d.GetOk("limit"); given {
		limit = asked.(int)
	}
	if limit < 1 || limit > maxFeedPage {
		return nil, refusal.Field("limit", "must be between 1 and %d", maxFeedPage)
	}
	cursor := d.Get("cursor").(int64)
	if cursor < 0 {
		return nil, refusal.Field("cursor", "must not be negative")
	}
	from := feed.Position{Epoch: d.Get("epoch").(string), Cursor: uint64(cursor)}
	events, next, more, known := st.Feed.After(from, limit)
	b.NoteFeedRead(from, known)
	listed := make([]any, len(events))
	for i, e := range events {
		listed[i] = e.Members()
	}
	data := map[string]any{"events": listed, "more": more, "resync": !known && from.Epoch != ""}
	setPosition(data, next)
	return &logical.Response{Data: data}, nil
}

// setPosition adds a position in the feed to an answer.
func setPosition(data map[string]any, at feed.Position) {
	data["epoch"], data["cursor"] = at.Epoch, int64(at.Cursor) //nolint:gosec // no process counts 2^63 events
}

package mount

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// maxFeedPage is the maximum number of events in an answer.
const maxFeedPage = 10_000

// FeedRequest asks for the events after a position in the feed. A nil field has its default.
type FeedRequest struct {
	Epoch  *string `json:"epoch"`  // nil: no epoch, the answer has only the end of the feed
	Cursor *int64  `json:"cursor"` // nil: 0
	Limit  *int    `json:"limit"`  // nil: maxFeedPage
}

// ReadFeed returns the members of the answer to a request.
func (m *Mount) ReadFeed(q *FeedRequest) (map[string]any, error) {
	var from feed.Position
	limit := maxFeedPage
	if q.Limit != nil {
		limit = *q.Limit
	}
	if limit < 1 || limit > maxFeedPage {
		return nil, refusal.Field("limit", "must be between 1 and %d", maxFeedPage)
	}
	if q.Epoch != nil {
		from.Epoch = *q.Epoch
	}
	if q.Cursor != nil {
		cursor := *q.Cursor
		if cursor < 0 {
			return nil, refusal.Field("cursor", "must not be negative")
		}
		from.Cursor = uint64(cursor)
	}
	events, next, more, known := m.World.Feed.After(from, limit)
	m.noteFeedRead(from, known)
	listed := make([]any, len(events))
	for i, e := range events {
		listed[i] = e.Members()
	}
	data := map[string]any{"events": listed, "more": more, "resync": !known && from.Epoch != ""}
	next.AddTo(data)
	return data, nil
}

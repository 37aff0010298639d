package report

import (
	"context"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// Request is a request for a page of any report. A nil field has its default. Each report takes some of the fields.
type Request struct {
	After      *string        `json:"after"`
	Limit      *int           `json:"limit"`
	Kind       *string        `json:"kind"`
	UnusedFor  *time.Duration `json:"unused_for"`
	MaxLife    *time.Duration `json:"max_life"`
	Checks     *[]string      `json:"checks"`
	Role       *string        `json:"role"`
	WatchedFor *time.Duration `json:"watched_for"`
}

// or returns the value of a field, or the default if the field is nil.
func or[T any](field *T, otherwise T) T {
	if field == nil {
		return otherwise
	}
	return *field
}

func (q *Request) query() (Query, error) {
	if q.Kind != nil && *q.Kind == "" {
		return Query{}, refusal.Field("kind", "is empty: leave the field out, or give a kind")
	}
	return Query{After: or(q.After, ""), Limit: or(q.Limit, MaxLimit), Kind: or(q.Kind, "")}, nil
}

// Stale returns the page of View.Stale that the request asks for.
func (q *Request) Stale(_ context.Context, v *View) (*Page, error) {
	asked, err := q.query()
	if err != nil {
		return nil, err
	}
	return v.Stale(&StaleQuery{Query: asked, UnusedFor: or(q.UnusedFor, DefaultUnusedFor)})
}

// Broad returns the page of View.Broad that the request asks for.
func (q *Request) Broad(_ context.Context, v *View) (*Page, error) {
	asked, err := q.query()
	if err != nil {
		return nil, err
	}
	return v.Broad(&BroadQuery{Query: asked, MaxLife: or(q.MaxLife, DefaultMaxLife), Checks: or(q.Checks, DefaultChecks)})
}

// RightSize returns the page of View.RightSize that the request asks for.
func (q *Request) RightSize(_ context.Context, v *View) (*Page, error) {
	asked, err := q.query()
	if err != nil {
		return nil, err
	}
	return v.RightSize(&RightSizeQuery{Query: asked, Role: or(q.Role, ""), WatchedFor: or(q.WatchedFor, DefaultWatchedFor)})
}

// Orphans returns the page of View.Orphans that the request asks for.
func (q *Request) Orphans(ctx context.Context, v *View) (*Page, error) {
	asked, err := q.query()
	if err != nil {
		return nil, err
	}
	return v.Orphans(ctx, &asked)
}

// Unowned returns the page of View.Unowned that the request asks for.
func (q *Request) Unowned(_ context.Context, v *View) (*Page, error) {
	asked, err := q.query()
	if err != nil {
		return nil, err
	}
	return v.Unowned(&asked)
}

package native

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/maypok86/otter/v2"
)

const (
	// SubjectTTL is how long an answer about an entity is used: how long a token may outlive the entity that the token
	// was issued to.
	SubjectTTL = time.Minute

	// maxSubjects bounds the memory for the answers. Beyond maxSubjects, Vault is asked more often about some entities.
	maxSubjects = 100_000
)

// Subjects knows which Vault entities are disabled or deleted. Subjects asks Vault about each entity at most once in
// SubjectTTL.
type Subjects struct {
	cache  func() *otter.Cache[string, bool] // entity ID -> disabled; made on first use
	used   atomic.Bool
	lookup otter.LoaderFunc[string, bool]
}

// cacheClock is the mount's clock as the cache reads it.
type cacheClock func() time.Time

func (now cacheClock) NowNano() int64 { return now().UnixNano() }

// Tick lets the cache drop expired answers on use, so that the cache runs no goroutine.
func (now cacheClock) Tick(time.Duration) <-chan time.Time { return nil }

// NewSubjects makes a Subjects that asks Vault by entityInfo.
func NewSubjects(now func() time.Time, entityInfo func(id string) (*logical.Entity, error)) *Subjects {
	return &Subjects{
		cache: sync.OnceValue(func() *otter.Cache[string, bool] {
			return otter.Must(&otter.Options[string, bool]{
				MaximumSize:      maxSubjects,
				ExpiryCalculator: otter.ExpiryWriting[string, bool](SubjectTTL),
				Clock:            cacheClock(now),
			})
		}),
		lookup: func(_ context.Context, id string) (bool, error) {
			entity, err := entityInfo(id)
			if err != nil {
				return false, err
			}
			return entity == nil || entity.Disabled, nil
		},
	}
}

// Disabled reports whether an entity is disabled or deleted, as of SubjectTTL ago at most. The empty ID is no entity,
// and never disabled.
func (s *Subjects) Disabled(ctx context.Context, id string) (bool, error) {
	if id == "" {
		return false, nil
	}
	s.used.Store(true)
	return s.cache().Get(ctx, id, s.lookup)
}

// DisabledNow is Disabled for what cannot be undone: before it reports true, it asks Vault again.
func (s *Subjects) DisabledNow(ctx context.Context, id string) (bool, error) {
	if disabled, err := s.Disabled(ctx, id); err != nil || !disabled {
		return false, err
	}
	disabled, err := s.lookup(ctx, id)
	if err == nil {
		s.cache().Set(id, disabled)
	}
	return disabled, err
}

// Close stops the goroutines of the cache.
func (s *Subjects) Close() {
	if s.used.Load() {
		s.cache().StopAllGoroutines()
	}
}

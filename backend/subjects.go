package backend

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/maypok86/otter/v2"
)

const (
	// subjectTTL is how long an answer about an entity is used: how long a token may outlive the service
	// that it was issued to.
	subjectTTL = time.Minute

	// maxSubjects bounds the memory for them; beyond it some are asked for more often.
	maxSubjects = 100_000
)

// subjects knows which Vault entities are disabled or gone. Vault is asked at most once a minute for
// each.
type subjects struct {
	cache  func() *otter.Cache[string, bool] // entity id -> disabled; made when it is first needed
	used   atomic.Bool
	lookup otter.LoaderFunc[string, bool]
}

// cacheClock is the mount's clock as the cache asks it.
type cacheClock func() time.Time

func (now cacheClock) NowNano() int64 { return now().UnixNano() }

// Tick has the cache drop what has run out when it is next used, and run no goroutine.
func (now cacheClock) Tick(time.Duration) <-chan time.Time { return nil }

func newSubjects(now func() time.Time, entityInfo func(id string) (*logical.Entity, error)) *subjects {
	return &subjects{
		cache: sync.OnceValue(func() *otter.Cache[string, bool] {
			return otter.Must(&otter.Options[string, bool]{
				MaximumSize:      maxSubjects,
				ExpiryCalculator: otter.ExpiryWriting[string, bool](subjectTTL),
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

// disabled tells whether an entity is disabled or gone. There is nothing to disable where there is no
// entity.
func (s *subjects) disabled(ctx context.Context, id string) (bool, error) {
	if id == "" {
		return false, nil
	}
	s.used.Store(true)
	return s.cache().Get(ctx, id, s.lookup)
}

// left is disabled for what cannot be undone: Vault is asked again where the answer is yes, which may be a minute old.
func (s *subjects) left(ctx context.Context, id string) (bool, error) {
	if disabled, err := s.disabled(ctx, id); err != nil || !disabled {
		return false, err
	}
	disabled, err := s.lookup(ctx, id)
	if err == nil {
		s.cache().Set(id, disabled)
	}
	return disabled, err
}

// close ends the goroutine of the cache.
func (s *subjects) close() {
	if s.used.Load() {
		s.cache().StopAllGoroutines()
	}
}

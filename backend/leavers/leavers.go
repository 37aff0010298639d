// Package leavers revokes the tokens of Vault entities that were disabled or deleted.
package leavers

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

const (
	// interval is the time between two runs.
	interval = time.Second

	// maxPace is the maximum number of entities checked in a run. A round over more entities than fit into a
	// minute takes longer: 400 s for 100,000.
	maxPace = 250
)

// Config has the dependencies of Leavers. All fields are required.
type Config struct {
	Now      func() time.Time
	Log      func() hclog.Logger
	Disabled func(ctx context.Context, entity string) (bool, error) // whether Vault reports an entity as disabled or deleted
	Holdings Holdings
}

// Leavers revokes the tokens of entities that Vault reports as disabled or deleted. Introspection checks entities by
// itself; upstream services and offline verifiers of JWTs learn only by a revocation. Leavers checks every entity with
// such tokens once a round. The checks of a round are spread over a minute, or over longer if the pace requires. A revoked
// token stays revoked after the entity is enabled again.
type Leavers struct {
	*worker.Worker
	Config

	began time.Time // beginning of this round
	left  []string  // entities not yet checked in this round
	pace  int       // entities to check in a run
}

// Holdings are the tokens of a mount that stay valid outside the engine until revoked.
type Holdings interface {
	// Entities returns the entities that hold tokens, each once; nil if this node is not the active node.
	Entities(ctx context.Context) ([]string, error)

	// Revoke revokes all tokens that entities hold, and returns the number of revoked tokens. The entities still hold
	// the tokens that Revoke failed to revoke.
	Revoke(ctx context.Context, entities map[string]bool) (tokens int, _ error)
}

// New returns the worker of a mount. The caller starts the worker with Run.
func New(c Config) *Leavers { return &Leavers{Worker: worker.New(), Config: c} }

// Run checks the next entities of the round, and returns when to run again.
func (l *Leavers) Run(ctx context.Context) time.Duration {
	if len(l.left) == 0 {
		if wait := l.began.Add(native.SubjectTTL).Sub(l.Now()); wait > 0 && wait <= native.SubjectTTL {
			return wait
		}
		if err := l.begin(ctx); err != nil {
			l.Log().Warn("entities not listed, retried", "error", err)
			return interval
		}
		if len(l.left) == 0 {
			return native.SubjectTTL
		}
	}
	n := min(l.pace, len(l.left))
	gone := make(map[string]bool)
	for _, entity := range l.left[:n] {
		disabled, err := l.Disabled(ctx, entity)
		switch {
		case ctx.Err() != nil:
			return interval
		case err != nil: // an error proves nothing about the entity
			l.Log().Warn("entity not checked, retried", "entity_id", entity, "error", err)
		case disabled:
			gone[entity] = true
		}
	}
	l.left = l.left[n:]
	if len(gone) > 0 {
		tokens, err := l.Holdings.Revoke(ctx, gone)
		if tokens > 0 {
			l.Log().Info("tokens of disabled or deleted entities revoked", "entities", len(gone), "tokens", tokens)
		}
		if err != nil {
			l.Log().Warn("tokens of disabled or deleted entities not revoked, retried", "entities", len(gone), "error", err)
		}
	}
	return interval
}

// begin begins a round.
func (l *Leavers) begin(ctx context.Context) error {
	entities, err := l.Holdings.Entities(ctx)
	if err != nil {
		return err
	}
	slices.Sort(entities)
	l.left, l.began = entities, l.Now()
	looks := int(native.SubjectTTL / interval)
	l.pace = min(maxPace, (len(l.left)+looks-1)/looks)
	return nil
}

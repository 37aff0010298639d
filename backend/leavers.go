package backend

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/worker"
)

const (
	// leaverInterval is the time between two runs of leavers.
	leaverInterval = time.Second

	// maxLeaverPace is the maximum number of entities checked in a run. A round over more entities than fit into a
	// minute takes longer: 400 s for 100,000.
	maxLeaverPace = 250
)

// leavers revokes the tokens of entities that Vault reports as disabled or deleted. Introspection checks entities by
// itself; upstream services and offline verifiers of JWTs learn only by a revocation. leavers checks every entity with
// such tokens once a round. The checks of a round are spread over a minute, or over longer if the pace requires. A revoked
// token stays revoked after the entity is enabled again.
type leavers struct {
	*worker.Worker
	now      func() time.Time
	log      func() hclog.Logger
	disabled func(ctx context.Context, entity string) (bool, error)
	holdings holdings

	began time.Time // beginning of this round
	left  []string  // entities not yet checked in this round
	pace  int       // entities to check in a run
}

// holdings are the tokens of a mount that stay valid outside the engine until revoked.
type holdings interface {
	// entities returns the entities that hold tokens, each once; nil if this node is not the active node.
	entities(ctx context.Context) ([]string, error)

	// revoke revokes all tokens that entities hold, and returns the number of revoked tokens. The entities still hold
	// the tokens that revoke failed to revoke.
	revoke(ctx context.Context, entities map[string]bool) (tokens int, _ error)
}

func newLeavers(now func() time.Time, log func() hclog.Logger, disabled func(context.Context, string) (bool, error), h holdings) *leavers {
	return &leavers{Worker: worker.New(), now: now, log: log, disabled: disabled, holdings: h}
}

// run checks the next entities of the round, and returns when to run again.
func (l *leavers) run(ctx context.Context) time.Duration {
	if len(l.left) == 0 {
		if wait := l.began.Add(native.SubjectTTL).Sub(l.now()); wait > 0 && wait <= native.SubjectTTL {
			return wait
		}
		if err := l.begin(ctx); err != nil {
			l.log().Warn("entities not listed, retried", "error", err)
			return leaverInterval
		}
		if len(l.left) == 0 {
			return native.SubjectTTL
		}
	}
	n := min(l.pace, len(l.left))
	gone := make(map[string]bool)
	for _, entity := range l.left[:n] {
		disabled, err := l.disabled(ctx, entity)
		switch {
		case ctx.Err() != nil:
			return leaverInterval
		case err != nil: // an error proves nothing about the entity
			l.log().Warn("entity not checked, retried", "entity_id", entity, "error", err)
		case disabled:
			gone[entity] = true
		}
	}
	l.left = l.left[n:]
	if len(gone) > 0 {
		tokens, err := l.holdings.revoke(ctx, gone)
		if tokens > 0 {
			l.log().Info("tokens of disabled or deleted entities revoked", "entities", len(gone), "tokens", tokens)
		}
		if err != nil {
			l.log().Warn("tokens of disabled or deleted entities not revoked, retried", "entities", len(gone), "error", err)
		}
	}
	return leaverInterval
}

// begin begins a round.
func (l *leavers) begin(ctx context.Context) error {
	entities, err := l.holdings.entities(ctx)
	if err != nil {
		return err
	}
	slices.Sort(entities)
	l.left, l.began = entities, l.now()
	looks := int(native.SubjectTTL / leaverInterval)
	l.pace = min(maxLeaverPace, (len(l.left)+looks-1)/looks)
	return nil
}

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
	// leaverInterval is the time between two looks of leavers.
	leaverInterval = time.Second

	// maxLeaverPace is how many entities Vault is asked about in a look. With more of them than a minute has room
	// for, a round takes longer: 400 s for 100,000.
	maxLeaverPace = 250
)

// leavers revokes the tokens that entities hold once Vault says that an entity is disabled or deleted. Introspection
// finds that out by itself; services and those who verify JWTs offline have to be told. It looks at every entity
// that holds such tokens once in a round. A round takes a minute, over which it is spread, or as long as the pace
// needs. What it revokes stays revoked when the entity is enabled again.
type leavers struct {
	*worker.Worker
	now      func() time.Time
	log      func() hclog.Logger
	disabled func(ctx context.Context, entity string) (bool, error) // as of now where it is
	holdings holdings

	began time.Time // this round
	left  []string  // the entities of this round that are to be looked at yet
	pace  int       // how many of them in a look
}

// holdings are the tokens that do not end by introspection alone.
type holdings interface {
	// entities returns each that holds tokens once; nil where this node is not the active one.
	entities(ctx context.Context) ([]string, error)

	// revoke revokes all tokens that entities hold. What it could not revoke they still hold.
	revoke(ctx context.Context, entities map[string]bool) (tokens int, _ error)
}

func newLeavers(now func() time.Time, log func() hclog.Logger, disabled func(context.Context, string) (bool, error), h holdings) *leavers {
	return &leavers{Worker: worker.New(), now: now, log: log, disabled: disabled, holdings: h}
}

// run looks at some entities.
func (l *leavers) run(ctx context.Context) time.Duration {
	if len(l.left) == 0 {
		if wait := l.began.Add(native.SubjectTTL).Sub(l.now()); wait > 0 && wait <= native.SubjectTTL {
			return wait
		}
		if err := l.begin(ctx); err != nil {
			l.log().Warn("entities of live tokens not looked at, retried", "error", err)
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
		case err != nil: // which says nothing of the entity
			l.log().Warn("entity not looked at, retried", "entity_id", entity, "error", err)
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

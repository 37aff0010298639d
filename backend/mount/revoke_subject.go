package mount

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	// maxOfSubject is the maximum number of tokens that one request revokes: a write each, well within Vault's time limit.
	maxOfSubject = 10_000

	// revokers is the number of parallel revocations of a request.
	revokers = 16
)

// RevokeSubject revokes all tokens of a Vault entity (OWASP ASVS 5.0, 7.4.5), and returns the number of revoked grants and
// tokens. The warnings name what may be alive: a request revokes at most maxOfSubject tokens.
func (m *Mount) RevokeSubject(ctx context.Context, s logical.Storage, st *State, entity string) (revoked int, warnings []string, _ error) {
	if entity == "" {
		return 0, nil, refusal.Field("subject", "is empty: give the ID of a Vault entity")
	}
	if err := refusal.CheckLen("subject", entity, role.MaxNameLen); err != nil {
		return 0, nil, err
	}
	defer m.Statics.Wake()
	kept, failed := m.Statics.RevokeOf(ctx, map[string]bool{entity: true})
	revoked += kept
	for _, e := range st.Statics.All() {
		if e.EntityID == entity {
			warnings = append(warnings, fmt.Sprintf("static role %q makes a new token for the entity, unless the entity is disabled in "+
				"Vault: disable the entity, or delete the static role", e.Name()))
		}
	}
	native, services, more := st.heldBy(entity)
	done, err := inParallel(ctx, native, func(ctx context.Context, id token.ID) error {
		_, err := st.RevokeID(ctx, s, id)
		return err
	})
	revoked, failed = revoked+done, errors.Join(failed, err)

	var mu sync.Mutex
	done, err = inParallel(ctx, services, func(ctx context.Context, id token.ID) error {
		warned, err := m.revokeUpstream(ctx, id)
		mu.Lock()
		defer mu.Unlock()
		if len(warnings) < MaxPage {
			warnings = append(warnings, warned...)
		}
		return err
	})
	revoked, failed = revoked+done, errors.Join(failed, err)
	if more {
		warnings = append(warnings, fmt.Sprintf("the entity has more tokens: repeat the request, which revokes at most %d tokens", maxOfSubject))
	}
	if n := len(st.Inventory.Damaged()) + len(st.Statics.Damaged()) + len(st.Upstreams.Damaged()); n > 0 {
		warnings = append(warnings, fmt.Sprintf("%d stored entries cannot be read, and may have tokens of the entity: see broken, and "+
			"suspend the subject, which also stops native tokens that are in no list", n))
	}
	for _, r := range st.Roles.All() {
		if r.NoLease && r.Connection == "" {
			warnings = append(warnings, fmt.Sprintf("JWTs without a lease cannot be revoked by subject, and live for at most %s: role %q "+
				"and others may have issued such JWTs to the entity", refusal.Short(role.MaxLeaselessTTL), r.Name()))
			break
		}
	}
	m.Counters.Revoked(metrics.BySubject, revoked)
	if revoked == 0 && failed == nil {
		warnings = append(warnings, m.noEntity(entity)...)
	}
	return revoked, warnings, failed
}

// heldBy returns the grants and the tokens of services of an entity that are not revoked, at most maxOfSubject together. A
// grant that has expired by the clock of this node is included, since the clock of another node may differ.
func (st *State) heldBy(entity string) (native, services []token.ID, more bool) {
	services = st.Upstreams.OfSubject(entity)
	if len(services) > maxOfSubject {
		return nil, services[:maxOfSubject], true
	}
	for row := range st.Inventory.OfSubject(entity) {
		if d, known := st.Deviations.Get(row.ID); known && d.Revoked {
			continue
		}
		switch r := st.Roles.ByID(row.RoleID); {
		case r != nil && r.Connection != "":
			continue
		case r == nil && st.Roles.BrokenID(row.RoleID) == nil:
			continue // the tokens of a deleted role are revoked
		case r == nil: // a role that cannot be read may come back
			if _, isUpstream := st.Upstreams.Get(row.ID); isUpstream {
				continue
			}
		}
		if len(native)+len(services) == maxOfSubject {
			return native, services, true
		}
		native = append(native, row.ID)
	}
	return native, services, false
}

// inParallel calls do for each ID, and returns the number of calls without an error, and one error that stands for all.
func inParallel(ctx context.Context, ids []token.ID, do func(context.Context, token.ID) error) (done int, failed error) {
	var succeeded atomic.Int64
	var group errgroup.Group
	group.SetLimit(revokers)
	for _, id := range ids {
		group.Go(func() error {
			err := do(ctx, id)
			if err == nil {
				succeeded.Add(1)
			}
			return err
		})
	}
	failed = group.Wait()
	return int(succeeded.Load()), failed
}

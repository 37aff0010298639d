package native

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// StatusURI returns where a status list is published.
func (c *Config) StatusURI(list uint32) string {
	return c.Issuer + "/oauth/status/" + strconv.FormatUint(uint64(list), 10)
}

// statusListLifetime returns how long a status list is valid: longer than the copies that caches hand on to caches.
func (c *Config) statusListLifetime() time.Duration { return 3 * c.StatusListTTL }

// StatusLists keeps the status lists of a mount as they are served. A list is made anew when a revocation, a suspension, a
// new key or other settings have changed the list, or when verifiers that cache the list would soon hold a list that is too old.
type StatusLists struct {
	mu     sync.Mutex
	served map[uint32]*servedList // number -> list
}

type servedList struct {
	body     []byte
	revision uint64
	ledger   *ledger.Deviations
	ring     *token.SigningRing
	config   *Config
	builtAt  time.Time
}

// Get returns a status list as a signed JWT (draft-ietf-oauth-status-list section 5.1).
func (l *StatusLists) Get(ctx context.Context, s logical.Storage, t *Tokens, c *Config, number uint32) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := t.Now()
	// The revision is read before the list, so that the next request makes up for a change in between.
	fresh := &servedList{revision: t.statusRevision(number), ledger: t.Deviations, ring: t.Signing.Ring(), config: c, builtAt: now}
	if old := l.served[number]; old != nil && old.revision == fresh.revision && old.ledger == fresh.ledger &&
		old.ring == fresh.ring && old.config == c && now.Sub(old.builtAt) < c.StatusListTTL {
		return old.body, nil
	}
	payload, err := t.statusPayload(c, number, now)
	if err != nil {
		return nil, err
	}
	err = t.Signing.Sign(ctx, s, c.SigningAlgorithm, c.statusListLifetime(), func(ring *token.SigningRing) error {
		signed, err := ring.Sign(token.TypeStatusList, payload)
		fresh.body = []byte(signed)
		return err
	})
	if err != nil {
		return nil, err
	}
	if l.served == nil {
		l.served = make(map[uint32]*servedList)
	}
	l.served[number] = fresh
	for n := range l.served {
		if !t.StatusIndexes.Has(n) {
			delete(l.served, n)
		}
	}
	return fresh.body, nil
}

func (t *Tokens) statusPayload(c *Config, number uint32, now time.Time) ([]byte, error) {
	for _, damaged := range []map[string]error{t.Deviations.Damaged(), t.Suspensions.Damaged()} {
		for key, err := range damaged { // a list without the revocations or suspensions of that entry would revive tokens
			return nil, fmt.Errorf("the stored entry %s cannot be read: %w", key, err)
		}
	}
	lst, bits, err := token.EncodeStatusList(ledger.ListSize, t.revokedIn(number), t.suspendedIn(number))
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"sub": c.StatusURI(number),
		"iat": now.Unix(),
		"exp": now.Add(c.statusListLifetime()).Unix(),
		"ttl": int64(c.StatusListTTL.Seconds()),
		"status_list": map[string]any{
			"bits":            bits,
			"lst":             lst,
			"aggregation_uri": c.Issuer + "/oauth/status",
		},
	})
}

// statusRevision changes whenever a status list may have to show something else.
func (t *Tokens) statusRevision(list uint32) uint64 {
	return t.Deviations.Revision(list) + t.DeletedRoles.Revision() + t.Suspensions.Revision()
}

// revokedIn returns the places of a status list whose tokens were revoked, or may be tokens of deleted roles.
func (t *Tokens) revokedIn(list uint32) []uint32 {
	deleted := func(id token.RoleID) bool { return t.DeletedRoles.Has(id) && t.Roles.ByID(id) == nil }
	return append(t.Deviations.RevokedIn(list), t.StatusIndexes.PlacesOf(list, deleted)...)
}

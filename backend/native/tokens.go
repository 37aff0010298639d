package native

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/geoip"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// World is what native tokens need besides storage. All fields are required.
type World struct {
	Now      func() time.Time
	Log      func() hclog.Logger
	Vault    func() Vault
	Subjects *Subjects // which Vault entities are disabled
	Limits   *role.Limits
	Feed     *feed.Feed      // tells verifiers what has changed
	Regions  *geoip.Database // regions of addresses, in the file that the config names

	// Reused is told that a refresh token of a grant was used again, and from where; empty: not known. The grant is revoked.
	Reused func(grant token.ID, role, subject, remoteAddr string)
}

// Vault is what Vault tells a mount; logical.SystemView implements it.
type Vault interface {
	role.Identities
	MaxLeaseTTL() time.Duration
}

// Tokens is what a mount has in memory of native tokens. All fields are required. A Tokens does not change, except by
// what its parts do: a reload makes a new one.
type Tokens struct {
	*World
	Config        *ConfigStore
	Sealing       *Sealing
	Signing       *Signing
	Roles         *role.Store
	Deviations    *ledger.Deviations
	Suspensions   *ledger.Suspensions
	Refreshes     *ledger.Refreshes
	StatusIndexes *ledger.StatusIndexes
	DeletedRoles  *ledger.DeletedRoles
	Inventory     *ledger.Inventory
}

// Life returns what is known of a token of a grant that expires at ownEnd by itself. Life does not look up whether the
// subject is disabled. An empty subject is none.
func (t *Tokens) Life(id, grant token.ID, subject string, roleID token.RoleID, ownEnd time.Time) access.State {
	life := access.State{
		ExpiresAt: ownEnd, RoleDeleted: t.Roles.ByID(roleID) == nil,
		Suspended: t.IsSuspended(grant, subject),
	}
	if d, ok := t.Deviations.Get(id); ok {
		life.ExpiresAt = time.Unix(d.ExpiresAt, 0)
		life.Revoked = d.Revoked
	}
	if grant == id {
		return life
	}
	if d, ok := t.Deviations.Get(grant); ok {
		life.Revoked = life.Revoked || d.Revoked
		if end := time.Unix(d.ExpiresAt, 0); end.Before(life.ExpiresAt) {
			life.ExpiresAt = end
		}
	}
	return life
}

// Unreadable returns an error if the state of a token is not known, since storage holds something of the token that
// cannot be read.
func (t *Tokens) Unreadable(id, grant token.ID, subject string, roleID token.RoleID) error {
	return cmp.Or(t.Roles.BrokenID(roleID), t.Deviations.Unreadable(id), t.Deviations.Unreadable(grant),
		t.Suspensions.Unreadable(grant, subject))
}

// RowLife returns the life of a grant of the inventory. A grant whose key was destroyed is revoked, unless the grant was
// refreshed with another key.
func (t *Tokens) RowLife(row *ledger.Row, destroyed map[string]time.Time) access.State {
	life := t.Life(row.ID, row.ID, row.Subject, row.RoleID, row.ExpiresAt)
	if retiredAt, gone := destroyed[row.Key]; gone {
		last, refreshed := t.Refreshes.Get(row.ID)
		life.Revoked = life.Revoked || !refreshed || retiredAt.IsZero() || time.UnixMilli(last.At).Before(retiredAt)
	}
	return life
}

// DestroyedKeys returns the names of the keys that were destroyed, each with the time when the key retired.
func (t *Tokens) DestroyedKeys() map[string]time.Time {
	var destroyed map[string]time.Time
	for _, keys := range []token.Keys{t.Sealing.Keys(), t.Signing.Keys()} {
		for i := range keys {
			if keys[i].Destroyed {
				if destroyed == nil {
					destroyed = make(map[string]time.Time)
				}
				destroyed[keys[i].Name] = keys[i].RetiredAt
			}
		}
	}
	return destroyed
}

// KeysLongestLifetime returns how long a token may live at most that was made with a key that this process knows.
func (t *Tokens) KeysLongestLifetime() time.Duration {
	return max(t.Sealing.LongestLifetime(), t.Signing.LongestLifetime())
}

// LongestLifetime returns how long a live token may live at most, renewals included. The keys alone do not suffice: a
// process that is behind does not know what other processes made with them.
func (t *Tokens) LongestLifetime() time.Duration {
	return max(t.KeysLongestLifetime(), t.Vault().MaxLeaseTTL(), role.MaxLeaselessTTL)
}

// LongestOf returns how long a token of a role may live that was issued up to now, also by a process whose keys this
// process does not know.
func (t *Tokens) LongestOf(e *role.Entry) time.Duration {
	longest := t.Vault().MaxLeaseTTL()
	if e.MaxTTL > 0 {
		longest = min(longest, e.MaxTTL)
	}
	return max(longest, t.KeysLongestLifetime()) + ledger.ClockSkew
}

// Maintain does what is due for the keys: it rotates those that are old and drops those that are no longer needed.
func (t *Tokens) Maintain(ctx context.Context, s logical.Storage) error {
	c, err := t.Config.Get()
	if err != nil {
		return err
	}
	rotated, err := t.Sealing.Maintain(ctx, s, c.KeyRotationPeriod)
	if rotated && err == nil {
		t.Log().Info("sealing key rotated", "key", t.Sealing.Keys().Current().Name)
	}
	signingRotated, signingErr := t.Signing.Maintain(ctx, s, c.SigningPolicy())
	if signingRotated && signingErr == nil {
		t.Log().Info("signing key rotated", "key", t.Signing.Keys().Current().Name)
	}
	return errors.Join(err, signingErr)
}

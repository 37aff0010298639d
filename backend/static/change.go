package static

import (
	"time"

	"github.com/hashicorp/vault/sdk/rotation"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

// Limits of a static role.
const (
	minRotationPeriod = 5 * time.Second
	maxRotationPeriod = 5 * 365 * 24 * time.Hour
	minRotationWindow = time.Hour
)

// Change is a request to write a static role. A nil field keeps its value.
type Change struct {
	MountPoint       string         // current path of the mount; required
	Role             *string        `json:"role"`
	EntityID         *string        `json:"entity_id"`
	RotationPeriod   *time.Duration `json:"rotation_period"`
	RotationSchedule *string        `json:"rotation_schedule"`
	RotationWindow   *time.Duration `json:"rotation_window"`
	Overlap          *time.Duration `json:"overlap"`
	Description      *string        `json:"description"`
	Owner            *string        `json:"owner"`
	ReviewBy         *string        `json:"review_by"`
}

// change applies a request, and rejects an invalid static role.
func (e *Entry) change(c *Change, roles *role.Store, now time.Time) error {
	e.MountPoint = c.MountPoint // the mount may have been moved
	if err := e.changeRole(c, roles); err != nil {
		return err
	}
	if err := e.changeRotation(c); err != nil {
		return err
	}
	store.Set(&e.Overlap, c.Overlap)
	if err := e.checkOverlap(now); err != nil {
		return err
	}
	store.Set(&e.Description, c.Description)
	if err := e.Set(c.Owner, c.ReviewBy); err != nil {
		return err
	}
	return refusal.CheckLen("description", e.Description, role.MaxDescriptionLen)
}

// changeRole applies the role and the entity of the token.
func (e *Entry) changeRole(c *Change, roles *role.Store) error {
	if c.Role != nil && e.Role != "" && e.Role != *c.Role {
		return refusal.Field("role", "is %q and cannot be changed: make another static role", e.Role)
	}
	store.Set(&e.Role, c.Role)
	if e.Role == "" {
		return refusal.Field("role", "is needed: the role of the token")
	}
	r := roles.Get(e.Role)
	switch err := roles.Broken(e.Role); {
	case err != nil:
		return refusal.Field("role", "%s", err)
	case r == nil:
		return refusal.Field("role", "there is no role %q", refusal.Clip(e.Role))
	case r.TokenFormat == role.FormatJWT || r.Refresh || r.Proof != "":
		return refusal.Field("role", "role %q has JWTs, refresh or proof, which a static role cannot have", r.Name())
	}
	store.Set(&e.EntityID, c.EntityID)
	if err := refusal.CheckLen("entity_id", e.EntityID, role.MaxNameLen); err != nil {
		return err
	}
	if r.HasTemplates() && e.EntityID == "" {
		return refusal.Field("role", "role %q has identity templates, and the static role has no entity: set entity_id", r.Name())
	}
	return nil
}

// changeRotation applies the times of the rotations.
func (e *Entry) changeRotation(c *Change) error {
	if c.RotationPeriod != nil && c.RotationSchedule != nil {
		return refusal.Field("rotation_period", "give rotation_period or rotation_schedule, not both")
	}
	if c.RotationPeriod != nil {
		e.Period, e.Schedule, e.Window = *c.RotationPeriod, "", 0
		if e.Period < minRotationPeriod || e.Period > maxRotationPeriod {
			return refusal.Field("rotation_period", "%s is not between %s and %s", refusal.Short(e.Period), refusal.Short(minRotationPeriod), refusal.Short(maxRotationPeriod))
		}
	}
	if c.RotationSchedule != nil {
		e.Period, e.Schedule = 0, *c.RotationSchedule
		if _, err := new(rotation.DefaultSchedule).Parse(e.Schedule); err != nil {
			return refusal.Field("rotation_schedule", "%q is no cron schedule such as \"0 3 * * SAT\": %s", refusal.Clip(e.Schedule), err)
		}
	}
	if e.Period == 0 && e.Schedule == "" {
		return refusal.Field("rotation_period", "is needed, or rotation_schedule: the times of the rotations")
	}
	if c.RotationWindow != nil {
		e.Window = *c.RotationWindow
		if e.Schedule == "" {
			return refusal.Field("rotation_window", "requires rotation_schedule")
		}
		if e.Window != 0 && e.Window < minRotationWindow {
			return refusal.Field("rotation_window", "%s is less than %s", refusal.Short(e.Window), refusal.Short(minRotationWindow))
		}
	}
	return nil
}

// checkOverlap rejects an overlap that would let more than two tokens work at a time.
func (e *Entry) checkOverlap(now time.Time) error {
	if e.Period > 0 && e.Overlap > e.Period {
		return refusal.Field("overlap", "%s is more than rotation_period, which is %s: there would be more than two tokens", refusal.Short(e.Overlap), refusal.Short(e.Period))
	}
	if e.Schedule != "" {
		if between, err := e.between(now); err != nil || e.Overlap > between {
			return refusal.Field("overlap", "%s is more than the %s between two times of rotation_schedule: there would be more than two tokens", refusal.Short(e.Overlap), refusal.Short(between))
		}
	}
	return nil
}

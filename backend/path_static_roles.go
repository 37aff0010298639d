package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

const (
	minRotationPeriod = 5 * time.Second
	minRotationWindow = time.Hour
	maxRotationPeriod = 5 * 365 * 24 * time.Hour
)

func (b *backend) pathsStaticRoles() []*framework.Path {
	fields := map[string]*framework.FieldSchema{
		"name": {Type: framework.TypeString, Required: true, Description: "Name of the static role."},
		"role": {
			Type:         framework.TypeString,
			Description:  "Role whose token is kept: a role of opaque tokens without refresh and proof, or a role with a connection. It cannot be changed.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Role"},
		},
		"rotation_period": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a token is kept, at least 5s. Give rotation_period or rotation_schedule.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation period"},
		},
		"rotation_schedule": {
			Type:         framework.TypeString,
			Description:  "When the token is rotated, in cron syntax, in UTC: \"0 3 * * SAT\" is Saturdays at three.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation schedule"},
		},
		"rotation_window": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long after a time of rotation_schedule a rotation may still begin, at least 1h. Default: any time.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation window"},
		},
		"overlap": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long the previous token still works after a rotation. Default: 0.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Overlap"},
		},
		"entity_id": {
			Type:         framework.TypeString,
			Description:  "Vault entity that the token is for: once the entity is disabled or deleted, the token is revoked and not replaced. Default: none.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Entity ID"},
		},
		"description": {
			Type:         framework.TypeString,
			Description:  "What the static role is for.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Description"},
		},
	}
	return []*framework.Path{
		{
			Pattern:        "static-roles/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "static-role"},
			Fields:         fields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.statics.Has(name) }),
			Operations: kept(
				&framework.PathOperation{
					Callback: b.staticRoleRead,
					Summary:  "Read a static role.",
					Responses: ok(withTimes(map[string]*framework.FieldSchema{
						"role":        {Type: framework.TypeString, Required: true, Description: "Role whose token is kept."},
						"overlap":     {Type: framework.TypeInt, Required: true, Description: "Seconds for which the previous token still works after a rotation."},
						"entity_id":   {Type: framework.TypeString, Required: true, Description: "Vault entity that the token is for; empty: none."},
						"description": {Type: framework.TypeString, Required: true, Description: "What the static role is for."},
						"token_id":    {Type: framework.TypeString, Required: true, Description: "The token's public name."},
						"last_error":  {Type: framework.TypeString, Description: "Why the last rotation failed; absent where it succeeded."},
					})),
				},
				change(b.staticRoleWrite, "Create or change a static role; what is not given stays as it is."),
				change(b.staticRoleDelete, "Delete a static role and end its token."),
			),
			HelpSynopsis:    "A token that is kept, and rotated.",
			HelpDescription: "For clients that cannot read creds: one long-lived token of a role, which the engine replaces in time. A missed rotation is made up for once, and no token is kept longer than it lives. A revoked token is replaced at once.",
		},
		b.listPath("static-roles", func(st *state) []string { return st.statics.Names() }),
	}
}

func (b *backend) staticRoleRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	e := st.statics.Get(name)
	if e == nil {
		return unreadable(st.statics.Broken(name))
	}
	data := st.times(e, map[string]any{
		"role":        e.Role,
		"entity_id":   e.EntityID,
		"overlap":     int64(e.Overlap.Seconds()),
		"description": e.Description,
		"token_id":    e.Current.ID.String(),
	}, b.now())
	if text := b.rotator.lastError(name); text != "" {
		data["last_error"] = text
	}
	return &logical.Response{Data: data}, nil
}

// onStatic has the static role of the field name changed as f says, while nobody else changes it. f is handed what
// storage holds of it; nil where there is none.
func (b *backend) onStatic(ctx context.Context, req *logical.Request, d *framework.FieldData, f func(st *state, name string, e *staticEntry) (*logical.Response, error)) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	unlock, err := b.rotator.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	e, err := st.statics.Latest(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	return f(st, name, e)
}

func (b *backend) staticRoleWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if name := d.Get("name").(string); len(name) > role.MaxNameLen {
		return nil, refusal.Field("name", "is %d bytes long, at most %d are allowed", len(name), role.MaxNameLen)
	}
	return b.onStatic(ctx, req, d, func(st *state, name string, old *staticEntry) (*logical.Response, error) {
		entry := &staticEntry{name: name, MountPoint: req.MountPoint}
		if old != nil {
			changed := *old
			changed.MountPoint = req.MountPoint // which may have been moved
			entry = &changed
		}
		if err := entry.update(d, st); err != nil {
			return nil, err
		}
		var err error
		if old == nil {
			if err := b.dropBrokenStatic(ctx, req.Storage, st, name); err != nil { // whose tokens end
				return nil, err
			}
			err = b.rotateStatic(ctx, req.Storage, st, nil, entry)
		} else {
			err = b.staticRoleUpdate(ctx, req.Storage, st, old, entry)
		}
		b.rotator.kick()
		if isTold(err) {
			return nil, refusal.New("%w", err)
		}
		if err != nil {
			return nil, err
		}
		return st.rotatedEarly(name, b.now().UTC())
	})
}

// staticRoleUpdate stores a change of old. The rotator does what follows of it.
func (b *backend) staticRoleUpdate(ctx context.Context, s logical.Storage, st *state, old, e *staticEntry) error {
	if _, err := b.staticRole(ctx, st, e); err != nil {
		return err
	}
	if err := e.reschedule(old, b.now().UTC()); err != nil {
		return err
	}
	return b.putStatic(ctx, s, st, old, e)
}

// rotatedEarly answers a write with a warning where the token lives too short for the rotation that was asked for.
func (st *state) rotatedEarly(name string, now time.Time) (*logical.Response, error) {
	e := st.statics.Get(name)
	if e == nil || !e.Next.Equal(e.last()) {
		return nil, nil
	}
	since := e.Current.RotatedAt
	if e.Schedule != "" {
		since = now
	}
	// The life of a token is planned to allow for the rotation that was asked for, to the second or so.
	if asked, err := e.after(since); err != nil || asked.Sub(e.Next) < time.Minute {
		return nil, err
	}
	resp := new(logical.Response)
	resp.AddWarning(fmt.Sprintf("the token ends at %s by itself, so it is rotated at %s already",
		e.Current.ExpiresAt.UTC().Format(time.RFC3339), e.Next.UTC().Format(time.RFC3339)))
	return resp, nil
}

// update takes over the fields that are given, and refuses what is not allowed.
func (e *staticEntry) update(d *framework.FieldData, st *state) error {
	if v, given := d.GetOk("role"); given {
		if e.Role != "" && e.Role != v.(string) {
			return refusal.Field("role", "is %q and cannot be changed: make another static role", e.Role)
		}
		e.Role = v.(string)
	}
	if e.Role == "" {
		return refusal.Field("role", "is needed: the role whose token is kept")
	}
	r := st.roles.Get(e.Role)
	switch err := st.roles.Broken(e.Role); {
	case err != nil:
		return refusal.Field("role", "%s", err)
	case r == nil:
		return refusal.Field("role", "there is no role %q", refusal.Clip(e.Role))
	case r.Connection == "" && (r.TokenFormat != role.FormatOpaque || r.Refresh || r.Proof != ""):
		return refusal.Field("role", "role %q has JWTs, refresh or proof, which a token that is kept cannot have", r.Name())
	}
	if v, given := d.GetOk("entity_id"); given {
		if e.EntityID = v.(string); len(e.EntityID) > role.MaxNameLen {
			return refusal.Field("entity_id", "is %d bytes long, at most %d are allowed", len(e.EntityID), role.MaxNameLen)
		}
	}
	if r.Connection == "" && r.HasTemplates() && e.EntityID == "" {
		return refusal.Field("role", "role %q has identity templates, and a token that is kept is nobody's: set entity_id", r.Name())
	}

	_, periodGiven := d.GetOk("rotation_period")
	_, scheduleGiven := d.GetOk("rotation_schedule")
	if periodGiven && scheduleGiven {
		return refusal.Field("rotation_period", "give it or rotation_schedule, not both")
	}
	if periodGiven {
		e.Period, e.Schedule, e.Window = time.Duration(d.Get("rotation_period").(int))*time.Second, "", 0
		if e.Period < minRotationPeriod || e.Period > maxRotationPeriod {
			return refusal.Field("rotation_period", "%s is not between %s and %s", refusal.Short(e.Period), refusal.Short(minRotationPeriod), refusal.Short(maxRotationPeriod))
		}
	}
	if scheduleGiven {
		e.Period, e.Schedule = 0, d.Get("rotation_schedule").(string)
		if _, err := new(rotation.DefaultSchedule).Parse(e.Schedule); err != nil {
			return refusal.Field("rotation_schedule", "%q is no cron schedule such as \"0 3 * * SAT\": %s", refusal.Clip(e.Schedule), err)
		}
	}
	if e.Period == 0 && e.Schedule == "" {
		return refusal.Field("rotation_period", "is needed, or rotation_schedule: when the token is replaced")
	}
	if v, given := d.GetOk("rotation_window"); given {
		e.Window = time.Duration(v.(int)) * time.Second
		if e.Schedule == "" {
			return refusal.Field("rotation_window", "goes with rotation_schedule")
		}
		if e.Window != 0 && e.Window < minRotationWindow {
			return refusal.Field("rotation_window", "%s is less than %s", refusal.Short(e.Window), refusal.Short(minRotationWindow))
		}
	}
	if v, given := d.GetOk("overlap"); given {
		e.Overlap = time.Duration(v.(int)) * time.Second
	}
	if e.Period > 0 && e.Overlap > e.Period {
		return refusal.Field("overlap", "%s is more than rotation_period, which is %s: there would be more than two tokens", refusal.Short(e.Overlap), refusal.Short(e.Period))
	}
	if e.Schedule != "" {
		if between, err := e.between(st.now()); err != nil || e.Overlap > between {
			return refusal.Field("overlap", "%s is more than the %s between two times of rotation_schedule: there would be more than two tokens", refusal.Short(e.Overlap), refusal.Short(between))
		}
	}
	if v, given := d.GetOk("description"); given {
		if e.Description = v.(string); len(e.Description) > role.MaxDescriptionLen {
			return refusal.Field("description", "is %d bytes long, at most %d are allowed", len(e.Description), role.MaxDescriptionLen)
		}
	}
	return nil
}

func (b *backend) staticRoleDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return b.onStatic(ctx, req, d, func(st *state, name string, e *staticEntry) (*logical.Response, error) {
		if e == nil {
			return nil, b.dropBrokenStatic(ctx, req.Storage, st, name)
		}
		// Its tokens first: if this is cut short, the static role is still there, and gets another token.
		if err := b.endStatics(ctx, req.Storage, st, e); err != nil {
			return nil, err
		}
		if err := st.statics.Delete(ctx, req.Storage, name); err != nil {
			return nil, err
		}
		b.rotator.note(name, nil)
		return nil, nil
	})
}

package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"
)

const (
	minRotationPeriod = 5 * time.Second
	minRotationWindow = time.Hour
	maxRotationPeriod = 5 * 365 * 24 * time.Hour
)

func (b *backend) pathsStaticRoles() []*framework.Path {
	name := map[string]*framework.FieldSchema{
		"name": {Type: framework.TypeString, Required: true, Description: "Name of the static role."},
	}
	fields := map[string]*framework.FieldSchema{
		"name": name["name"],
		"role": {
			Type:         framework.TypeString,
			Description:  "Role whose token is kept: of the engine's own, opaque ones, or of a connection. It cannot be changed.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Role"},
		},
		"rotation_period": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long a token is kept before the next takes its place, at least 5s. Give it or rotation_schedule.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation period"},
		},
		"rotation_schedule": {
			Type:         framework.TypeString,
			Description:  "When the next token takes its place, as cron has it, in UTC: \"0 3 * * SAT\" is Saturdays at three.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation schedule"},
		},
		"rotation_window": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long after a time of rotation_schedule a rotation may still begin, at least 1h. Default: any time.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Rotation window"},
		},
		"overlap": {
			Type:         framework.TypeDurationSecond,
			Description:  "How long the token before still works after a rotation. Default: not at all.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Overlap"},
		},
		"entity_id": {
			Type:         framework.TypeString,
			Description:  "Vault entity that the token is for: once it is disabled or deleted, the token is revoked and not replaced. Default: nobody's.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Entity ID"},
		},
		"description": {
			Type:         framework.TypeString,
			Description:  "What the static role is for.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Description"},
		},
	}
	times := map[string]*framework.FieldSchema{
		"last_vault_rotation":       {Type: framework.TypeTime, Required: true, Description: "When the token was made."},
		"next_vault_rotation":       {Type: framework.TypeTime, Required: true, Description: "When the next takes its place."},
		"previous_token_expires_at": {Type: framework.TypeTime, Description: "When the token before ends; absent where it has."},
		"rotation_period":           {Type: framework.TypeInt, Required: true, Description: "Seconds; 0 where there is a schedule."},
		"rotation_schedule":         {Type: framework.TypeString, Required: true, Description: "As cron has it; empty where there is a period."},
		"rotation_window":           {Type: framework.TypeInt, Required: true, Description: "Seconds; 0: any time."},
	}
	with := func(more map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
		for name, field := range times {
			more[name] = field
		}
		return more
	}
	return []*framework.Path{
		{
			Pattern:        "static-roles/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "static-role"},
			Fields:         fields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.statics.has(name) }),
			Operations: kept(
				&framework.PathOperation{
					Callback: b.staticRoleRead,
					Summary:  "Read a static role.",
					Responses: ok(with(map[string]*framework.FieldSchema{
						"role":        {Type: framework.TypeString, Required: true, Description: "Role whose token is kept."},
						"overlap":     {Type: framework.TypeInt, Required: true, Description: "Seconds that the token before still works after a rotation."},
						"entity_id":   {Type: framework.TypeString, Required: true, Description: "Vault entity that the token is for; empty: nobody's."},
						"description": {Type: framework.TypeString, Required: true, Description: "What the static role is for."},
						"token_id":    {Type: framework.TypeString, Required: true, Description: "The token's public name."},
						"last_error":  {Type: framework.TypeString, Description: "Why the last rotation failed; absent where it did not."},
					})),
				},
				change(b.staticRoleWrite, "Create or change a static role; what is not given stays as it is."),
				change(b.staticRoleDelete, "Delete a static role and end its token."),
			),
			HelpSynopsis:    "A token that is kept, and rotated.",
			HelpDescription: "For what cannot read creds by itself: one long-lived token of a role, which the engine replaces in time. A rotation that was missed is made up for once, and no token is kept longer than it lives. A token that is revoked is replaced at once.",
		},
		b.listPath("static-roles", func(st *state) []string { return st.statics.names() }),
		{
			Pattern:      "static-creds/" + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "read", OperationSuffix: "static-credentials"},
			Fields:       name,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.staticCredsRead,
					Summary:  "Read the token of a static role.",
					Responses: ok(with(map[string]*framework.FieldSchema{
						"token":    {Type: framework.TypeString, Required: true, Description: "The token."},
						"token_id": {Type: framework.TypeString, Required: true, Description: "The token's public name, safe to log."},
						"ttl":      {Type: framework.TypeInt, Required: true, Description: "Seconds until it is rotated, or ends."},
						"name":     {Type: framework.TypeString, Description: "The token's name at the connection's service."},
						"upstream": {Type: framework.TypeMap, Description: "What that service says besides."},
					})),
				},
			},
			HelpSynopsis:    "Read the token of a static role.",
			HelpDescription: "The same token until it is rotated. It has no lease: read it again when ttl is over. A token that is revoked or has expired is not given: then the answer is an error, until the next is made. The role's request_bound_cidrs hold here as for creds.",
		},
		{
			Pattern:      "rotate-role/" + framework.GenericNameRegex("name"),
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "static-role"},
			Fields:       name,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: change(b.rotateRole, "Rotate the token of a static role now."),
			},
			HelpSynopsis:    "Rotate the token of a static role now.",
			HelpDescription: "The token before works on for the overlap; the next rotation is counted from now.",
		},
	}
}

// times tells of the rotations.
func (st *state) times(e *staticEntry, data map[string]any, now time.Time) map[string]any {
	data["last_vault_rotation"] = e.Current.RotatedAt.UTC().Format(time.RFC3339)
	data["next_vault_rotation"] = e.Next.UTC().Format(time.RFC3339)
	data["rotation_period"] = int64(e.Period.Seconds())
	data["rotation_schedule"] = e.Schedule
	data["rotation_window"] = int64(e.Window.Seconds())
	if e.Previous != nil && now.Before(e.Previous.Until) && now.Before(st.staticEnd(e.Previous)) {
		data["previous_token_expires_at"] = e.Previous.Until.UTC().Format(time.RFC3339)
	}
	return data
}

func (b *backend) staticRoleRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	e := st.statics.get(name)
	if e == nil {
		return unreadable(st.statics.broken(name))
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

func (b *backend) staticRoleWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	if len(name) > maxRoleNameLen {
		return fieldError("name", "is %d bytes long, at most %d are allowed", len(name), maxRoleNameLen), nil
	}
	unlock, err := b.rotator.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := st.statics.latest(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	entry := &staticEntry{name: name, MountPoint: req.MountPoint}
	if old != nil {
		changed := *old
		changed.MountPoint = req.MountPoint // which may have been moved
		entry = &changed
	}
	if refusal := entry.update(d, st); refusal != nil {
		return refusal, nil
	}
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
		return logical.ErrorResponse(err.Error()), nil
	}
	if err != nil {
		return nil, err
	}
	return st.rotatedEarly(name)
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
func (st *state) rotatedEarly(name string) (*logical.Response, error) {
	e := st.statics.get(name)
	if e == nil || !e.Next.Equal(e.last()) {
		return nil, nil
	}
	resp := new(logical.Response)
	resp.AddWarning(fmt.Sprintf("the token ends at %s by itself, so it is rotated at %s already",
		e.Current.ExpiresAt.UTC().Format(time.RFC3339), e.Next.UTC().Format(time.RFC3339)))
	return resp, nil
}

// update takes over the fields that are given, and refuses what is not allowed.
func (e *staticEntry) update(d *framework.FieldData, st *state) *logical.Response {
	if v, given := d.GetOk("role"); given {
		if e.Role != "" && e.Role != v.(string) {
			return fieldError("role", "is %q and cannot be changed: make another static role", e.Role)
		}
		e.Role = v.(string)
	}
	if e.Role == "" {
		return fieldError("role", "is needed: the role whose token is kept")
	}
	r := st.roles.get(e.Role)
	switch err := st.roles.broken(e.Role); {
	case err != nil:
		return fieldError("role", "%s", err)
	case r == nil:
		return fieldError("role", "there is no role %q", clip(e.Role))
	case r.Connection == "" && (r.TokenType != tokenTypeOpaque || r.Refresh || r.Proof != ""):
		return fieldError("role", "role %q has JWTs, refresh or proof, which a token that is kept cannot have", r.name)
	}
	if v, given := d.GetOk("entity_id"); given {
		if e.EntityID = v.(string); len(e.EntityID) > maxRoleNameLen {
			return fieldError("entity_id", "is %d bytes long, at most %d are allowed", len(e.EntityID), maxRoleNameLen)
		}
	}
	if r.Connection == "" && r.hasTemplates && e.EntityID == "" {
		return fieldError("role", "role %q has identity templates, and a token that is kept is nobody's: set entity_id", r.name)
	}

	_, periodGiven := d.GetOk("rotation_period")
	_, scheduleGiven := d.GetOk("rotation_schedule")
	if periodGiven && scheduleGiven {
		return fieldError("rotation_period", "give it or rotation_schedule, not both")
	}
	if periodGiven {
		e.Period, e.Schedule, e.Window = time.Duration(d.Get("rotation_period").(int))*time.Second, "", 0
		if e.Period < minRotationPeriod || e.Period > maxRotationPeriod {
			return fieldError("rotation_period", "%s is not between %s and %s", short(e.Period), short(minRotationPeriod), short(maxRotationPeriod))
		}
	}
	if scheduleGiven {
		e.Period, e.Schedule = 0, d.Get("rotation_schedule").(string)
		if _, err := new(rotation.DefaultSchedule).Parse(e.Schedule); err != nil {
			return fieldError("rotation_schedule", "%q is no cron schedule such as \"0 3 * * SAT\": %s", clip(e.Schedule), err)
		}
	}
	if e.Period == 0 && e.Schedule == "" {
		return fieldError("rotation_period", "is needed, or rotation_schedule: when the token is replaced")
	}
	if v, given := d.GetOk("rotation_window"); given {
		e.Window = time.Duration(v.(int)) * time.Second
		if e.Schedule == "" {
			return fieldError("rotation_window", "goes with rotation_schedule")
		}
		if e.Window != 0 && e.Window < minRotationWindow {
			return fieldError("rotation_window", "%s is less than %s", short(e.Window), short(minRotationWindow))
		}
	}
	if v, given := d.GetOk("overlap"); given {
		e.Overlap = time.Duration(v.(int)) * time.Second
	}
	if e.Period > 0 && e.Overlap > e.Period {
		return fieldError("overlap", "%s is more than rotation_period, which is %s: there would be more than two tokens", short(e.Overlap), short(e.Period))
	}
	if e.Schedule != "" {
		if between, err := e.between(st.now()); err != nil || e.Overlap > between {
			return fieldError("overlap", "%s is more than the %s between two times of rotation_schedule: there would be more than two tokens", short(e.Overlap), short(between))
		}
	}
	if v, given := d.GetOk("description"); given {
		if e.Description = v.(string); len(e.Description) > maxDescriptionLen {
			return fieldError("description", "is %d bytes long, at most %d are allowed", len(e.Description), maxDescriptionLen)
		}
	}
	return nil
}

func (b *backend) staticRoleDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
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
	e, err := st.statics.latest(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, b.dropBrokenStatic(ctx, req.Storage, st, name)
	}
	// Its tokens first: if this is cut short, the static role is still there, and gets another token.
	if err := b.endStatics(ctx, req.Storage, st, e); err != nil {
		return nil, err
	}
	if err := st.statics.delete(ctx, req.Storage, e); err != nil {
		return nil, err
	}
	b.rotator.note(name, nil)
	return nil, nil
}

func (b *backend) staticCredsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	e := st.statics.get(name)
	if e == nil {
		return unreadable(st.statics.broken(name))
	}
	if r := st.roles.get(e.Role); r != nil {
		if err := r.checkRequester(req.Connection); err != nil {
			return nil, logical.CodedError(http.StatusForbidden, err.Error())
		}
	}
	if reason, err := b.unusable(ctx, st, e); err != nil {
		return nil, err
	} else if reason != "" {
		b.rotator.kick()
		return logical.ErrorResponse("static role %q has no token that works: %s", name, reason), nil
	}
	now := b.now()
	data := st.times(e, map[string]any{
		"token":    e.Current.Text,
		"token_id": e.Current.ID.String(),
		"ttl":      int64(max(0, min(e.Next.Sub(now), st.staticEnd(&e.Current).Sub(now))).Seconds()),
	}, now)
	if e.Current.Name != "" {
		data["name"] = e.Current.Name
	}
	if len(e.Current.Data) > 0 {
		data["upstream"] = e.Current.Data
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) rotateRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
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
	e, err := st.statics.latest(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if err := st.statics.broken(name); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	if e == nil {
		return fieldError("name", "there is no static role %q", clip(name)), nil
	}
	err = b.rotateStatic(ctx, req.Storage, st, e, e)
	b.rotator.note(name, err)
	b.rotator.kick()
	if isTold(err) {
		return logical.ErrorResponse("static role %q was not rotated: %s", name, err), nil
	}
	return nil, err
}

// unusable says why a static role's token must not be given to anybody; "" where it works.
func (b *backend) unusable(ctx context.Context, st *state, e *staticEntry) (reason string, err error) {
	if err := st.roles.broken(e.Role); err != nil {
		return err.Error(), nil
	}
	disabled, err := b.subjects.disabled(ctx, e.EntityID)
	if err != nil {
		return "", err
	}
	if disabled {
		return fmt.Sprintf("entity_id: Vault entity %q is disabled or deleted", e.EntityID), nil
	}
	if st.works(e, b.now()) {
		return "", nil
	}
	if last := b.rotator.lastError(e.name); last != "" {
		return "it has ended, and was not rotated: " + last, nil
	}
	return "it has ended, and is being rotated: read again", nil
}

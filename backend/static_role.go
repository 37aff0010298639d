package backend

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

const (
	staticPrefix = "static-role/"

	// staticMargin is how much longer than until its rotation a token lives, for a rotation that takes some
	// tries.
	staticMargin = 24 * time.Hour
)

// staticEntry is a static role as stored, seal-wrapped. It does not change; an update makes a new one.
type staticEntry struct {
	name string

	Role        string        `json:"role"`
	EntityID    string        `json:"entity_id,omitempty"` // that the token is for; "": nobody's
	MountPoint  string        `json:"mount_point"`
	Period      time.Duration `json:"period,omitempty"`   // 0: there is a Schedule
	Schedule    string        `json:"schedule,omitempty"` // cron
	Window      time.Duration `json:"window,omitempty"`   // after a time of the Schedule in which to rotate; 0: any time
	Overlap     time.Duration `json:"overlap,omitempty"`  // for which the previous token still works
	Description string        `json:"description,omitempty"`

	Current  staticToken   `json:"current"`
	Previous *staticToken  `json:"previous,omitempty"` // works until its Until
	Ended    []staticToken `json:"ended,omitempty"`    // to be revoked; what is revoked goes with the next rotation
	Next     time.Time     `json:"next"`               // rotation
}

// staticToken is a token of a static role.
type staticToken struct {
	ID        token.ID       `json:"id"`
	Text      string         `json:"text,omitempty"` // of Current only
	RoleID    token.RoleID   `json:"role_id"`
	Version   uint32         `json:"version"`        // of the role
	Key       string         `json:"key,omitempty"`  // that sealed it; of the engine's own
	Upstream  bool           `json:"upstream"`       // it is in the ledger of those
	Name      string         `json:"name,omitempty"` // at the upstream
	Data      map[string]any `json:"data,omitempty"` // what the upstream says besides; of Current only
	RotatedAt time.Time      `json:"rotated_at"`
	ExpiresAt time.Time      `json:"expires_at"`     // by itself
	Until     time.Time      `json:"until,omitzero"` // when it ends by the overlap; of Previous only
}

func (e *staticEntry) Name() string       { return e.name }
func (e *staticEntry) Identity() struct{} { return struct{}{} }
func (e *staticEntry) Stored() any        { return e }

// tokens are those of a static role that may be alive, the current one last.
func (e *staticEntry) tokens() []staticToken {
	all := slices.Clone(e.Ended)
	if e.Previous != nil {
		all = append(all, *e.Previous)
	}
	return append(all, e.Current)
}

type staticStore = store.Store[struct{}, *staticEntry]

func loadStatics(ctx context.Context, s logical.Storage) (*staticStore, error) {
	return store.Load(ctx, s, staticPrefix, true, func(name string, stored *logical.StorageEntry) (*staticEntry, error) {
		e := &staticEntry{name: name}
		return e, stored.DecodeJSON(e)
	})
}

// staticOf returns a static role that keeps a token of a role; nil where there is none.
func (st *state) staticOf(role string) *staticEntry {
	for _, e := range st.statics.All() {
		if e.Role == role {
			return e
		}
	}
	return nil
}

// after returns the rotation that follows a time.
func (e *staticEntry) after(t time.Time) (time.Time, error) {
	if e.Schedule == "" {
		return t.Add(e.Period), nil
	}
	schedule, err := new(rotation.DefaultSchedule).Parse(e.Schedule)
	if err != nil {
		return time.Time{}, err
	}
	return schedule.Next(t), nil
}

// between is the time between the next two rotations.
func (e *staticEntry) between(now time.Time) (time.Duration, error) {
	first, err := e.after(now)
	if err != nil {
		return 0, err
	}
	second, err := e.after(first)
	return second.Sub(first), err
}

// horizon returns the next rotation, and until when the next token has to live. Where rotations have a window,
// one may be missed.
func (e *staticEntry) horizon(now time.Time) (next, end time.Time, err error) {
	if next, err = e.after(now); err != nil {
		return next, end, err
	}
	end = next
	if e.Window > 0 {
		if end, err = e.after(next); err != nil {
			return next, end, err
		}
	}
	return next, end.Add(e.Window + e.Overlap + staticMargin), nil
}

// last is the latest time to replace the current token: it must work for the overlap after that, and a rotation
// may take some tries. A token that lives too short for both is replaced after half of its life.
func (e *staticEntry) last() time.Time {
	life := e.Current.ExpiresAt.Sub(e.Current.RotatedAt)
	last := e.Current.ExpiresAt.Add(-e.Overlap - min(staticMargin, life/4))
	if half := e.Current.RotatedAt.Add(life / 2); last.Before(half) {
		return half
	}
	return last
}

// hasten moves the next rotation forward to where the current token needs it.
func (e *staticEntry) hasten() {
	if last := e.last(); last.Before(e.Next) {
		e.Next = last
	}
}

// reschedule plans the next rotation after a change of old. Whatever the change, the current token does not live
// any longer for it.
func (e *staticEntry) reschedule(old *staticEntry, now time.Time) error {
	if e.Period != old.Period || e.Schedule != old.Schedule {
		since := e.Current.RotatedAt
		if e.Schedule != "" {
			since = now
		}
		next, err := e.after(since)
		if err != nil {
			return err
		}
		e.Next = next
	}
	e.hasten()
	if e.EntityID != old.EntityID {
		e.Next = now // the token says whose it is
	}
	return nil
}

// holds reports whether the static role keeps a token.
func (e *staticEntry) holds(id token.ID, now time.Time) bool {
	return e.Current.ID == id || e.Previous != nil && e.Previous.ID == id && now.Before(e.Previous.Until)
}

// staticHolds reports whether a static role keeps a token of an upstream, or may do so soon. That it does not is so only
// if storage says so: another process may have rotated it.
func (b *backend) staticHolds(ctx context.Context, name string, id token.ID, now time.Time) bool {
	st := b.state.Load()
	if st == nil {
		return true
	}
	unlock, free := b.rotator.tryLock(name)
	if !free {
		return true
	}
	defer unlock()
	if e := st.statics.Get(name); e != nil && e.holds(id, now) {
		return true
	}
	e, err := st.statics.Latest(ctx, b.storage, name)
	if e == nil {
		return err != nil || st.statics.Broken(name) != nil
	}
	return e.holds(id, now)
}

// staticEnd returns when a token of a static role ends, or has ended; the zero time where it was revoked.
func (st *state) staticEnd(t *staticToken) time.Time {
	if t.Upstream {
		u, known := st.upstreams.Get(t.ID)
		if !known || u.State != upstream.Live {
			return time.Time{}
		}
		return u.EndsAt
	}
	if st.roles.ByID(t.RoleID) == nil && st.roles.BrokenID(t.RoleID) == nil {
		return time.Time{} // with its role
	}
	if st.keyIsGone(t.Key) {
		return time.Time{}
	}
	d, deviates := st.deviations.Get(t.ID)
	switch {
	case !deviates:
		return t.ExpiresAt
	case d.Revoked:
		return time.Time{}
	default:
		return time.Unix(d.ExpiresAt, 0)
	}
}

// works reports whether a static role's current token is good for something.
func (st *state) works(e *staticEntry, now time.Time) bool {
	t := &e.Current
	if !now.Before(st.staticEnd(t)) {
		return false
	}
	if t.Upstream {
		return true
	}
	if r := st.roles.ByID(t.RoleID); r != nil {
		if grant, _ := r.Permissions(&token.Claims{RoleVersion: t.Version}); grant.Empty() {
			return false
		}
	}
	_, err := token.Open(st.keys.Ring(), t.Text)
	return !errors.Is(err, token.ErrDestroyedKey) && !errors.Is(err, token.ErrSpentKey)
}

// staticRow is what the inventory says of a static role's current token.
func (st *state) staticRow(e *staticEntry) ledger.Row {
	t := &e.Current
	row := ledger.Row{
		ID: t.ID, IssuedAt: t.RotatedAt.Truncate(time.Second), ExpiresAt: t.ExpiresAt.Truncate(time.Second),
		Holder: ledger.Holder{
			Role: e.Role, RoleID: t.RoleID, RoleVersion: t.Version, Subject: e.EntityID, DisplayName: staticDisplayName(e.name), Key: t.Key,
		},
	}
	if r := st.roles.ByID(t.RoleID); r != nil && !t.Upstream {
		if grant, _ := r.Permissions(&token.Claims{RoleVersion: t.Version}); grant != nil {
			row.Scopes = grant.Scopes.Parameter()
		}
	}
	return row
}

// settled reports whether the tokens before the current one end when they are to end.
func (st *state) settled(e *staticEntry, now time.Time) bool {
	for i := range e.Ended {
		if st.staticEnd(&e.Ended[i]).After(now) {
			return false
		}
	}
	return e.Previous == nil || !st.staticEnd(e.Previous).After(e.Previous.Until)
}

// staticDisplayName is what the inventory calls the holder of a token of a static role.
func staticDisplayName(name string) string { return "static role " + name }

package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

const (
	staticPrefix = "static-role/"

	// staticMargin is how much longer than until its rotation a token lives, for a rotation that takes some
	// tries.
	staticMargin = 24 * time.Hour
)

// staticEntry is a static role as stored, seal-wrapped.
type staticEntry struct {
	name string

	Role        string        `json:"role"`
	MountPoint  string        `json:"mount_point"`
	Period      time.Duration `json:"period,omitempty"`   // 0: there is a Schedule
	Schedule    string        `json:"schedule,omitempty"` // cron
	Window      time.Duration `json:"window,omitempty"`   // after a time of the Schedule in which to rotate; 0: any time
	Overlap     time.Duration `json:"overlap,omitempty"`  // for which the previous token still works
	Description string        `json:"description,omitempty"`

	Current  staticToken  `json:"current"`
	Previous *staticToken `json:"previous,omitempty"`
	Next     time.Time    `json:"next"` // rotation
}

// staticToken is a token of a static role.
type staticToken struct {
	ID        token.ID       `json:"id"`
	Text      string         `json:"text"`
	Upstream  bool           `json:"upstream"`       // it is in the ledger of those
	Name      string         `json:"name,omitempty"` // at the upstream
	Data      map[string]any `json:"data,omitempty"` // what the upstream says besides
	RotatedAt time.Time      `json:"rotated_at"`
	ExpiresAt time.Time      `json:"expires_at"` // by itself
	Until     time.Time      `json:"until"`      // when it ends by the overlap; of Previous only
}

// after gives the rotation that follows a time.
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

func (e *staticEntry) title() string      { return e.name }
func (e *staticEntry) identity() struct{} { return struct{}{} }
func (e *staticEntry) entry() any         { return e }

type staticStore = store[struct{}, *staticEntry]

func loadStatics(ctx context.Context, s logical.Storage) (*staticStore, error) {
	return newStore(ctx, s, staticPrefix, true, func(name string, stored *logical.StorageEntry) (*staticEntry, error) {
		e := &staticEntry{name: name}
		return e, stored.DecodeJSON(e)
	})
}

// staticOf gives a static role that keeps a token of a role; nil where there is none.
func (st *state) staticOf(role string) *staticEntry {
	for _, e := range st.statics.all() {
		if e.Role == role {
			return e
		}
	}
	return nil
}

// holds tells whether the static role keeps a token.
func (e *staticEntry) holds(id token.ID, now time.Time) bool {
	return e.Current.ID == id || e.Previous != nil && e.Previous.ID == id && now.Before(e.Previous.Until)
}

// rotator rotates static roles when their time has come.
type rotator struct {
	*worker
	b        *backend
	interval time.Duration // between looks at least; tests shorten it

	mu      sync.Mutex
	locks   map[string]*sync.Mutex // name -> held while it is being rotated or changed
	failing map[string]failure
}

// failure is why a rotation failed, and when it is tried again.
type failure struct {
	attempt
	err error
}

func newRotator(b *backend) *rotator {
	return &rotator{
		worker: newWorker(), b: b, interval: time.Second,
		locks: make(map[string]*sync.Mutex), failing: make(map[string]failure),
	}
}

// lock keeps others from changing a static role.
func (r *rotator) lock(name string) *sync.Mutex {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.locks[name] == nil {
		r.locks[name] = new(sync.Mutex)
	}
	return r.locks[name]
}

// look has those rotated whose time may have come.
func (r *rotator) look(ctx context.Context) time.Duration {
	st := r.b.state.Load()
	if st == nil || !r.b.WriteSafeReplicationState() {
		return 0
	}
	names := st.statics.names()
	for _, name := range names {
		lock := r.lock(name)
		if !r.ready(name) || !lock.TryLock() {
			continue
		}
		r.jobs.Go(func() {
			defer lock.Unlock()
			r.rotate(ctx, st, name)
		})
	}
	if len(names) == 0 {
		return 0
	}
	return r.wait(st, names)
}

// ready tells whether a rotation that failed may be tried again.
func (r *rotator) ready(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.b.now().Before(r.failing[name].next)
}

// lastError tells why the last rotation failed; "" where it did not.
func (r *rotator) lastError(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.failing[name].err; err != nil {
		return err.Error()
	}
	return ""
}

// wait tells how long there is nothing to do.
func (r *rotator) wait(st *state, names []string) time.Duration {
	now := r.b.now()
	soonest := now.Add(time.Minute)
	for _, name := range names {
		e := st.statics.get(name)
		if e == nil {
			continue
		}
		r.mu.Lock()
		next := e.Next
		if retry := r.failing[name].next; retry.After(next) {
			next = retry
		}
		r.mu.Unlock()
		if next.Before(soonest) {
			soonest = next
		}
		if e.Previous != nil && e.Previous.Until.Before(soonest) && now.Before(e.Previous.Until) {
			soonest = e.Previous.Until
		}
	}
	return max(r.interval, soonest.Sub(now))
}

// rotate rotates a static role if its time has come, or its token is not good any more.
func (r *rotator) rotate(ctx context.Context, st *state, name string) {
	e := st.statics.get(name)
	if e == nil {
		return
	}
	now := r.b.now()
	err := r.b.endPrevious(ctx, st, e)
	if err == nil && (!now.Before(e.Next) || !r.b.alive(st, e)) {
		if late := e.Window > 0 && now.After(e.Next.Add(e.Window)) && r.b.alive(st, e); late {
			skipped := *e
			if skipped.Next, err = e.after(now); err == nil {
				err = st.statics.put(ctx, r.b.storage, &skipped)
			}
			r.b.Logger().Warn("a rotation was missed, and its rotation_window is over", "static_role", name, "next", skipped.Next)
		} else if err = r.b.rotateStatic(ctx, r.b.storage, st, name, e); err == nil {
			r.b.Logger().Info("rotated a static role", "static_role", name)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.failing, name)
		return
	}
	if ctx.Err() == nil {
		r.failing[name] = failure{r.b.reaper.after(r.failing[name].attempt, now, 0), err}
		r.b.Logger().Warn("a static role was not rotated, it is tried again", "static_role", name, "error", err)
	}
}

// alive tells whether the current token of a static role is still good: it may have leaked, and been revoked.
func (b *backend) alive(st *state, e *staticEntry) bool {
	if e.Current.Upstream {
		u, known := st.upstreams.Get(e.Current.ID)
		return known && u.State == ledger.Live
	}
	d, deviates := st.deviations.Get(e.Current.ID)
	return !deviates || !d.Revoked
}

// rotateStatic makes the next token of a static role and keeps it; then the one before ends by the overlap. The
// caller holds the static role's lock.
func (b *backend) rotateStatic(ctx context.Context, s logical.Storage, st *state, name string, e *staticEntry) error {
	r := st.roles.get(e.Role)
	if r == nil {
		return fmt.Errorf("its role %q was deleted", e.Role)
	}
	if err := b.proveWritable(ctx, s); err != nil {
		return err
	}
	now := b.now().UTC()
	next := *e
	var err error
	if next.Next, err = e.after(now); err != nil {
		return err
	}
	end := next.Next.Add(e.Window + e.Overlap + staticMargin)
	if r.Connection == "" {
		next.Current, err = b.mintStatic(ctx, s, st, r, name, e.MountPoint, now, end)
	} else {
		next.Current, err = b.mintStaticUpstream(ctx, s, st, r, name, e.MountPoint, now, end)
	}
	if err != nil {
		return err
	}
	next.Previous = nil
	if !e.Current.ID.IsZero() && b.alive(st, e) {
		previous := e.Current
		previous.Until = now.Add(e.Overlap)
		next.Previous = &previous
	}
	if err := st.statics.put(ctx, s, &next); err != nil {
		// Nobody has the new one. At an upstream the reaper ends it too, if this fails.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeWait)
		defer cancel()
		return errors.Join(err, b.endStatic(ending, s, st, &next.Current))
	}
	if e.Previous != nil && e.Previous.ID != next.Current.ID {
		if err := b.endStatic(ctx, s, st, e.Previous); err != nil {
			return err
		}
	}
	return b.endPrevious(ctx, st, &next)
}

// mintStatic makes a token of the engine's own.
func (b *backend) mintStatic(ctx context.Context, s logical.Storage, st *state, r *role, name, mountPoint string, now, end time.Time) (staticToken, error) {
	claims, err := newClaims(end.Sub(now), now)
	if err != nil {
		return staticToken{}, err
	}
	claims.Role, claims.RoleVersion, claims.Grant = r.ID, r.Version, claims.ID
	i := &issuing{st: st, storage: s, config: st.config.get(), role: r, mountPoint: mountPoint, lifetime: end.Sub(now)}
	text, err := i.access(ctx, claims)
	if err != nil {
		return staticToken{}, err
	}
	grant, _ := r.grant(claims)
	st.inventory.Add(ledger.Row{
		ID: claims.ID, IssuedAt: claims.IssuedAt, ExpiresAt: claims.ExpiresAt,
		Holder: ledger.Holder{Role: r.name, RoleID: r.ID, RoleVersion: r.Version, Scopes: grant.Scopes.Parameter(), DisplayName: staticDisplayName(name)},
	})
	b.flushSoon()
	return staticToken{ID: claims.ID, Text: text, RotatedAt: now, ExpiresAt: claims.ExpiresAt}, nil
}

func (b *backend) mintStaticUpstream(ctx context.Context, s logical.Storage, st *state, r *role, name, mountPoint string, now, end time.Time) (staticToken, error) {
	c := st.connections.get(r.Connection)
	up, err := st.connections.upstream(r.Connection, c)
	if err != nil {
		return staticToken{}, fmt.Errorf("role %q: %w", r.name, err)
	}
	req := &logical.Request{Storage: s, MountPoint: mountPoint}
	made, minted, err := b.mintUpstream(ctx, req, st, c, up, r, name, now, end)
	if err != nil {
		if errors.As(err, new(*connector.Error)) {
			err = fmt.Errorf("connection %q: no token was issued: %w", c.name, err)
		}
		return staticToken{}, err
	}
	return staticToken{ID: made.ID, Text: minted.Text, Upstream: true, Name: made.Name, Data: minted.Data, RotatedAt: now, ExpiresAt: made.EndsAt}, nil
}

// endPrevious sees to it that the token before the current one ends by the overlap.
func (b *backend) endPrevious(ctx context.Context, st *state, e *staticEntry) error {
	t := e.Previous
	if t == nil {
		return nil
	}
	now := b.now()
	if !now.Before(t.Until) {
		return b.endStatic(ctx, b.storage, st, t)
	}
	if t.Upstream {
		if u, known := st.upstreams.Get(t.ID); known && u.State == ledger.Live && u.EndsAt.After(t.Until) {
			u.EndsAt = t.Until
			return st.upstreams.Put(ctx, b.storage, u)
		}
		return nil
	}
	d, deviates := st.deviations.Get(t.ID)
	if deviates && (d.Revoked || d.ExpiresAt <= t.Until.Unix()) {
		return nil
	}
	return st.deviations.Renew(ctx, b.storage, t.ID, t.ExpiresAt, t.Until, now)
}

// endStatic ends a token of a static role.
func (b *backend) endStatic(ctx context.Context, s logical.Storage, st *state, t *staticToken) error {
	if t.Upstream {
		return b.endUpstream(ctx, s, st, t.ID)
	}
	return st.revoke(ctx, s, t.ID, token.StatusRef{}, t.ExpiresAt)
}

// staticDisplayName is what the inventory calls the holder of a token of a static role.
func staticDisplayName(name string) string { return "static role " + name }

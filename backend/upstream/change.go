package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

const maxTimeout = 5 * time.Minute

// MinReconcilePeriod is the shortest time between two reconciliations by themselves.
const MinReconcilePeriod = time.Hour

// Change is what a request to write a connection gives. A nil field stays as it is.
type Change struct {
	Provider        *string         `json:"provider"`
	URL             *string         `json:"url"`
	Credential      *map[string]any `json:"credential"` // members that are not given stay as they are
	Settings        *map[string]any `json:"settings"`   // members that are not given stay as they are
	CACert          *string         `json:"ca_cert"`
	ClientCert      *string         `json:"client_cert"`
	ClientKey       *string         `json:"client_key"`
	ProxyURL        *string         `json:"proxy_url"`
	Timeout         *time.Duration  `json:"timeout"`
	RateLimit       *float64        `json:"rate_limit"`
	MaxConcurrent   *int            `json:"max_concurrent"`
	NameTemplate    *string         `json:"name_template"`
	Description     *string         `json:"description"`
	RevokeOnDelete  *bool           `json:"revoke_on_delete"`
	ReconcilePeriod *time.Duration  `json:"reconcile_period"`
	Owner           *string         `json:"owner"`
	ReviewBy        *string         `json:"review_by"`

	MountPoint string `json:"-"` // of the engine; empty: as it is
}

// WriteConnection creates or changes a connection. The warnings are for the operator.
func (k *Keeper) WriteConnection(ctx context.Context, s logical.Storage, name string, change *Change) (warnings []string, _ error) {
	if err := refusal.CheckLen("name", name, role.MaxNameLen); err != nil {
		return nil, err
	}
	cs := k.Connections
	if c := cs.Get(name); c != nil && change.Credential != nil {
		// A rotation must not replace another credential than the credential that it began with.
		unlock, err := k.lockRoot(ctx, c.ID)
		if errors.Is(err, errRotating) {
			return nil, refusal.Field("credential", "of connection %q is being rotated, try again", name)
		}
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	cs.Writing.Lock()
	defer cs.Writing.Unlock()
	old, err := cs.Latest(ctx, s, name)
	if err != nil {
		return nil, err
	}
	entry, err := cs.entryToChange(name, old)
	if err != nil {
		return nil, err
	}
	provider := entry.Provider
	if change.Provider != nil {
		provider = cmp.Or(*change.Provider, provider)
	}
	if _, err := cs.Providers.latest(ctx, s, provider); err != nil {
		return nil, err
	}
	if err := entry.change(change, &cs.Providers); err != nil {
		return nil, err
	}
	if old != nil && !maps.Equal(old.destination(), entry.destination()) && entry.unsettled() {
		entry.leave() // credentials of the old service must not be sent to another
		warnings = append(warnings, fmt.Sprintf("a rotation of the credential was not finished: a credential may be left behind at %s, revoke it there", old.URL))
	}
	c, err := cs.compile(name, entry)
	if err != nil {
		return nil, refusal.Wrap(err)
	}
	if err := cs.Put(ctx, s, c); err != nil {
		return nil, err
	}
	k.Retry(c.ID) // the service may be reachable now
	return append(warnings, c.Warn(change.ReviewBy, k.now())...), nil
}

// entryToChange returns the entry that a request changes; old is nil if the request creates a connection. A connection
// that takes the place of one that cannot be read keeps the ID, and so the tokens.
func (cs *Connections) entryToChange(name string, old *Connection) (entry Entry, err error) {
	if old != nil {
		return old.Entry, nil
	}
	if entry.ID = cs.DamagedID(name); entry.ID == "" {
		entry.ID, err = newConnectionID()
	}
	return entry, err
}

// change applies a request to a connection, and refuses what a connection must not be.
func (e *Entry) change(c *Change, ps *Providers) error {
	p, err := e.changeProvider(c, ps)
	if err != nil {
		return err
	}
	if err := e.refuseElsewhere(c, p); err != nil {
		return err
	}
	if err := e.changeMembers(c, p); err != nil {
		return err
	}
	store.Set(&e.URL, c.URL)
	store.Set(&e.NameTemplate, c.NameTemplate)
	store.Set(&e.CACert, c.CACert)
	store.Set(&e.ClientCert, c.ClientCert)
	store.Set(&e.ClientKey, c.ClientKey)
	store.Set(&e.ProxyURL, c.ProxyURL)
	store.Set(&e.Description, c.Description)
	store.Set(&e.Timeout, c.Timeout)
	store.Set(&e.RateLimit, c.RateLimit)
	store.Set(&e.MaxConcurrent, c.MaxConcurrent)
	store.Set(&e.RevokeOnDelete, c.RevokeOnDelete)
	store.Set(&e.ReconcilePeriod, c.ReconcilePeriod)
	e.MountPoint = cmp.Or(c.MountPoint, e.MountPoint)
	if err := e.Set(c.Owner, c.ReviewBy); err != nil {
		return err
	}
	if e.URL == "" {
		return refusal.Field("url", "is needed: where the service is, such as https://gitea.example.com")
	}
	if err := refusal.CheckLen("description", e.Description, role.MaxDescriptionLen); err != nil {
		return err
	}
	if c.ReconcilePeriod != nil {
		if err := e.checkPeriod(p); err != nil {
			return err
		}
	}
	switch {
	case e.Timeout > maxTimeout:
		return refusal.Field("timeout", "%s is more than %s", refusal.Short(e.Timeout), refusal.Short(maxTimeout))
	case e.RevokeOnDelete && c.RevokeOnDelete != nil && p.Operations.RetireRoot == nil:
		return refusal.Field("revoke_on_delete", "provider %q cannot end its credential", e.Provider)
	}
	return nil
}

// checkPeriod refuses a reconcile_period that the connection cannot have.
func (e *Entry) checkPeriod(p *connector.Provider) error {
	switch {
	case e.ReconcilePeriod == 0:
		return nil
	case e.ReconcilePeriod < MinReconcilePeriod:
		return refusal.Field("reconcile_period", "must be at least %s, or 0 for no reconciliation by itself", refusal.Short(MinReconcilePeriod))
	case !p.CanList():
		return refusal.Field("reconcile_period", "provider %q cannot list the tokens of the service", e.Provider)
	}
	return nil
}

// changeProvider returns the provider of the connection. The provider of a connection cannot be changed.
func (e *Entry) changeProvider(c *Change, ps *Providers) (*connector.Provider, error) {
	if c.Provider != nil && e.Provider != "" && e.Provider != *c.Provider {
		return nil, refusal.Field("provider", "is %q and cannot be changed: make another connection", e.Provider)
	}
	store.Set(&e.Provider, c.Provider)
	if e.Provider == "" {
		return nil, refusal.Field("provider", "is needed, one of: %s", strings.Join(ps.Names(), ", "))
	}
	if err := ps.Broken(e.Provider); err != nil {
		return nil, refusal.Field("provider", "%s", err)
	}
	p := ps.Get(e.Provider)
	if p == nil {
		return nil, refusal.Field("provider", "there is no %q, there are: %s", refusal.Clip(e.Provider), strings.Join(ps.Names(), ", "))
	}
	return p, nil
}

// changeMembers applies the members of the credential and of the settings.
func (e *Entry) changeMembers(c *Change, p *connector.Provider) error {
	credential, err := changed("credential", e.Credential, c.Credential, p.Credential)
	if err != nil {
		return err
	}
	if c.Credential != nil || e.Credential == nil {
		e.replace(credential, p)
	}
	settings, err := changed("settings", e.Settings, c.Settings, p.Settings)
	if err != nil {
		return err
	}
	if c.Settings != nil || e.Settings == nil {
		e.Settings = settings
	}
	return nil
}

// changed returns the stored members with those that the request gives, as the provider takes them.
func changed(field string, stored map[string]any, given *map[string]any, fields map[string]connector.Field) (map[string]any, error) {
	merged := make(map[string]any, len(stored))
	maps.Copy(merged, stored)
	if given != nil {
		maps.Copy(merged, *given)
	}
	values, err := connector.Values(fields, merged)
	if err != nil {
		return nil, refusal.Field(field, "%s", err)
	}
	return values, nil
}

// refuseElsewhere refuses to send a stored credential to another service. A client that may change a connection need not
// know its credential, and could have the credential sent to a server of its own. The client_key need not be given again,
// since it is sent to nobody.
func (e *Entry) refuseElsewhere(c *Change, p *connector.Provider) error {
	if e.URL == "" {
		return nil // a new connection
	}
	var again map[string]any
	store.Set(&again, c.Credential)
	given := map[string]*string{"url": c.URL, "proxy_url": c.ProxyURL, "ca_cert": c.CACert}
	stored := e.destination()
	for _, field := range slices.Sorted(maps.Keys(stored)) {
		if given[field] == nil || *given[field] == stored[field] {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(p.Credential)) {
			_, isStored := e.Credential[name]
			if _, isGiven := again[name]; p.Credential[name].Secret && isStored && !isGiven {
				return refusal.Field(field, "a change of it sends the credential elsewhere: give credential %q again in the same request", name)
			}
		}
	}
	return nil
}

// destination returns the fields that determine to whom the credential is sent.
func (e *Entry) destination() map[string]string {
	return map[string]string{"url": e.URL, "proxy_url": e.ProxyURL, "ca_cert": e.CACert}
}

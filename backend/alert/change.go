package alert

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/review"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
)

const (
	maxName        = 128     // bytes
	maxDescription = 1024    // bytes
	maxCACert      = 1 << 16 // bytes
	maxRoles       = 100
)

// DefaultEvents are the kinds of notices that an alert sends if a request names none.
var DefaultEvents = []string{string(detect.KindOpened), string(detect.KindEscalated)}

// Change is what a request to write an alert gives. A nil field stays as it is.
type Change struct {
	MountPoint  string             // current path of the mount; required
	URL         *string            `json:"url"`
	AllowHTTP   *bool              `json:"allow_http"`
	CACert      *string            `json:"ca_cert"`
	Headers     *map[string]string `json:"headers"` // replaces all headers
	Format      *string            `json:"format"`
	Secret      *string            `json:"secret"`
	Events      *[]string          `json:"events"`
	Rules       *[]string          `json:"rules"`
	Roles       *[]string          `json:"roles"`
	MinSeverity *string            `json:"min_severity"`
	Disabled    *bool              `json:"disabled"`
	Description *string            `json:"description"`
	Owner       *string            `json:"owner"`
}

// Write creates or changes an alert. It returns the secret that it has generated; empty if it has not.
func (as *Alerts) Write(ctx context.Context, s logical.Storage, name string, c *Change) (secret string, _ error) {
	if err := refusal.CheckLen("name", name, maxName); err != nil {
		return "", err
	}
	as.Entries.Writing.Lock()
	defer as.Entries.Writing.Unlock()
	old, err := as.Entries.Latest(ctx, s, name)
	if err != nil {
		return "", err
	}
	e := Entry{Format: CloudEvents, Events: DefaultEvents, MinSeverity: detect.Low}
	if old != nil {
		e = old.Entry
	} else if !as.Entries.Has(name) && len(as.Entries.Names()) >= MaxAlerts {
		return "", refusal.Field("name", "there are %d alerts, which is the maximum: delete an alert", MaxAlerts)
	}
	if err := e.change(c, as.Now()); err != nil {
		return "", err
	}
	if e.ID == "" {
		e.ID = cmp.Or(as.Entries.DamagedID(name), newID(8))
	}
	if e.Secret == "" {
		secret = newSecret()
		e.Secret = secret
	}
	if err := as.put(ctx, s, name, e); err != nil {
		return "", err
	}
	as.retry(e.ID) // the receiver may be reachable now
	return secret, nil
}

// put compiles and stores an alert. The caller holds Entries.Writing.
func (as *Alerts) put(ctx context.Context, s logical.Storage, name string, e Entry) error {
	a, err := as.newAlert(name, e)
	if err != nil {
		return err
	}
	return as.Entries.Put(ctx, s, a)
}

// Delete deletes an alert, and what waits for a delivery by the alert.
func (as *Alerts) Delete(ctx context.Context, s logical.Storage, name string) error {
	as.Entries.Writing.Lock()
	defer as.Entries.Writing.Unlock()
	if err := as.Entries.Delete(ctx, s, name); err != nil {
		return err
	}
	as.Wake() // Run clears the queue
	return nil
}

// Rotation is a request to rotate the secret of an alert.
type Rotation struct {
	Secret  string        // the new secret; empty: a random one
	Overlap time.Duration // how long the previous secret signs, too
}

// Rotate replaces the secret of an alert. It returns the secret that it has generated, empty if it has not, and until when
// the previous secret signs, too.
func (as *Alerts) Rotate(ctx context.Context, s logical.Storage, name string, r *Rotation) (string, time.Time, error) {
	as.Entries.Writing.Lock()
	defer as.Entries.Writing.Unlock()
	none := time.Time{}
	old, err := as.Entries.Latest(ctx, s, name)
	if err != nil {
		return "", none, err
	}
	if old == nil {
		return "", none, as.missing(name)
	}
	e, generated := old.Entry, ""
	if r.Secret == "" {
		generated = newSecret()
		r.Secret = generated
	} else if r.Secret == e.Secret {
		return "", none, refusal.Field("secret", "is the current secret: give another, or none for a random one")
	}
	if r.Overlap > MaxOverlap {
		return "", none, refusal.Field("overlap", "%s is more than %s", refusal.Short(r.Overlap), refusal.Short(MaxOverlap))
	}
	e.Secret, e.Previous, e.PreviousUntil = r.Secret, "", none
	if r.Overlap > 0 {
		e.Previous, e.PreviousUntil = old.Secret, as.Now().UTC().Add(r.Overlap).Truncate(time.Second)
	}
	return generated, e.PreviousUntil, as.put(ctx, s, name, e)
}

// The overlap of two secrets.
const (
	DefaultOverlap = 24 * time.Hour
	MaxOverlap     = 30 * 24 * time.Hour
)

// missing returns the refusal for an alert that does not exist or cannot be read.
func (as *Alerts) missing(name string) error {
	if err := as.Entries.Broken(name); err != nil {
		return refusal.Wrap(err)
	}
	return refusal.Field("name", "there is no alert %q", refusal.Clip(name))
}

// change applies a request to an alert, and refuses what an alert must not be.
func (e *Entry) change(c *Change, now time.Time) error {
	e.MountPoint = c.MountPoint // the mount may have been moved
	if err := e.changeReceiver(c); err != nil {
		return err
	}
	if err := e.changeFilter(c); err != nil {
		return err
	}
	if c.Secret != nil {
		if e.Secret != "" && *c.Secret != e.Secret {
			return refusal.Field("secret", "cannot be changed by a write: rotate-secret changes the secret while both secrets sign")
		}
		e.Secret = *c.Secret
		if e.Secret == "" {
			return refusal.Field("secret", "is empty: leave the field out for a random secret")
		}
	}
	if c.Disabled != nil && *c.Disabled != e.Disabled {
		e.Disabled, e.DisabledReason, e.DisabledAt = *c.Disabled, "", time.Time{}
		if e.Disabled {
			e.DisabledAt = now.UTC().Truncate(time.Second)
		}
	}
	var owner review.Review
	if err := owner.Set(c.Owner, nil); err != nil {
		return err
	}
	store.Set(&e.Owner, c.Owner)
	store.Set(&e.Description, c.Description)
	return refusal.CheckLen("description", e.Description, maxDescription)
}

// changeReceiver applies the fields that say where and how to send. Headers may hold a credential of the receiver: who may
// change an alert need not know them, and could have them sent to a server of their own.
func (e *Entry) changeReceiver(c *Change) error {
	if e.URL != "" && len(e.Headers) > 0 && c.Headers == nil {
		for field, differs := range map[string]bool{
			"url":        c.URL != nil && *c.URL != e.URL,
			"ca_cert":    c.CACert != nil && *c.CACert != e.CACert,
			"allow_http": c.AllowHTTP != nil && *c.AllowHTTP != e.AllowHTTP,
		} {
			if differs {
				return refusal.Field(field, "a change of it sends headers elsewhere: give headers again in the same request")
			}
		}
	}
	store.Set(&e.URL, c.URL)
	store.Set(&e.AllowHTTP, c.AllowHTTP)
	store.Set(&e.CACert, c.CACert)
	store.Set(&e.Headers, c.Headers)
	store.Set(&e.Format, c.Format)
	if e.URL == "" {
		return refusal.Field("url", "is needed: where the receiver is, such as https://alerts.example.com/apitoken")
	}
	if e.Format != CloudEvents && e.Format != Slack {
		return refusal.Field("format", "%q is not one of: %s, %s", refusal.Clip(e.Format), CloudEvents, Slack)
	}
	if err := refusal.CheckLen("ca_cert", e.CACert, maxCACert); err != nil {
		return err
	}
	return e.checkHeaders()
}

// changeFilter applies the fields that say which notices to send.
func (e *Entry) changeFilter(c *Change) error {
	store.Set(&e.Events, c.Events)
	store.Set(&e.Rules, c.Rules)
	store.Set(&e.Roles, c.Roles)
	store.Set(&e.MinSeverity, c.MinSeverity)
	kinds := make([]string, len(detect.Kinds))
	for i, kind := range detect.Kinds {
		kinds[i] = string(kind)
	}
	if len(e.Events) == 0 {
		return refusal.Field("events", "is empty: name at least one of: %s", strings.Join(kinds, ", "))
	}
	if len(e.Events) > len(kinds) {
		return refusal.Field("events", "has %d events, there are %d", len(e.Events), len(kinds))
	}
	for _, kind := range e.Events {
		if !slices.Contains(kinds, kind) {
			return refusal.Field("events", "%q is not one of: %s", refusal.Clip(kind), strings.Join(kinds, ", "))
		}
	}
	for _, rule := range e.Rules {
		if !detect.Rule(rule).Valid() {
			return refusal.Field("rules", "%q is no rule of config/detection, which has %s", refusal.Clip(rule), detect.RuleNames())
		}
	}
	if len(e.Rules) > len(detect.Rules) {
		return refusal.Field("rules", "has %d rules, there are %d", len(e.Rules), len(detect.Rules))
	}
	if len(e.Roles) > maxRoles {
		return refusal.Field("roles", "has %d roles, at most %d are allowed", len(e.Roles), maxRoles)
	}
	for _, role := range e.Roles {
		if err := refusal.CheckLen("roles", role, maxName); err != nil {
			return err
		}
	}
	if detect.SeverityRank(e.MinSeverity) == 0 {
		return refusal.Field("min_severity", "%q is not one of: %s, %s, %s", refusal.Clip(e.MinSeverity), detect.Low, detect.Medium,
			detect.High)
	}
	return nil
}

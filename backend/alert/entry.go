package alert

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// Formats of the body of a delivery.
const (
	CloudEvents = "cloudevents"
	Slack       = "slack"
)

// Entry is an alert as stored, seal-wrapped.
type Entry struct {
	ID         string `json:"id"` // new when an alert is deleted and created again
	MountPoint string `json:"mount_point"`

	URL       string            `json:"url"` // the path may hold a secret
	AllowHTTP bool              `json:"allow_http,omitempty"`
	CACert    string            `json:"ca_cert,omitempty"` // PEM; empty: the system's
	Headers   map[string]string `json:"headers,omitempty"` // secret
	Format    string            `json:"format"`

	Secret        string    `json:"secret"`                    // as Standard Webhooks spell a secret
	Previous      string    `json:"previous_secret,omitempty"` // signs too until PreviousUntil
	PreviousUntil time.Time `json:"previous_secret_expires_at,omitzero"`

	Events      []string `json:"events"` // kinds of notices
	Rules       []string `json:"rules,omitempty"`
	Roles       []string `json:"roles,omitempty"`
	MinSeverity string   `json:"min_severity"`

	Disabled       bool      `json:"disabled,omitempty"`
	DisabledReason string    `json:"disabled_reason,omitempty"` // empty: an operator has disabled the alert
	DisabledAt     time.Time `json:"disabled_at,omitzero"`

	Description string `json:"description,omitempty"`
	Owner       string `json:"owner,omitempty"`
}

// Alert is an alert ready for use. An Alert does not change: an update publishes a new Alert.
type Alert struct {
	Entry
	name   string
	url    *url.URL
	client *http.Client
}

// newAlert compiles an entry. Its errors name the field.
func (as *Alerts) newAlert(name string, e Entry) (*Alert, error) {
	a := &Alert{Entry: e, name: name}
	var err error
	if a.url, err = parseURL(e.URL, e.AllowHTTP); err != nil {
		return nil, err
	}
	if err := e.checkSecrets(); err != nil {
		return nil, err
	}
	a.client, err = newClient(e.CACert, as.Dial)
	return a, err
}

// Name implements store.Named.
func (a *Alert) Name() string { return a.name }

// Identity implements store.Named.
func (a *Alert) Identity() string { return a.ID }

// Stored implements store.Named.
func (a *Alert) Stored() any { return &a.Entry }

// wants reports whether an alert sends a notice.
func (a *Alert) wants(n *detect.Notice) bool {
	f := &n.Finding
	return !a.Disabled && slices.Contains(a.Events, string(n.Kind)) &&
		(len(a.Rules) == 0 || slices.Contains(a.Rules, string(f.Rule))) &&
		(len(a.Roles) == 0 || slices.Contains(a.Roles, f.Role)) &&
		detect.SeverityRank(f.Severity) >= detect.SeverityRank(a.MinSeverity)
}

// secrets returns the secrets that sign a delivery at a time, the current secret first.
func (e *Entry) secrets(now time.Time) []string {
	if e.Previous != "" && now.Before(e.PreviousUntil) {
		return []string{e.Secret, e.Previous}
	}
	return []string{e.Secret}
}

// place returns the URL without what follows the host, which may be a secret.
func (a *Alert) place() string {
	place := a.url.Scheme + "://" + a.url.Host
	if a.url.RequestURI() != "/" {
		place += hiddenPath
	}
	return place
}

// hiddenPath stands for the path of a URL in answers.
const hiddenPath = "/..."

// Members returns an alert as answers show it, without secrets.
func (a *Alert) Members(now time.Time) map[string]any {
	names := make([]string, 0, len(a.Headers))
	for name := range a.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	data := map[string]any{
		"url": a.place(), "allow_http": a.AllowHTTP, "ca_cert": a.CACert, "header_names": names, "format": a.Format,
		"events": slices.Clone(a.Events), "rules": nonNil(a.Rules), "roles": nonNil(a.Roles), "min_severity": a.MinSeverity,
		"disabled": a.Disabled, "disabled_reason": a.DisabledReason, "disabled_at": a.DisabledAt,
		"description": a.Description, "owner": a.Owner,
	}
	if len(a.secrets(now)) > 1 {
		data["previous_secret_expires_at"] = a.PreviousUntil
	}
	return data
}

func nonNil(list []string) []string { return append([]string{}, list...) }

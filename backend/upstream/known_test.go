package upstream

import (
	"slices"
	"testing"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
)

// The beginning of a template that is the same in all names tells whose a token is.
func TestMarkers(t *testing.T) {
	for _, c := range []struct {
		template, stored string
		longest          int
		want             []string
	}{
		{"", "apitoken/", 0, []string{"vault-apitoken-"}},
		{"", "team/API/", 0, []string{"vault-apitoken-", "vault-team-api-"}},
		{"", "", 0, []string{"vault-apitoken-"}},
		{"ci-{{.ConnectionName}}-{{ .RoleName }}-{{ random 12 }}", "apitoken/", 0, []string{"ci-gitea-"}},
		{"{{ .MountPath | uppercase }}-{{ random 12 }}", "apitoken/", 0, nil},
		{"{{ random 20 }}", "apitoken/", 0, nil},
		{"ci{{ random 20 }}", "apitoken/", 0, nil},
		{"a{b-{{ unix_time }}-{{ random 12 }}", "apitoken/", 0, []string{"a{b-"}},
		{"", "apitoken/", 20, []string{"vault-a"}},
	} {
		r := &Ready{
			Connection: &Connection{name: "Gitea", Entry: Entry{NameTemplate: c.template, MountPoint: c.stored}},
			Service:    &connector.Service{Provider: &connector.Provider{Definition: connector.Definition{MaxName: c.longest}}},
		}
		if got := r.Markers("apitoken/"); !slices.Equal(got, c.want) {
			t.Errorf("%q at %q: %q, want %q", c.template, c.stored, got, c.want)
		}
	}
}

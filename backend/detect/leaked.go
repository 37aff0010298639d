package detect

import (
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Leak is a report of a leaked token. Role and Subject are those of the grant; empty: not known.
type Leak struct {
	Grant         token.ID
	Role, Subject string
	URL, Source   string // where the token was found, and by whom; without the token, and bounded
	Client        string // address of the request, as Vault states the address; empty: not known
}

// Leaked evaluates the report of a leaked token. The engine has revoked the grant.
func (d *Detector) Leaked(l *Leak) {
	if !d.Settings().on(Leaked) {
		return
	}
	at := seconds(d.Now())
	addr, _ := access.ParseClientIP(l.Client)
	d.raise(key{rule: Leaked, token: l.Grant}, at, 1, func(f *Finding) {
		f.Severity = High
		f.TokenID, f.Role, f.EntityID, f.Response = l.Grant.String(), l.Role, l.Subject, Revoked
		f.Numbers = numbers{"allowed_reports": 0}
		f.Summary = "the token was reported as leaked while it was alive. The engine has revoked the grant"
		seen := sightOf(at, addr, "", 0, nil)
		seen.URL, seen.Source = l.URL, l.Source
		f.Evidence = []Sight{seen}
	})
}

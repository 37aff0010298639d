package report

import (
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/reconcile"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// upstreamTokens returns what the last reconciliations have found, by connection and ID.
func (v *View) upstreamTokens() source {
	return source{KindUpstreamToken, func(after string) iter.Seq2[key, *Item] {
		from, id, _ := strings.Cut(after, "/")
		return func(yield func(key, *Item) bool) {
			for _, name := range v.Connections.Names() {
				c := v.Connections.Get(name)
				if c == nil || name < from {
					continue
				}
				for _, one := range v.Reconciled(c) {
					if name == from && one.ID <= id {
						continue
					}
					if !yield(key{name: name + "/" + one.ID}, v.reconciled(c, &one)) {
						return
					}
				}
			}
		}
	}}
}

// reconciled returns the item of a token that a reconciliation has found; nil if the engine has revoked the token since.
func (v *View) reconciled(c *upstream.Connection, one *reconcile.Item) *Item {
	i := &Item{
		Kind: KindUpstreamToken, Name: one.Name, UpstreamID: one.ID, Owner: one.Owner, Connection: c.Name(), Scopes: one.Scopes,
		IssuedAt: one.CreatedAt, ExpiresAt: one.ExpiresAt, LastSeenAt: one.LastUsedAt,
	}
	switch one.Reason {
	case reconcile.UnknownHere:
		i.because(string(one.Reason), "connection %q names tokens so, and the engine does not know the token: nobody revokes the token",
			c.Name())
		i.Command = fmt.Sprintf("# revoke token %q, ID %q, at %s: no command of the engine does", one.Name, one.ID, c.URL)
	case reconcile.GoneThere:
		t, known := v.Upstreams.Get(one.Token)
		if !known || t.State != upstream.Live {
			return nil
		}
		i.Role, i.EntityID = t.Role, t.Subject
		i.because(string(one.Reason), "the token was issued on %s and does not exist at %s: the holder is refused there",
			day(t.CreatedAt), c.URL)
		i.Command = "vault write " + v.MountPoint + "revoke token_id=" + one.Token.String()
		if t.StaticRole != "" {
			i.Command = "vault write -force " + v.MountPoint + "rotate-role/" + t.StaticRole
		}
	case reconcile.Foreign:
		i.because(string(one.Reason), "%s", v.foreign(one))
		i.Command = v.roleFor(c, one)
	}
	return i
}

// foreign describes a token that was made without the engine.
func (v *View) foreign(one *reconcile.Item) string {
	parts := []string{"the token was made without the engine"}
	if one.CreatedAt.IsZero() {
		parts = append(parts, "of unknown age")
	} else {
		parts = append(parts, fmt.Sprintf("%d days old", max(0, int(v.Now.Sub(one.CreatedAt).Hours()/24))))
	}
	if one.ExpiresAt.IsZero() {
		parts = append(parts, "without an expiry")
	} else {
		parts = append(parts, "expires on "+day(one.ExpiresAt))
	}
	if !one.LastUsedAt.IsZero() {
		parts = append(parts, "last used on "+day(one.LastUsedAt))
	}
	return strings.Join(parts, ", ") + "; move the client to a role, then revoke the token at the service"
}

// pasted matches a scope that a shell takes as it is.
var pasted = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:._/-]*$`)

// roleFor returns the command that creates a role in place of a foreign token. Texts of the service are in the command only if
// a shell takes them as they are.
func (v *View) roleFor(c *upstream.Connection, one *reconcile.Item) string {
	command := "vault write " + v.MountPoint + "roles/... connection=" + c.Name()
	p := v.Connections.Providers.Get(c.Provider)
	if p == nil {
		return command
	}
	for _, name := range slices.Sorted(maps.Keys(p.Params)) {
		if !p.Params[name].Required {
			continue
		}
		value := "..."
		plain := !slices.ContainsFunc(one.Scopes, func(s string) bool { return !pasted.MatchString(s) })
		if (name == "scopes" || name == "policies") && len(one.Scopes) > 0 && plain {
			value = strings.Join(one.Scopes, ",")
		}
		command += " params=" + name + "=" + value
	}
	return command + " ttl=..."
}

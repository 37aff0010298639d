package verifytest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/feed"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// ServeHTTP serves the paths of Vault that a verifier uses.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, mediaType, body := i.answer(r)
	i.mu.Lock()
	pause := i.pause
	i.mu.Unlock()
	if pause != nil {
		pause(strings.TrimPrefix(r.URL.Path, mount+"/"))
	}
	w.Header().Set("Content-Type", mediaType)
	if mediaType != "application/json" {
		w.Header().Set("Cache-Control", "max-age=300")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (i *Issuer) answer(r *http.Request) (status int, mediaType string, body []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	path, ours := strings.CutPrefix(r.URL.Path, mount+"/")
	if !ours {
		path = strings.TrimPrefix(r.URL.Path, "/v1/")
	}
	i.calls[path]++
	problem := func(status int, text string) (int, string, []byte) {
		return status, "application/json", encode(map[string]any{"errors": []string{text}})
	}
	if i.down {
		return problem(http.StatusServiceUnavailable, "Vault is sealed")
	}
	switch {
	case ours && path == "oauth/jwks":
		return http.StatusOK, "application/jwk-set+json", encode(i.signing.PublicKeys())
	case ours && path == "oauth/status/"+strconv.Itoa(statusList):
		return http.StatusOK, "application/statuslist+jwt", i.statusList()
	case ours && path == ".well-known/openid-configuration" && i.issuer != "":
		return http.StatusOK, "application/json", encode(map[string]any{"issuer": i.issuer})
	case ours && path == ".well-known/openid-configuration":
		return problem(http.StatusNotFound, "the mount has no issuer")
	case ours && path == "leaked":
		return http.StatusOK, "application/json", encode(map[string]any{"data": i.leaked(r)})
	case strings.HasPrefix(path, "auth/") && strings.HasSuffix(path, "/login"):
		id := "login-" + strconv.Itoa(i.calls[path])
		i.logins[id] = true
		return http.StatusOK, "application/json", encode(map[string]any{
			"auth": map[string]any{"client_token": id, "lease_duration": 3600},
		})
	}
	if given := r.Header.Get("X-Vault-Token"); given != VaultToken && !i.logins[given] {
		return problem(http.StatusForbidden, "permission denied")
	}
	switch path {
	case "introspect":
		return http.StatusOK, "application/json", encode(map[string]any{"data": i.introspect(r)})
	case "usage":
		return http.StatusOK, "application/json", encode(map[string]any{"data": i.report(r)})
	case "feed":
		return http.StatusOK, "application/json", encode(map[string]any{"data": i.events(r)})
	case "auth/token/revoke-self":
		delete(i.logins, r.Header.Get("X-Vault-Token"))
		return http.StatusNoContent, "application/json", nil
	}
	return problem(http.StatusNotFound, "no handler for this path")
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// introspect answers as the engine does: backend/path_introspect.go.
func (i *Issuer) introspect(r *http.Request) map[string]any {
	var in struct {
		Token    string `json:"token"`
		Scopes   string `json:"required_scopes"`
		Audience string `json:"audience"`
		ClientIP string `json:"client_ip"`
		Region   string `json:"region"`
		Host     string `json:"host"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	at := i.feed.Position()
	data := map[string]any{"active": false, "epoch": at.Epoch, "cursor": at.Cursor}
	one := i.issued[in.Token]
	if one == nil {
		reason := access.Unknown
		if !token.IsJWT(in.Token) && !token.Checksum(in.Token) {
			reason = access.Malformed
		}
		data["reason"] = reason
		return data
	}
	c := one.claims
	use := &access.Use{
		Scopes: splitList(in.Scopes), Audience: in.Audience, ClientIP: parseIP(in.ClientIP), Region: in.Region, Host: in.Host,
	}
	reason := i.decide(in.Token, use)
	data["active"] = reason == access.Good
	if reason != access.Good {
		data["reason"], data["detail"] = reason, access.Explain(reason, one.permissions, use)
	}
	if i.keyGone(in.Token) {
		return data // nobody can open the token
	}
	data["token_id"], data["environment"], data["exp"], data["role"] = c.Name(), Environment, c.ExpiresAt.Unix(), one.role
	data["scope"], data["aud"] = one.permissions.Scopes.Parameter(), one.permissions.Audience
	if c.Subject != "" {
		data["sub"] = c.Subject
	}
	if !c.Confirmation.IsZero() {
		data["cnf"] = c.Confirmation
	}
	if c.Metadata != nil {
		data["metadata"] = c.Metadata
	}
	bounds, left := one.permissions.Effective()
	if bounds.Addresses.Restricted() || !left {
		data["token_bound_cidrs"] = bounds.Addresses.Strings()
	}
	if bounds.Regions.Restricted() {
		data["bound_regions"] = bounds.Regions.Strings()
	}
	if len(bounds.Hosts) > 0 {
		data["bound_hosts"] = bounds.Hosts
	}
	if one.spec.RateLimit != "" {
		data["rate_limit"] = one.spec.RateLimit
	}
	return data
}

// decide decides on a use of an issued token. The caller holds mu.
func (i *Issuer) decide(text string, use *access.Use) access.Reason {
	one := i.issued[text]
	state := access.State{
		ExpiresAt: one.claims.ExpiresAt, Revoked: i.revoked[one.claims.Grant] || i.keyGone(text), RoleDeleted: one.roleGone,
		SubjectDisabled: one.disabled, Suspended: i.suspended[one.claims.Grant.String()] || i.suspended[one.claims.Subject],
	}
	return access.Decide(i.now(), state, one.permissions, use)
}

// keyGone reports whether the key of a JWT was destroyed.
func (i *Issuer) keyGone(text string) bool {
	if !token.IsJWT(text) {
		return false
	}
	_, err := token.OpenJWT(i.signing, text)
	return err != nil
}

func (i *Issuer) events(r *http.Request) map[string]any {
	q := r.URL.Query()
	cursor, _ := strconv.ParseUint(q.Get("cursor"), 10, 64)
	from := feed.Position{Epoch: q.Get("epoch"), Cursor: cursor}
	events, next, more, known := i.feed.After(from, 1000)
	listed := []any{}
	for _, e := range events {
		event := map[string]any{"type": e.Kind, "id": e.ID}
		if !e.Until.IsZero() {
			event["until"] = e.Until.UTC().Format(time.RFC3339)
		}
		listed = append(listed, event)
	}
	return map[string]any{
		"epoch": next.Epoch, "cursor": next.Cursor, "events": listed, "more": more, "resync": !known && from.Epoch != "",
	}
}

// statusList returns the signed list of all JWTs: native/statuslists.go.
func (i *Issuer) statusList() []byte {
	var revoked, suspended []uint32
	for _, one := range i.issued {
		switch c := one.claims; {
		case !one.list:
		case i.revoked[c.Grant] || one.roleGone:
			revoked = append(revoked, c.Status.Index)
		case i.suspended[c.Grant.String()] || i.suspended[c.Subject]:
			suspended = append(suspended, c.Status.Index)
		}
	}
	lst, bits, err := token.EncodeStatusList(1<<20, revoked, suspended)
	if err != nil {
		panic(err)
	}
	now := i.now()
	signed, err := i.signing.Sign(token.TypeStatusList, encode(map[string]any{
		"sub": i.issuer + "/oauth/status/" + strconv.Itoa(statusList), "iat": now.Unix(), "exp": now.Add(3 * listTTL).Unix(),
		"ttl": int64(listTTL.Seconds()), "status_list": map[string]any{"bits": bits, "lst": lst},
	}))
	if err != nil {
		return []byte(err.Error())
	}
	return []byte(signed)
}

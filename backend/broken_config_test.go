package backend

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
)

// spoilConfig is a mount with tokens whose config cannot be read any more.
func spoilConfig(t *testing.T) (_ *engine, opaque, signed *creds, refresh string) {
	t.Helper()
	e := newIssuer(t)
	e.write("config", data{"environment": "production", "token_prefix": "acme"})
	e.write("roles/opaque", data{"scopes": "a", "ttl": "1h", "exchange": true})
	e.write("roles/signed", data{"scopes": "a", "token_format": "jwt", "audience": "https://x", "ttl": "1h"})
	e.write("roles/refreshed", data{"scopes": "a", "refresh": true, "access_ttl": "5m"})
	e.write("static-roles/kept", data{"role": "opaque", "rotation_period": "1h"})
	opaque, signed = e.creds("opaque", nil), e.creds("signed", nil)
	refresh = e.creds("refreshed", nil).data["refresh_token"].(string)
	e.b.Flush(t.Context())
	e.spoil("config", `{dam`)
	return e.restart(), opaque, signed, refresh
}

// A config that cannot be read costs what is made by it, and no revocation or introspection.
func TestBrokenConfig(t *testing.T) {
	t.Parallel()
	e, opaque, signed, refresh := spoilConfig(t)
	const why = "the stored entry config cannot be read"
	if got := e.list("broken/", nil); !slices.Equal(got, []string{"config"}) {
		t.Errorf("broken/ lists %q", got)
	}
	e.refused(logical.ReadOperation, "config", nil, why)
	e.refused(logical.UpdateOperation, "creds/opaque", nil, why)
	e.refused(logical.UpdateOperation, "creds/signed", nil, why)
	e.refused(logical.UpdateOperation, "roles/other", data{"scopes": "a"}, why)
	e.refused(logical.UpdateOperation, "rotate-role/kept", nil, why)
	for _, path := range []string{"creds/opaque", "rotate-role/kept"} {
		_, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: path})
		if coded := logical.HTTPCodedError(nil); !errors.As(err, &coded) || coded.Code() != http.StatusInternalServerError {
			t.Errorf("%s: %v, want a fault of the server", path, err)
		}
	}
	e.refused(logical.UpdateOperation, "oauth/token", data{"grant_type": native.GrantTypeRefresh, "refresh_token": refresh}, why)
	e.refused(logical.UpdateOperation, "oauth/token", data{"grant_type": native.GrantTypeExchange, "subject_token": opaque.token, "subject_token_type": native.TypeAccessToken}, why)

	e.expect("active", opaque.token, nil)
	e.expect("active", signed.token, nil)
	e.expect("active", e.read("static-creds/kept")["token"].(string), nil)
	if answer := e.write("introspect", data{"token": opaque.token}); answer["environment"] != nil {
		t.Errorf("an environment that is guessed: %v", answer)
	}
	if status, body := e.form("oauth/introspect", data{"token": opaque.token}); status != 200 || body["active"] != true {
		t.Errorf("%d %v", status, body)
	}
	if resp := e.do(logical.ReadOperation, "oauth/jwks", nil); resp.Data[logical.HTTPCacheControlHeader] != "no-store" {
		t.Error(resp.Data)
	}
	if resp, err := e.renew(opaque, 0); err != nil || resp.IsError() {
		t.Errorf("renew: %v, %v", resp, err)
	}
	e.write("revoke", data{"token_id": signed.id})
	e.expect("revoked", signed.token, nil)
	e.revokeLease(opaque)
	e.expect("revoked", opaque.token, nil)
	if status, _ := e.form("oauth/revoke", data{"token": refresh}); status != 200 {
		t.Error(status)
	}
	e.expect("revoked", refresh, nil)
	if resp := e.do(logical.UpdateOperation, "keys/rotate", nil); len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], why) {
		t.Error(resp.Warnings)
	}
	for _, key := range e.list("keys/", nil) {
		e.do(logical.DeleteOperation, "keys/"+key, nil)
	}
	if _, err := e.request(&logical.Request{Operation: logical.RollbackOperation}); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("what is due goes on without the settings: %v", err)
	}
}

// A write or a deletion brings a mount back whose config cannot be read, and says that the settings are the defaults.
func TestBrokenConfigIsReplaced(t *testing.T) {
	t.Parallel()
	e, _, _, _ := spoilConfig(t)
	e.refused(logical.UpdateOperation, "config", data{"environment": "production"}, `issuer: is needed, since role "signed" issues JWTs`)
	resp := e.do(logical.UpdateOperation, "config", data{"issuer": issuer})
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "has its default") {
		t.Error(resp.Warnings)
	}
	if c := e.read("config"); c["token_prefix"] != "apt" || c["issuer"] != issuer {
		t.Error(c)
	}
	if got := e.list("broken/", nil); len(got) != 0 {
		t.Errorf("broken/ lists %q", got)
	}
	e.creds("opaque", nil)
	e.creds("signed", nil)

	e.spoil("config", `{"token_prefix": 5}`)
	e = e.restart()
	if resp := e.do(logical.DeleteOperation, "broken/config", nil); len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "has its default") {
		t.Error(resp)
	}
	e = e.restart() // the entry is gone from storage, too
	if got := e.list("broken/", nil); len(got) != 0 {
		t.Errorf("broken/ lists %q", got)
	}
	e.creds("opaque", nil)
	e.refused(logical.UpdateOperation, "creds/signed", nil, `role "signed" issues JWTs, and the config has no issuer`)
	e.do(logical.UpdateOperation, "config", data{"issuer": issuer})
	e.creds("signed", nil)
	e.refused(logical.DeleteOperation, "broken/config", nil, "is not the key of an entry")
}

// A refresh of a grant whose JWTs have no issuer any more is the fault of the mount, not of the client: a client that is
// told that its request is wrong gives up the grant.
func TestARefreshWithoutIssuerIsNoFaultOfTheClient(t *testing.T) {
	t.Parallel()
	e := newIssuer(t)
	e.write("roles/app", data{"scopes": "a", "token_format": "jwt", "audience": "https://x", "refresh": true, "access_ttl": "5m", "exchange": true})
	c := e.creds("app", nil)
	e.spoil("config", `{dam`)
	e = e.restart()
	e.do(logical.DeleteOperation, "broken/config", nil)
	for _, d := range []data{
		{"grant_type": native.GrantTypeRefresh, "refresh_token": c.data["refresh_token"]},
		{"grant_type": native.GrantTypeExchange, "subject_token": c.token, "subject_token_type": native.TypeAccessToken},
	} {
		if resp, err := e.request(&logical.Request{Operation: logical.UpdateOperation, Path: "oauth/token", Data: d}); err == nil || !strings.Contains(err.Error(), "the config has no issuer") {
			t.Errorf("%s: %v, %v", d["grant_type"], resp, err)
		}
	}
	e.write("config", data{"issuer": issuer})
	e.mustRefresh(c.data["refresh_token"].(string))
}

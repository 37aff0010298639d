package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/hashicorp/vault/api"
	"golang.org/x/oauth2"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// mounted starts a Vault server of the test with the engine at apitoken/.
func mounted(t *testing.T) *vaultserver.Server {
	t.Helper()
	ctx := t.Context()
	server, err := vaultserver.Start(ctx, vaultserver.Config{Binary: vault, Dir: t.TempDir(), PluginDir: filepath.Dir(plugin)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	if err := server.Register(ctx, vaultserver.PluginName); err != nil {
		t.Fatal(err)
	}
	if err := server.Client().Sys().MountWithContext(ctx, "apitoken", &api.MountInput{Type: vaultserver.PluginName}); err != nil {
		t.Fatal(err)
	}
	return server
}

// TestGoClients drives the mount with OAuth clients for Go that this project has not written.
func TestGoClients(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := mounted(t)
	c := server.Client()
	write := func(path string, data map[string]any) *api.Secret {
		t.Helper()
		secret, err := c.Logical().WriteWithContext(ctx, path, data)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	issuer := server.Addr + "/v1/apitoken"
	write("apitoken/config", map[string]any{"issuer": issuer, "jwks_max_age": "1s"})
	write("apitoken/roles/orders", map[string]any{
		"token_format": "jwt", "scopes": "orders:read", "audience": "api", "ttl": "1h", "refresh": true, "access_ttl": "5m",
	})
	creds := write("apitoken/creds/orders", nil)

	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.VerifierContext(ctx, &oidc.Config{ClientID: "api", SupportedSigningAlgs: []string{"ES256"}})
	verify := func(text string) {
		t.Helper()
		verified, err := verifier.Verify(ctx, text)
		if err != nil {
			t.Fatal(err)
		}
		var claims struct{ Scope string }
		if err := verified.Claims(&claims); err != nil || claims.Scope != "orders:read" {
			t.Errorf("%+v, %v", claims, err)
		}
	}
	verify(creds.Data["token"].(string))

	// A token source refreshes by itself; the next keys are verified by the verifier of before.
	config := &oauth2.Config{ClientID: "orders", Endpoint: provider.Endpoint()}
	source := func(refreshToken string) *oauth2.Token {
		t.Helper()
		refreshed, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
		if err != nil {
			t.Fatal(err)
		}
		return refreshed
	}
	first := source(creds.Data["refresh_token"].(string))
	verify(first.AccessToken)
	if first.Type() != "Bearer" || time.Until(first.Expiry) > 5*time.Minute {
		t.Errorf("%s until %s", first.Type(), first.Expiry)
	}
	time.Sleep(1100 * time.Millisecond)
	write("apitoken/keys/rotate", nil)
	second := source(first.RefreshToken)
	verify(second.AccessToken)
	verify(first.AccessToken)

	// The answer of an error is one that the client understands.
	_, err = config.TokenSource(ctx, &oauth2.Token{RefreshToken: "noise"}).Token()
	if retrieve, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || retrieve.ErrorCode != "invalid_grant" {
		t.Errorf("%v", err)
	}

	// An API server that introspects, with the client's own transport.
	introspect := func(text string) (active bool) {
		t.Helper()
		caller := oauth2.NewClient(ctx, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: server.Token}))
		resp, err := caller.Post(issuer+"/oauth/introspect", "application/x-www-form-urlencoded", strings.NewReader("token="+text))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct{ Active bool }
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, err)
		}
		return answer.Active
	}
	if !introspect(second.AccessToken) {
		t.Error("not active")
	}
	if err := c.Sys().RevokeWithContext(context.Background(), creds.LeaseID); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for introspect(second.AccessToken) {
		if time.Now().After(deadline) {
			t.Fatal("still active after its lease was revoked")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

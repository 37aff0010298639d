package acceptance

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/scripts/vaultserver"
)

// verifierPolicy is the policy of a verifier in docs/setup.md.
const verifierPolicy = `
path "apitoken/introspect" { capabilities = ["update"] }
path "apitoken/feed"       { capabilities = ["read"] }
path "apitoken/usage"      { capabilities = ["update"] }`

// TestVerify has package verify check tokens of a real Vault server: it logs in by AppRole, sees revocations within two
// seconds, reports uses, and goes through a restart of Vault.
func TestVerify(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := vaultserver.Start(ctx, vaultserver.Config{Binary: vault, Dir: t.TempDir(), PluginDir: filepath.Dir(plugin)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	c := server.Client()
	write := func(path string, data map[string]any) *api.Secret {
		t.Helper()
		secret, err := c.Logical().WriteWithContext(ctx, path, data)
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	err = errors.Join(
		server.Register(ctx, vaultserver.PluginName),
		c.Sys().MountWithContext(ctx, "apitoken", &api.MountInput{Type: vaultserver.PluginName}),
		c.Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"}),
		c.Sys().PutPolicyWithContext(ctx, "verifier", verifierPolicy),
	)
	if err != nil {
		t.Fatal(err)
	}
	write("auth/approle/role/verifier", map[string]any{"token_policies": "verifier", "token_ttl": "20m"})
	role, err := c.Logical().ReadWithContext(ctx, "auth/approle/role/verifier/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secret := write("auth/approle/role/verifier/secret-id", nil)
	write("apitoken/config", map[string]any{"issuer": server.Addr + "/v1/apitoken", "environment": "production"})
	write("apitoken/roles/opaque", map[string]any{"scopes": "orders:read", "audience": "api", "ttl": "1h"})
	write("apitoken/roles/jwt", map[string]any{"scopes": "orders:read", "audience": "api", "ttl": "1h", "token_format": "jwt"})

	v, err := verify.New(ctx, verify.Config{
		Audience: "api", Environment: "production", Logger: slog.New(slog.DiscardHandler), ReportInterval: 500 * time.Millisecond,
		Vault: &verify.VaultConfig{
			Address: server.Addr,
			AppRole: &verify.AppRole{RoleID: role.Data["role_id"].(string), SecretID: secret.Data["secret_id"].(string)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	check := func(text string) (access.Reason, error) {
		d, err := v.Check(context.Background(), text, &verify.Use{Scopes: []string{"orders:read"}})
		return d.Reason, err
	}
	within := func(what string, limit time.Duration, done func() bool) {
		t.Helper()
		began := time.Now()
		for !done() {
			if time.Since(began) > limit {
				t.Fatalf("%s: not within %s", what, limit)
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("%s: after %s", what, time.Since(began).Round(time.Millisecond))
	}

	texts := make(map[string]string)
	for _, kind := range []string{"opaque", "jwt"} {
		creds := write("apitoken/creds/"+kind, nil)
		text := creds.Data["token"].(string)
		if reason, err := check(text); err != nil || reason != access.Good {
			t.Fatalf("%s: %q, %v", kind, reason, err)
		}
		within("the use of the "+kind+" token is counted", 10*time.Second, func() bool {
			usage, _ := write("apitoken/lookup", map[string]any{"token_id": creds.Data["token_id"]}).Data["usage"].(map[string]any)
			return usage["last_used_at"] != nil
		})
		write("apitoken/revoke", map[string]any{"token_id": creds.Data["token_id"]})
		within("the revoked "+kind+" token is refused", 2*time.Second, func() bool {
			reason, err := check(text)
			return err == nil && reason == access.Revoked
		})
		texts[kind] = write("apitoken/creds/"+kind, nil).Data["token"].(string)
		if reason, err := check(texts[kind]); err != nil || reason != access.Good {
			t.Fatalf("%s: %q, %v", kind, reason, err)
		}
	}

	// A mount that gets its issuer after a verifier has started.
	if err := c.Sys().MountWithContext(ctx, "later", &api.MountInput{Type: vaultserver.PluginName}); err != nil {
		t.Fatal(err)
	}
	late, err := verify.New(ctx, verify.Config{
		Audience: "api", Logger: slog.New(slog.DiscardHandler),
		Vault: &verify.VaultConfig{Address: server.Addr, Mount: "later", Token: c.Token()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = late.Close() })
	write("later/config", map[string]any{"issuer": server.Addr + "/v1/later", "jwks_max_age": "1s"})
	write("later/roles/jwt", map[string]any{"scopes": "a", "audience": "api", "ttl": "1h", "token_format": "jwt"})
	time.Sleep(1100 * time.Millisecond) // until the first signing key may sign
	lately := write("later/creds/jwt", nil).Data["token"].(string)
	if d, err := late.Check(ctx, lately, nil); err != nil || d.Reason != access.WrongEnvironment {
		t.Errorf("before the issuer is read: %q, %v", d.Reason, err)
	}

	if err := server.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	within("the feed is read again after a restart", 30*time.Second, func() bool { return v.State().Ready && v.State().FeedAge < 2*time.Second })
	for kind, text := range texts {
		if reason, err := check(text); err != nil || reason != access.Good {
			t.Errorf("%s after a restart: %q, %v", kind, reason, err)
		}
	}
	within("a JWT of the new issuer is good", 30*time.Second, func() bool {
		d, err := late.Check(ctx, lately, nil)
		return err == nil && d.Allowed
	})
}

package verify_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify/verifytest"
)

func TestConfigErrors(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		for want, change := range map[string]func(*verify.Config){
			"neither Issuer nor Vault":       func(c *verify.Config) { c.Vault = nil },
			"Issuer: \"vault\" is not a URL": func(c *verify.Config) { c.Issuer = "vault" },
			"Audience: not set":              func(c *verify.Config) { c.Audience = "" },
			"Hosts: ":                        func(c *verify.Config) { c.Hosts = []string{"a b"} },
			"0.0.0.0/0 are all addresses":    func(c *verify.Config) { c.TrustedProxies = []string{"10.0.0.0/8", "0.0.0.0/0"} },
			"::/0 are all addresses":         func(c *verify.Config) { c.TrustedProxies = []string{"::/0"} },
			"TrustedProxies: \"x\"":          func(c *verify.Config) { c.TrustedProxies = []string{"x"} },
			"DPoP.NonceKey: 3 bytes":         func(c *verify.Config) { c.DPoP.NonceKey = []byte("key") },
			"DPoP.MaxProofs: 10000001":       func(c *verify.Config) { c.DPoP.MaxProofs = 10_000_001 },
			"DPoP.MaxAge: 11m0s":             func(c *verify.Config) { c.DPoP.MaxAge = 11 * time.Minute },
			"MaxAge: 2m0s is not between":    func(c *verify.Config) { c.MaxAge = 2 * time.Minute },
			"ClockSkew: 1h0m0s":              func(c *verify.Config) { c.ClockSkew = time.Hour },
			"PollInterval: -1s":              func(c *verify.Config) { c.PollInterval = -time.Second },
			"MaxTokens: -1 is negative":      func(c *verify.Config) { c.MaxTokens = -1 },
			"Vault.Address: \"vault:8200\"":  func(c *verify.Config) { c.Vault.Address = "vault:8200" },
			"without user":                   func(c *verify.Config) { c.Vault.Address = "https://a:b@vault.test" },
			"0 ways to log in":               func(c *verify.Config) { c.Vault = &verify.VaultConfig{} },
			"2 ways to log in":               func(c *verify.Config) { c.Vault = &verify.VaultConfig{Token: "a", TokenFile: "b"} },
			"Vault.AppRole: RoleID":          func(c *verify.Config) { c.Vault = &verify.VaultConfig{AppRole: &verify.AppRole{}} },
			"Vault.Kubernetes: Role":         func(c *verify.Config) { c.Vault = &verify.VaultConfig{Kubernetes: &verify.LoginRole{}} },
			"Vault.JWT: Role and JWTFile":    func(c *verify.Config) { c.Vault = &verify.VaultConfig{JWT: &verify.LoginRole{Role: "r"}} },
			"status 403":                     func(c *verify.Config) { c.Vault.Token = "wrong" },
			"Vault.TokenFile: stat /no/file": func(c *verify.Config) { c.Vault.Token, c.Vault.TokenFile = "", "/no/file" },
		} {
			c := i.Config()
			change(&c)
			v, err := verify.New(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			if v != nil {
				v.Close()
			}
		}
		i.SetDown(true)
		if _, err := verify.New(t.Context(), i.Config()); err == nil {
			t.Error("a Verifier began without an issuer")
		}
	})
}

// Each way to log in gets a Vault token, and another one when Vault refuses the first.
func TestLogin(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*verify.VaultConfig{
		"auth/approle/login":    {AppRole: &verify.AppRole{RoleID: "r", SecretIDFile: file}},
		"auth/kubernetes/login": {Kubernetes: &verify.LoginRole{Role: "r", JWTFile: file}},
		"auth/other/login":      {JWT: &verify.LoginRole{Mount: "/other/", Role: "r", JWTFile: file}},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, i *verifytest.Issuer) {
				config := i.Config()
				c.Address = config.Vault.Address
				config.Vault = c
				v, err := verify.New(t.Context(), config)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				i.ExpireLogins()
				expect(t, v, i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), nil, access.Good)
				if n := i.Calls(name); n != 2 {
					t.Errorf("%d logins, want 2", n)
				}
				time.Sleep(41 * time.Minute) // two thirds of the lease
				if n := i.Calls(name); n != 3 {
					t.Errorf("%d logins, want 3", n)
				}
				if err := v.Close(); err != nil || i.Calls("auth/token/revoke-self") != 1 {
					t.Errorf("%d Vault tokens were revoked, %v", i.Calls("auth/token/revoke-self"), err)
				}
			})
		})
	}
}

// Vault refuses the Vault token for good: Vault is not asked to log in more than once in five seconds.
func TestLoginStorm(t *testing.T) {
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		config := i.Config()
		config.Vault = &verify.VaultConfig{Address: config.Vault.Address, AppRole: &verify.AppRole{RoleID: "r"}}
		v := start(t, config)
		i.OnAnswer(func(path string) { i.ExpireLogins() })
		time.Sleep(time.Minute)
		for range 100 {
			if d, _ := v.Check(t.Context(), i.Opaque(t, verifytest.Token{Scopes: []string{"a"}}), nil); d.Allowed {
				t.Error("a token is good without an answer of Vault")
			}
		}
		if n := i.Calls("auth/approle/login"); n > 14 {
			t.Errorf("%d logins in a minute", n)
		}
	})
}

// Vault Agent writes another Vault token to the file.
func TestTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("another Vault token")
	inTime(t, func(t *testing.T, i *verifytest.Issuer) {
		config := i.Config()
		config.Vault.Token, config.Vault.TokenFile = "", file
		if _, err := verify.New(t.Context(), config); err == nil {
			t.Error("the wrong Vault token is good")
		}
		write(verifytest.VaultToken + "\n")
		v := start(t, config)
		write("wrong")
		time.Sleep(2 * time.Second)
		text := i.Opaque(t, verifytest.Token{Scopes: []string{"a"}})
		expect(t, v, text, nil, "error")
		write(verifytest.VaultToken)
		expect(t, v, text, nil, access.Good)
	})
}

// An API server that imports this package alone does not pull in the SDK of plugins.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".", "./verifytest").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for path := range strings.Lines(string(out)) {
		if strings.HasPrefix(path, "github.com/hashicorp/vault/") && !strings.HasPrefix(path, "github.com/hashicorp/vault/api") {
			t.Errorf("the package depends on %s", path)
		}
	}
}

package verify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// loginPause is the shortest time between two logins.
const loginPause = 5 * time.Second

const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

func (c *VaultConfig) check() error {
	ways := 0
	for _, set := range [...]bool{c.Token != "", c.TokenFile != "", c.AppRole != nil, c.Kubernetes != nil, c.JWT != nil} {
		if set {
			ways++
		}
	}
	switch {
	case ways != 1:
		return wrong("Vault", "%d ways to log in are set: set one of Token, TokenFile, AppRole, Kubernetes and JWT", ways)
	case c.AppRole != nil && (c.AppRole.RoleID == "" || (c.AppRole.SecretID != "" && c.AppRole.SecretIDFile != "")):
		return wrong("Vault.AppRole", "RoleID is required, and at most one of SecretID and SecretIDFile")
	case c.Kubernetes != nil && c.Kubernetes.Role == "":
		return wrong("Vault.Kubernetes", "Role is required")
	case c.JWT != nil && (c.JWT.Role == "" || c.JWT.JWTFile == ""):
		return wrong("Vault.JWT", "Role and JWTFile are required")
	}
	return nil
}

// CheckVaultAddress reports what is wrong with the address of a Vault server. An empty address stands for VAULT_ADDR.
func CheckVaultAddress(address string) error {
	if address == "" {
		return nil
	}
	u, err := url.Parse(address)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "unix",
		u.Scheme == "unix" && u.Path == "", u.Scheme != "unix" && u.Hostname() == "":
		return fmt.Errorf("%q is not a URL with https://, such as https://vault.example.com:8200", address)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("must be a URL without user, query and fragment, such as https://vault.example.com:8200")
	}
	return nil
}

// login gets the first Vault token.
func (v *vault) login(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err := v.loginLocked(ctx)
	return err
}

// renew gets a new Vault token after one was refused; again is false if there can be no other now.
func (v *vault) renew(ctx context.Context, refused string) (again bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.client.Token() != refused { // another caller was faster
		return true, nil
	}
	if v.config.TokenFile == "" && v.now().Sub(v.loggedIn) < loginPause {
		return false, nil
	}
	return v.loginLocked(ctx)
}

// keepUp logs in again in time, and reads the token file again when it has changed.
func (v *vault) keepUp(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.config.TokenFile == "" && (v.renewAt.IsZero() || v.now().Before(v.renewAt) || v.now().Sub(v.loggedIn) < loginPause) {
		return nil
	}
	_, err := v.loginLocked(ctx)
	return err
}

// loginLocked reports whether the Vault token is another than before.
func (v *vault) loginLocked(ctx context.Context) (changed bool, err error) {
	v.loggedIn = v.now()
	switch c := v.config; {
	case c.Token != "":
		changed = v.client.Token() != c.Token
		v.client.SetToken(c.Token)
		return changed, nil
	case c.TokenFile != "":
		return v.readTokenFile()
	case c.AppRole != nil:
		body := map[string]any{"role_id": c.AppRole.RoleID}
		secret := c.AppRole.SecretID
		if c.AppRole.SecretIDFile != "" {
			if secret, err = readSecret(c.AppRole.SecretIDFile); err != nil {
				return false, wrong("Vault.AppRole.SecretIDFile", "%w", err)
			}
		}
		if secret != "" {
			body["secret_id"] = secret
		}
		return v.loginAt(ctx, c.AppRole.Mount, "approle", body)
	case c.Kubernetes != nil:
		return v.loginWithJWT(ctx, c.Kubernetes, "kubernetes", serviceAccountToken)
	default:
		return v.loginWithJWT(ctx, c.JWT, "jwt", "")
	}
}

func (v *vault) loginWithJWT(ctx context.Context, l *LoginRole, method, file string) (bool, error) {
	if l.JWTFile != "" {
		file = l.JWTFile
	}
	jwt, err := readSecret(file)
	if err != nil {
		return false, fmt.Errorf("JWTFile of the login: %w", err)
	}
	return v.loginAt(ctx, l.Mount, method, map[string]any{"role": l.Role, "jwt": jwt})
}

func (v *vault) loginAt(ctx context.Context, mount, method string, body map[string]any) (bool, error) {
	if mount = strings.Trim(mount, "/"); mount == "" {
		mount = method
	}
	client, err := v.client.CloneWithHeaders()
	if err != nil {
		return false, err
	}
	client.ClearToken()
	ctx, cancel := context.WithTimeout(ctx, v.timeout)
	defer cancel()
	secret, err := client.Logical().WriteWithContext(ctx, "auth/"+mount+"/login", body)
	if err != nil {
		return false, fmt.Errorf("login at auth/%s: %w", mount, plain(err))
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return false, fmt.Errorf("login at auth/%s: the answer has no token", mount)
	}
	v.client.SetToken(secret.Auth.ClientToken)
	v.own, v.renewAt = true, time.Time{}
	if ttl := time.Duration(secret.Auth.LeaseDuration) * time.Second; ttl > 0 {
		v.renewAt = v.now().Add(ttl * 2 / 3)
	}
	return true, nil
}

func (v *vault) readTokenFile() (changed bool, err error) {
	stamp, err := stampOf(v.config.TokenFile)
	if err == nil && stamp == v.stamp {
		return false, nil
	}
	text := ""
	if err == nil {
		text, err = readSecret(v.config.TokenFile)
	}
	if err != nil {
		return false, wrong("Vault.TokenFile", "%w", err)
	}
	changed = v.client.Token() != text
	v.client.SetToken(text)
	v.stamp = stamp
	return changed, nil
}

// readSecret reads a file with one secret.
func readSecret(path string) (string, error) {
	content, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(content))
	if text == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

// logout revokes a Vault token that a login made.
func (v *vault) logout(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.own {
		return nil
	}
	v.own = false
	err := plain(v.client.Auth().Token().RevokeSelfWithContext(ctx, ""))
	if answered, ok := errors.AsType[*vaultError](err); ok && answered.status == http.StatusForbidden {
		return nil // the Vault token has expired or was revoked
	}
	return err
}

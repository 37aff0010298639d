package verify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// vault is the mount as a client of Vault sees it.
type vault struct {
	client *api.Client
	mount  string
	config *VaultConfig
	now    func() time.Time

	// timeout is the time limit of a request, with the answer. The client has none: it would stop an answer to a write that is
	// still being read.
	timeout time.Duration

	mu       sync.Mutex
	stamp    fileStamp // of TokenFile
	loggedIn time.Time // last attempt
	renewAt  time.Time // when to log in again; zero: never
	own      bool      // whether the token comes from a login, and is revoked in the end
}

func newVault(c *Config) (*vault, error) {
	settings := api.DefaultConfig()
	if settings.Error != nil {
		return nil, settings.Error
	}
	if c.HTTPClient != nil {
		client := *c.HTTPClient // the client of Vault changes what it is given
		settings.HttpClient = &client
	}
	settings.MaxRetries = 0 // a use of a token waits for the answer; the feed is polled again anyway
	if c.Vault.Address != "" {
		settings.Address = c.Vault.Address
	}
	if err := CheckVaultAddress(settings.Address); err != nil { // of the configuration, or VAULT_ADDR
		return nil, wrong("Vault.Address", "%w", err)
	}
	if c.Vault.CACert != "" {
		if err := settings.ConfigureTLS(&api.TLSConfig{CACert: c.Vault.CACert}); err != nil {
			return nil, wrong("Vault.CACert", "%w", err)
		}
	}
	client, err := api.NewClient(settings)
	if err != nil {
		return nil, wrong("Vault.Address", "%w", err)
	}
	client.SetClientTimeout(0)
	if c.Vault.Namespace != "" {
		client.SetNamespace(c.Vault.Namespace)
	}
	mount := strings.Trim(c.Vault.Mount, "/")
	if mount == "" {
		mount = "apitoken"
	}
	return &vault{client: client, mount: mount, config: c.Vault, now: c.Now, timeout: c.RequestTimeout}, nil
}

// base returns the URL of the mount.
func (v *vault) base() string {
	base := strings.TrimSuffix(v.client.Address(), "/") + "/v1/"
	if ns := strings.Trim(v.client.Namespace(), "/"); ns != "" {
		base += ns + "/"
	}
	return base + v.mount
}

// answer is an answer of the path introspect.
type answer struct {
	Active      bool          `json:"active"`
	Reason      access.Reason `json:"reason"`
	Detail      string        `json:"detail"`
	Scope       string        `json:"scope"`
	Expires     int64         `json:"exp"`
	Subject     string        `json:"sub"`
	Audience    []string      `json:"aud"`
	TokenID     string        `json:"token_id"`
	Role        string        `json:"role"`
	Environment string        `json:"environment"`
	Bound       struct {
		JKT string `json:"jkt"`
		X5T string `json:"x5t#S256"`
	} `json:"cnf"`
	Metadata map[string]string `json:"metadata"`
	CIDRs    []string          `json:"token_bound_cidrs"`
	Regions  []string          `json:"bound_regions"`
	Hosts    []string          `json:"bound_hosts"`
	Rate     string            `json:"rate_limit"`
	Epoch    string            `json:"epoch"`
	Cursor   int64             `json:"cursor"`
}

// introspect asks what a token says, without a use. The node that answers knows the feed up to minCursor.
func (v *vault) introspect(ctx context.Context, text string, minCursor int64) (*answer, error) {
	var a answer
	err := v.retrying(ctx, func() error {
		return v.write(ctx, "introspect", map[string]any{"token": text, "min_cursor": minCursor}, &a)
	})
	return &a, err
}

func (v *vault) feed(ctx context.Context, epoch string, cursor int64) (*feedAnswer, error) {
	var a feedAnswer
	query := url.Values{"cursor": {strconv.FormatInt(cursor, 10)}}
	if epoch != "" {
		query.Set("epoch", epoch)
	}
	err := v.retrying(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, v.timeout)
		defer cancel()
		resp, err := v.client.Logical().ReadRawWithDataWithContext(ctx, v.mount+"/feed", query)
		return decode(resp, err, &a)
	})
	return &a, err
}

func (v *vault) write(ctx context.Context, path string, body any, into any) error {
	req := v.client.NewRequest(http.MethodPut, "/v1/"+v.mount+"/"+path)
	if err := req.SetJSONBody(body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.timeout)
	defer cancel()
	// A node that is no longer active redirects: Logical().WriteRaw would lose the body there.
	resp, err := v.client.RawRequestWithContext(ctx, req) //nolint:staticcheck // see above
	return decode(resp, err, into)
}

// decode reads the data of an answer.
func decode(resp *api.Response, err error, into any) error {
	if resp != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		return plain(err)
	}
	if resp == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	return resp.DecodeJSON(&struct {
		Data any `json:"data"`
	}{into})
}

// plain shortens an error of Vault to one line.
func plain(err error) error {
	if answered, ok := errors.AsType[*api.ResponseError](err); ok {
		return &vaultError{answered.StatusCode, strings.Join(answered.Errors, "; ")}
	}
	return err
}

// vaultError is an error that Vault answered.
type vaultError struct {
	status int
	text   string
}

func (e *vaultError) Error() string { return fmt.Sprintf("status %d of Vault: %s", e.status, e.text) }

// retrying calls again after a new login if Vault has refused the Vault token.
func (v *vault) retrying(ctx context.Context, call func() error) error {
	used := v.client.Token()
	err := call()
	if answered, ok := errors.AsType[*vaultError](err); !ok || answered.status != http.StatusForbidden {
		return err
	}
	again, loginErr := v.renew(ctx, used)
	switch {
	case loginErr != nil:
		return fmt.Errorf("%w; then: %w", err, loginErr)
	case !again:
		return err
	}
	return call()
}

// fileStamp tells versions of a file apart.
type fileStamp struct {
	at   time.Time
	size int64
}

func stampOf(path string) (fileStamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{}, err
	}
	return fileStamp{info.ModTime(), info.Size()}, nil
}

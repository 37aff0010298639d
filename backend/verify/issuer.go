package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	issuerAge   = time.Minute     // how long the issuer of the mount's metadata is kept
	issuerRetry = 5 * time.Second // between two reads that fail
)

// issuer is the "iss" of JWTs; empty: the mount has no JWTs.
type issuer struct {
	url   atomic.Pointer[string]
	dueAt atomic.Int64 // nanoseconds since 1970: the next read of the metadata
}

func (i *issuer) get() string {
	if url := i.url.Load(); url != nil {
		return *url
	}
	return ""
}

func (i *issuer) set(url string) {
	url = strings.TrimSuffix(url, "/")
	i.url.Store(&url)
}

// due reports whether the metadata must be read. A read that is further away than issuerAge was planned before the clock
// stepped back.
func (i *issuer) due(now time.Time) bool {
	left := time.Duration(i.dueAt.Load() - now.UnixNano())
	return left <= 0 || left > issuerAge
}

// rediscover reads the issuer of the mount again if the last read is a minute old, or if events of the feed may be missing. An
// issuer of Config never changes.
func (v *impl) rediscover(ctx context.Context) error {
	if v.config.Issuer != "" || !v.issuer.due(v.config.Now()) {
		return nil
	}
	return v.discover(ctx)
}

// discover reads the issuer from the mount's metadata (OpenID Connect Discovery 1.0 section 4). A mount without an issuer
// has no JWTs.
func (v *impl) discover(ctx context.Context) error {
	now := v.config.Now()
	retry := now.Add(issuerRetry).UnixNano()
	v.issuer.dueAt.Store(retry)
	found, err := v.readIssuer(ctx)
	if err != nil {
		return fmt.Errorf("reading the issuer: %w", err)
	}
	if found != v.issuer.get() {
		if err := v.changeIssuer(ctx, found); err != nil {
			return err
		}
	}
	// A new epoch of the feed during the read asks for another read.
	v.issuer.dueAt.CompareAndSwap(retry, now.Add(issuerAge).UnixNano())
	return nil
}

// readIssuer returns the issuer that the mount's metadata names; empty: none.
func (v *impl) readIssuer(ctx context.Context) (string, error) {
	body, _, err := v.fetch(ctx, "/.well-known/openid-configuration", "application/json", maxJWKS)
	if status, ok := errors.AsType[*statusError](err); ok && status.status == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var metadata struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(body, &metadata); err != nil {
		return "", err
	}
	return strings.TrimSuffix(metadata.Issuer, "/"), nil
}

// changeIssuer forgets what is known of JWTs: those of the issuer of before are refused from now on.
func (v *impl) changeIssuer(ctx context.Context, to string) error {
	if v.keys.readAt.Load() == 0 && to != "" { // the mount had no issuer, so that the keys were never read
		if err := v.refreshKeys(ctx); err != nil {
			return err
		}
	}
	v.issuer.set(to)
	for sum, f := range v.tokens.All() {
		if f.local() {
			v.tokens.Invalidate(sum)
		}
	}
	v.refusals.InvalidateAll()
	v.recent.forget()
	return nil
}

package native

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// DestroyKey destroys a key of either kind, and with the key all tokens made with the key. DestroyKey refuses the name of no
// key, and warns if API servers may not know the key that signs from now on.
func (t *Tokens) DestroyKey(ctx context.Context, s logical.Storage, name string) (warnings []string, err error) {
	var unknownUntil time.Time
	switch {
	case t.Sealing.Keys().Find(name) != nil:
		err = t.Sealing.Destroy(ctx, s, name)
	case t.Signing.Keys().Find(name) != nil:
		unknownUntil, err = t.Signing.Destroy(ctx, s, name, t.Config.OrDefaults().SigningPolicy())
	default:
		return nil, refusal.Field("key", "there is no key %q, see keys/. Nothing was destroyed", refusal.Clip(name))
	}
	if err != nil {
		return nil, err
	}
	t.Log().Warn("key destroyed; its tokens revoked", "key", name)
	if unknownUntil.IsZero() {
		return nil, nil
	}
	return []string{fmt.Sprintf("API servers that cache the published keys may not know the key that signs from now on until %s, "+
		"and refuse new JWTs until then", rfc3339(unknownUntil))}, nil
}

// RotateKeys rotates the keys that seal and sign new tokens. The warnings say why the signing key stays.
func (t *Tokens) RotateKeys(ctx context.Context, s logical.Storage) (warnings []string, _ error) {
	if err := t.Sealing.Rotate(ctx, s); err != nil {
		return nil, err
	}
	c, err := t.Config.Get()
	if err != nil {
		return []string{"the signing key was not rotated: " + err.Error()}, nil
	}
	tooYoungUntil, err := t.Signing.Rotate(ctx, s, c.SigningPolicy())
	if err != nil || tooYoungUntil.IsZero() {
		return nil, err
	}
	return []string{"the signing key was not rotated: API servers may not know the successor yet, which was published too recently. " +
		"Rotate again after " + rfc3339(tooYoungUntil)}, nil
}

// KeysInUse are the names of the keys that make new tokens; empty if there is no such key.
type KeysInUse struct {
	Sealing string `json:"key"`
	Signing string `json:"signing_key"`
}

// KeysInUse returns the names of the keys that make new tokens.
func (t *Tokens) KeysInUse() (names KeysInUse) {
	if current := t.Sealing.Keys().Current(); current != nil {
		names.Sealing = current.Name
	}
	if current := t.Signing.Keys().Current(); current != nil {
		names.Signing = current.Name
	}
	return names
}

// DescribeKeys returns the names of all keys, the oldest of each kind first, and a description of each without secrets.
func (t *Tokens) DescribeKeys() (names []string, info map[string]any) {
	names, info = []string{}, make(map[string]any)
	for _, kind := range []struct {
		use  string
		keys token.Keys
	}{{"enc", t.Sealing.Keys()}, {"sig", t.Signing.Keys()}} {
		for i := range kind.keys {
			names = append(names, kind.keys[i].Name)
			info[kind.keys[i].Name] = describeKey(&kind.keys[i], kind.use)
		}
	}
	return names, info
}

func describeKey(key *token.Key, use string) map[string]any {
	about := map[string]any{"use": use, "state": key.State()}
	if key.Algorithm != "" {
		about["algorithm"] = key.Algorithm
	}
	if !key.CreatedAt.IsZero() {
		about["created_at"] = rfc3339(key.CreatedAt)
	}
	if !key.RetiredAt.IsZero() {
		about["retired_at"] = rfc3339(key.RetiredAt)
		about["needed_until"] = rfc3339(key.NeededUntil())
	}
	if key.Broken != nil {
		about["error"] = key.Broken.Error()
	}
	return about
}

// rfc3339 returns a time as answers show the time.
func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

package native

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/store"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// Reload reads a key again after another process has changed its storage entry.
func (k *keyring[R]) Reload(ctx context.Context, s logical.Storage, key string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.read(ctx, s, key[strings.LastIndexByte(key, '/')+1:])
}

// allKeys stands for the names of all keys.
const allKeys = "*"

// ReloadAll reads all keys from storage again.
func (k *keyring[R]) ReloadAll(ctx context.Context, s logical.Storage) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.read(ctx, s, allKeys)
}

// read brings memory up to date with storage. Of the known keys it reads only those again that may change: the current
// key, successors, keys that have retired within clockSkew, and the named key or allKeys. The caller holds mu.
func (k *keyring[R]) read(ctx context.Context, s logical.Storage, named string) error {
	names, err := s.List(ctx, k.prefix)
	if err != nil {
		return err
	}
	destroyed, err := s.List(ctx, k.destroyed)
	if err != nil {
		return err
	}
	known := byName(k.Keys())
	dead := make(map[string]bool, len(destroyed))
	for _, name := range destroyed {
		dead[name] = true
	}
	stored := slices.Concat(destroyed, names)
	keys := make([]*token.Key, len(stored))
	shorter := make([]bool, len(stored))
	var changing []int // indexes of keys to read
	k.leftover = nil
	for i, name := range stored {
		old := known[name]
		isDestroyed := i < len(destroyed)
		switch {
		case !isDestroyed && dead[name]:
			k.leftover = append(k.leftover, name)
		case old != nil && name != named && named != allKeys && old.Destroyed == isDestroyed && k.settled(old):
			keys[i] = old
		default:
			changing = append(changing, i)
		}
	}
	err = store.Each(ctx, changing, func(ctx context.Context, i int) (err error) {
		old, prefix, isDestroyed := known[stored[i]], k.prefix, i < len(destroyed)
		if isDestroyed {
			prefix = k.destroyed
		}
		keys[i], err = readKey(ctx, s, prefix, stored[i])
		if keys[i] != nil && old != nil {
			shorter[i] = keys[i].LongestLifetime < old.LongestLifetime
			keys[i].LongestLifetime = max(keys[i].LongestLifetime, old.LongestLifetime)
		}
		if keys[i] != nil && isDestroyed {
			keys[i].Destroyed, keys[i].Secret = true, nil
		}
		return err
	})
	if err != nil {
		return err
	}
	found := make([]token.Key, 0, len(keys))
	for i, key := range keys {
		if key != nil {
			found = append(found, *key)
		}
		if shorter[i] && i >= len(destroyed) && !slices.Contains(k.overwritten, key.Name) {
			k.overwritten = append(k.overwritten, key.Name)
		}
	}
	k.use(found)
	return nil
}

// settled reports whether the storage entry of a key changes no more, except by a process that drops the key's secret.
func (k *keyring[R]) settled(key *token.Key) bool {
	switch {
	case key.Broken != nil:
		return false
	case key.Destroyed || key.Secret == nil:
		return true
	}
	return !key.RetiredAt.IsZero() && key.RetiredAt.Before(k.now().Add(-clockSkew))
}

// Open opens a token with the keys of a ring. If the token's key is unknown, Open reads the key from storage and tries
// again.
func Open[R ring](ctx context.Context, s logical.Storage, k interface {
	Ring() R
	learn(ctx context.Context, s logical.Storage, name string) (bool, error)
}, text string, open func(R, string) (*token.Claims, error)) (*token.Claims, error) {
	claims, err := open(k.Ring(), text)
	unknown := (*token.UnknownKeyError)(nil)
	if !errors.As(err, &unknown) {
		return claims, err
	}
	if learned, err := k.learn(ctx, s, unknown.Name); err != nil {
		return nil, err
	} else if !learned {
		return nil, unknown
	}
	return open(k.Ring(), text)
}

// keyNamePattern matches the allowed names of keys. The name comes from a token and becomes part of a storage key.
var keyNamePattern = regexp.MustCompile(`^[0-9A-Za-z_-]{1,64}$`)

// learn reads a key that another process has made from storage, and reports whether the key exists.
func (k *keyring[R]) learn(ctx context.Context, s logical.Storage, name string) (bool, error) {
	if !keyNamePattern.MatchString(name) {
		return false, nil
	}
	key, err := readKey(ctx, s, k.destroyed, name)
	if key != nil {
		key.Destroyed, key.Secret = true, nil
	} else if err == nil {
		key, err = readKey(ctx, s, k.prefix, name)
	}
	if key == nil {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Keys().Find(name) == nil {
		k.use(append(slices.Clone(k.Keys()), *key))
	}
	return true, nil
}

// Damaged returns the storage keys of unusable keys, each with the reason.
func (k *keyring[R]) Damaged() map[string]error {
	damaged := make(map[string]error)
	for _, key := range k.Keys() {
		if key.State() == "broken" {
			damaged[k.prefix+key.Name] = key.Broken
		}
	}
	return damaged
}

// DropDamaged destroys an unusable key. It does nothing if there is none at the storage key.
func (k *keyring[R]) DropDamaged(ctx context.Context, s logical.Storage, storageKey string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := strings.TrimPrefix(storageKey, k.prefix)
	if err := k.read(ctx, s, name); err != nil {
		return err
	}
	if key := k.Keys().Find(name); key == nil || key.State() != "broken" {
		return nil
	}
	return k.destroy(ctx, s, name)
}

// readKey reads one key. It returns nil if there is none. A key that cannot be decoded is Broken.
func readKey(ctx context.Context, s logical.Storage, prefix, name string) (*token.Key, error) {
	entry, err := s.Get(ctx, prefix+name)
	if err != nil || entry == nil {
		return nil, err
	}
	key := new(token.Key)
	if err := entry.DecodeJSON(key); err != nil {
		key = &token.Key{Broken: fmt.Errorf("the entry cannot be decoded: %w", err)}
	}
	key.Name = name
	return key, nil
}

func writeKey(ctx context.Context, s logical.Storage, prefix string, key *token.Key) error {
	entry, err := logical.StorageEntryJSON(prefix+key.Name, key)
	if err != nil {
		return err
	}
	entry.SealWrap = true
	return s.Put(ctx, entry)
}

package upstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// What a reconciliation needs to know of a connection and its tokens.

// maxPlaces is the maximum number of params of roles whose places a reconciliation lists.
const maxPlaces = 200

// Listable returns the connection of a name. It refuses a connection whose service cannot be called or cannot list tokens.
func (k *Keeper) Listable(name string) (*Ready, error) {
	c, err := k.Connections.find(name)
	if err != nil {
		return nil, err
	}
	if p := c.Service.Provider; !p.CanList() {
		return nil, refusal.Field("name", "provider %q cannot list the tokens of the service", p.Name)
	}
	return c, nil
}

// CatchUp reads what other processes have stored: tokens, and the credentials of connections. The tokens and credentials
// that existed at the services when CatchUp began, and still exist, are then among Names.
func (k *Keeper) CatchUp(ctx context.Context) error {
	if err := k.Tokens.readIssuedElsewhere(ctx); err != nil {
		return err
	}
	k.Connections.Writing.Lock()
	defer k.Connections.Writing.Unlock()
	return k.Connections.ReloadAll(ctx, k.storage)
}

// Names returns the names, in lower case, of all tokens and credentials that the engine may have made at any service and
// that may exist. A name is stored before the service is called, and until the service has confirmed the revocation.
func (k *Keeper) Names() map[string]bool {
	names := make(map[string]bool)
	k.Tokens.Where(func(t *Token) bool {
		names[strings.ToLower(t.Name)] = true
		return false
	})
	for _, c := range k.Connections.All() {
		for _, name := range c.madeNames() {
			names[strings.ToLower(name)] = true
		}
	}
	return names
}

// Stored returns a token as storage has it now.
func (k *Keeper) Stored(ctx context.Context, id token.ID) (_ Token, known bool, _ error) {
	defer k.Tokens.lock(id)()
	t, err := k.Tokens.reread(ctx, id)
	if errors.Is(err, ErrRevoked) {
		return Token{}, false, nil
	}
	return t, err == nil, err
}

// Places returns the params of the roles and of the Live tokens of a connection, each once, and at most maxPlaces.
func (k *Keeper) Places(c *Ready) (places []map[string]any) {
	seen := make(map[string]bool)
	add := func(params map[string]any) {
		key, _ := json.Marshal(params) // params come from JSON
		if !seen[string(key)] && len(places) < maxPlaces {
			seen[string(key)] = true
			places = append(places, params)
		}
	}
	for _, r := range k.rolesOf(c.Connection) {
		add(r.Params)
	}
	for _, t := range k.Tokens.OfConnection(c.ID) {
		if t.State == Live {
			add(t.Params)
		}
	}
	return places
}

// leading matches the beginning of a name_template that is the same in all names: text, the mount path and the connection.
var leading = regexp.MustCompile(`^(?:[^{]|\{[^{]|\{\{\s*\.(?:MountPath|ConnectionName)\s*\}\})*`)

// action matches a value in leading.
var action = regexp.MustCompile(`\{\{\s*\.\w+\s*\}\}`)

// minMarker is the shortest beginning of a name that says who made a token, in bytes.
const minMarker = 3

// Markers returns how the names of the connection's tokens begin, in lower case: at the mount point of the engine, and at
// the mount point of the last write of the connection. Markers is empty if the names begin with something random.
func (c *Ready) Markers(mountPoint string) (markers []string) {
	constant := leading.FindString(cmp.Or(c.NameTemplate, DefaultNameTemplate))
	for _, at := range []string{mountPoint, c.MountPoint} {
		path := strings.ReplaceAll(strings.Trim(at, "/"), "/", "-")
		marker := action.ReplaceAllStringFunc(constant, func(value string) string {
			if strings.Contains(value, "MountPath") {
				return path
			}
			return c.name
		})
		const random = 13 // bytes at the end of a name that newTokenName keeps
		if longest := c.Service.Provider.MaxName; longest > random && len(marker) > longest-random {
			marker = marker[:longest-random]
		}
		if marker = strings.ToLower(marker); at != "" && len(marker) >= minMarker && !slices.Contains(markers, marker) {
			markers = append(markers, marker)
		}
	}
	return markers
}

// Package backend connects the secrets engine to Vault: one file for each Vault path, and the wiring.
//
// Storage holds:
//
//	config                  the mount's settings
//	keys/opaque/<number>    a key that seals opaque tokens, seal-wrapped
//	keys/signing/<kid>      a key that signs JWTs, seal-wrapped
//	keys/<kind>-destroyed/  the public part of a destroyed key of either kind
//	role/<name>             a role and its past versions
//	ledger/writers/<w>      a process that has issued tokens
//	ledger/deviations/<xxx>-<w>  tokens that were revoked or renewed
//	ledger/refreshes/<xxx>-<w>   the last refresh of each refreshed grant
//	ledger/status/<n>       the places of status lists that are taken
//	ledger/deleted-roles/<id>    a deleted role whose tokens may not have expired
//	ledger/inventory/<w>-<n>     who got which token when
//	provider/<name>         a provider that an operator defined
//	connection/<name>       an upstream service and its credential, seal-wrapped
//	static-role/<name>      a static role and its tokens, seal-wrapped
//	upstream/<id>           an upstream token that exists or may exist, seal-wrapped
//	hold/<id>/<hold>        a lease's hold on a shared upstream token
//
// <w> is the writer id of a process. Only that process rewrites a key with <w>. Loading merges the keys of all writers.
// Large pages have one more digit in <xxx>.
//
// Memory holds a copy of storage (package mount). A process reads storage when it first needs an entry, when Vault reports a
// write by another node, and after Vault rejected a write for lack of leadership. Introspection reads no storage, except
// for a key that memory lacks. Issuing an opaque token writes no storage on the request path, except for the first token
// of a process, the first token of a mount, and a token with a longer lifetime than every token before.
//
// A goroutine that takes several locks takes them in this order:
//
//	the lock of a static role
//	the lock of a connection's credential (lockRoot of package upstream)
//	connections.Writing
//	roles.Writing
//	config.Writing
//	the lock of a key ring
//	the locks of upstream tokens
//	the locks of the ledger
//
// Only the first two locks are held during a call to a service: while a static role's token or a credential is rotated.
package backend

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/mount"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/static"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// Version is the running version that Vault shows.
const Version = "v0.1.0"

// operationPrefix is the prefix of the OpenAPI operation ids of all paths.
const operationPrefix = "apitoken"

// Options are the dependencies of a mount besides storage and Vault. Production uses the zero Options.
type Options struct {
	Now  func() time.Time   // the clock; nil: time.Now
	Dial connector.DialFunc // opens connections to upstream services; nil: the network
}

type backend struct {
	*framework.Backend
	*mount.Mount // nil before Factory has set up the framework
}

// Factory returns the backend of one mount.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	return Options{}.Factory(ctx, conf)
}

// Factory returns the backend of one mount, with the clock and the network of the options.
func (o Options) Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	b := newBackend()
	remembering := *conf
	remembering.System = mount.NewSystemView(conf.System)
	if err := b.Setup(ctx, &remembering); err != nil {
		return nil, err
	}
	b.Mount = mount.New(mount.Config{
		Storage: conf.StorageView, Now: o.Now, Log: b.Logger(), System: b.System(), MayWrite: b.WriteSafeReplicationState,
		UserAgent: userAgent(), Dial: o.Dial,
	})
	return b, nil
}

func newBackend() *backend {
	b := new(backend)
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{native.KeysPrefix, upstream.ConnectionsPrefix, upstream.Prefix, static.Prefix},
			Unauthenticated: unauthenticated,
		},
		Paths: slices.Concat(
			b.pathsConfig(),
			b.pathsRoles(),
			b.pathsCreds(),
			b.pathsIntrospect(),
			b.pathsLookup(),
			b.pathsRevoke(),
			b.pathsTokens(),
			b.pathsKeys(),
			b.pathsOAuthToken(),
			b.pathsOAuthIntrospect(),
			b.pathsOAuthPublic(),
			b.pathsConnections(),
			b.pathsRotateRoot(),
			b.pathsProviders(),
			b.pathsStaticRoles(),
			b.pathsStaticCreds(),
			b.pathsBroken(),
			b.pathsFeed(),
		),
		Secrets: []*framework.Secret{b.secretToken(), b.secretUpstream()},
		// Vault initializes a mount once on every node, and again after a crash of the plugin. If that fails, Vault keeps the
		// mount and does not retry.
		InitializeFunc: func(ctx context.Context, req *logical.InitializationRequest) error { return b.Start(ctx, req.Storage) },
		PeriodicFunc:   func(ctx context.Context, req *logical.Request) error { return b.Maintain(ctx, req.Storage) },
		Invalidate:     func(_ context.Context, key string) { b.Mount.Invalidate(key) },
		Clean:          func(ctx context.Context) { b.Close(ctx) },
	}
	for _, path := range b.Paths {
		if strings.HasPrefix(path.Pattern, oauthPrefix) {
			continue // RFC 6749 section 3.2: unknown parameters must be ignored
		}
		for operation, handler := range path.Operations {
			path.Operations[operation] = strict(path.Pattern, handler)
		}
	}
	return b
}

const backendHelp = `
The API token secrets engine issues scoped API tokens as leased secrets.

A role defines what a token may be used for, where, and how long. Reading
"creds/<role>" issues a token. An API server checks a token by "introspect".
Revoking the lease revokes the token.
`

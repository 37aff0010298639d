// Package backend connects the secrets engine to Vault: one file for each Vault path, and the wiring.
package backend

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/alert"
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
	Dial connector.DialFunc // opens connections to upstream services and receivers of alerts; nil: the network
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
			SealWrapStorage: []string{native.KeysPrefix, upstream.ConnectionsPrefix, upstream.Prefix, static.Prefix, alert.EntriesPrefix},
			Unauthenticated: unauthenticated,
		},
		Paths: slices.Concat(
			b.pathsConfig(),
			b.pathsRoles(),
			b.pathsCreds(),
			b.pathsIntrospect(),
			b.pathsLookup(),
			b.pathsRevoke(),
			b.pathsLeaked(),
			b.pathsSuspend(),
			b.pathsTokens(),
			b.pathsKeys(),
			b.pathsOAuthToken(),
			b.pathsOAuthIntrospect(),
			b.pathsOAuthPublic(),
			b.pathsConnections(),
			b.pathsProviders(),
			b.pathsStaticRoles(),
			b.pathsStaticCreds(),
			b.pathsBroken(),
			b.pathsFeed(),
			b.pathsUsage(),
			b.pathsReports(),
			b.pathsAttest(),
			b.pathsDetection(),
			b.pathsFindings(),
			b.pathsMetrics(),
			b.pathsAlerts(),
		),
		Secrets: []*framework.Secret{b.secretToken(), b.secretUpstream()},
		// Vault initializes a mount once on every node, and again after a crash of the plugin. If that fails, Vault keeps the
		// mount and does not retry.
		InitializeFunc: func(ctx context.Context, req *logical.InitializationRequest) error { return b.Start(ctx, req.Storage) },
		PeriodicFunc:   func(ctx context.Context, req *logical.Request) error { return b.Maintain(ctx, req.Storage) },
		Invalidate:     func(_ context.Context, key string) { b.Mount.Invalidate(key) },
		Clean:          func(ctx context.Context) { b.Close(ctx) },
	}
	return b
}

const backendHelp = `
The API token secrets engine issues scoped API tokens as leased secrets.

A role defines what a token may be used for, where, and how long. Reading
"creds/<role>" issues a token. An API server checks a token by "introspect".
Revoking the lease revokes the token.
`

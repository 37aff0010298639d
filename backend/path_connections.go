package backend

import (
	"cmp"
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// connectionFields are the fields of a connection.
var connectionFields = map[string]*framework.FieldSchema{
	"name":             {Type: framework.TypeString, Required: true, Description: "Name of the connection."},
	"provider":         field(framework.TypeString, "Provider", "How the service is asked for tokens: one of providers. It cannot be changed."),
	"url":              field(framework.TypeString, "URL", "Where the service is, such as https://gitea.example.com. A change needs the secrets of the credential again."),
	"credential":       {Type: framework.TypeMap, Description: "What the engine authenticates with, as the provider says; what is not given stays as it is. Secrets of it are never read back.", DisplayAttrs: &framework.DisplayAttributes{Name: "Credential", Sensitive: true}},
	"settings":         field(framework.TypeMap, "Settings", "Further settings, as the provider says."),
	"name_template":    field(framework.TypeString, "Name template", "Template of the names of tokens at the service. Default: "+upstream.DefaultNameTemplate+"."),
	"timeout":          field(framework.TypeDurationSecond, "Timeout", "How long a call may take, retries included. Default: 30s."),
	"rate_limit":       field(framework.TypeFloat, "Rate limit", "Requests a second. Default: no limit."),
	"max_concurrent":   field(framework.TypeInt, "Maximum concurrent requests", "Requests at once. Default: 16."),
	"ca_cert":          {Type: framework.TypeString, Description: "Certificates of the authorities that sign the service's certificate, in PEM. Default: the system's. A change needs the secrets of the credential again.", DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"}},
	"client_cert":      {Type: framework.TypeString, Description: "Certificate in PEM that the engine shows to the service.", DisplayAttrs: &framework.DisplayAttributes{Name: "Client certificate", EditType: "file"}},
	"client_key":       {Type: framework.TypeString, Description: "Private key of client_cert, in PEM. It is never read back.", DisplayAttrs: &framework.DisplayAttributes{Name: "Client key", EditType: "file", Sensitive: true}},
	"proxy_url":        field(framework.TypeString, "Proxy URL", "HTTP proxy to the service. Default: that of the server's environment. A change needs the secrets of the credential again."),
	"description":      field(framework.TypeString, "Description", "What the connection is for."),
	"revoke_on_delete": field(framework.TypeBool, "Revoke on delete", "Revoke the credential at the service when the connection is deleted, where the provider can. If that fails, the connection is deleted all the same, with a warning. Default: false."),
	"force": {
		Type:        framework.TypeBool,
		Description: "Of a delete: delete the connection although roles or tokens use it. The answer says which tokens are left behind.",
		Query:       true,
	},
}

// connectionResponseFields are the fields of a connection as it is read: those of a write but for its secrets, and its
// state.
func connectionResponseFields() map[string]*framework.FieldSchema {
	read := map[string]*framework.FieldSchema{
		"rotated_at": {Type: framework.TypeString, Required: true, Description: "When rotate-root last replaced the credential; empty: never."},
		"tokens":     {Type: framework.TypeInt, Required: true, Description: "Live tokens at the service."},
		"queue":      {Type: framework.TypeMap, Required: true, Description: "Tokens that are to be revoked yet: count, oldest (when it came to be), last_error, next_try where the service could not be reached, unrevocable (tokens that the service cannot revoke) and unrevocable_until. root: what a rotation of the credential has left to do."},
	}
	for name, field := range connectionFields {
		switch name {
		case "name", "client_key", "force":
			continue
		}
		read[name] = &framework.FieldSchema{Type: field.Type, Required: true, Description: field.Description}
	}
	return read
}

func (b *backend) pathsConnections() []*framework.Path {
	nameOnly := map[string]*framework.FieldSchema{"name": connectionFields["name"]}
	return []*framework.Path{
		{
			Pattern:        "connections/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "connection"},
			Fields:         connectionFields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.connections.Has(name) }),
			Operations: crud(
				&framework.PathOperation{
					Callback:  b.pathConnectionsRead,
					Summary:   "Read a connection, without its secrets.",
					Responses: ok(connectionResponseFields()),
				},
				change(b.pathConnectionsWrite, "Create or change a connection; what is not given stays as it is."),
				change(b.pathConnectionsDelete, "Delete a connection that nothing uses."),
			),
			HelpSynopsis:    "An upstream service, and the credential to mint tokens there.",
			HelpDescription: "A connection says where a service is and as whom the engine talks to it. Roles that name it issue that service's tokens. Write it, then prove it with check.",
		},
		{
			Pattern:      "connections/" + framework.GenericNameRegex("name") + "/check",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "check", OperationSuffix: "connection"},
			Fields:       nameOnly,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback: b.pathConnectionsCheck,
					Summary:  "Prove that the credential works.",
					Responses: ok(map[string]*framework.FieldSchema{
						"provider":   {Type: framework.TypeString, Required: true, Description: "The provider."},
						"credential": {Type: framework.TypeMap, Required: true, Description: "What the service says of the credential: as whom it authenticates, what it may do."},
					}),
				},
			},
			HelpSynopsis:    "Prove that the credential works, and return what it may do.",
			HelpDescription: "Asks the service as whom the credential authenticates, and retries the queue. Nothing is changed at the service, except that the provider vault renews its token, and oauth2 gets a token.",
		},
		b.listPath("connections", func(st *state) []string { return st.connections.Names() }),
	}
}

func (b *backend) pathConnectionsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	name := d.Get("name").(string)
	c := st.connections.Get(name)
	if c == nil {
		return unreadable(st.connections.Broken(name))
	}
	rotated := ""
	if !c.RotatedAt.IsZero() {
		rotated = c.RotatedAt.UTC().Format(time.RFC3339)
	}
	return &logical.Response{Data: map[string]any{
		"provider":         c.Provider,
		"url":              c.URL,
		"credential":       st.connections.PublicCredential(c),
		"settings":         mapped(c.Settings),
		"name_template":    cmp.Or(c.NameTemplate, upstream.DefaultNameTemplate),
		"timeout":          int64(c.CallTimeout().Seconds()),
		"rate_limit":       c.RateLimit,
		"max_concurrent":   cmp.Or(c.MaxConcurrent, connector.DefaultConcurrent),
		"ca_cert":          c.CACert,
		"client_cert":      c.ClientCert,
		"proxy_url":        c.ProxyURL,
		"description":      c.Description,
		"revoke_on_delete": c.RevokeOnDelete,
		"rotated_at":       rotated,
		"tokens":           st.upstreams.Count(c.ID, upstream.Live),
		"queue":            b.upstreams.Describe(c),
	}}, nil
}

func (b *backend) pathConnectionsWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if _, err := b.load(ctx, req.Storage); err != nil {
		return nil, err
	}
	if given[bool](d, "force") != nil {
		return nil, refusal.Field("force", "is for deleting a connection")
	}
	warnings, err := b.upstreams.WriteConnection(ctx, req.Storage, d.Get("name").(string), &upstream.Change{
		Provider:       given[string](d, "provider"),
		URL:            given[string](d, "url"),
		Credential:     given[map[string]any](d, "credential"),
		Settings:       given[map[string]any](d, "settings"),
		CACert:         given[string](d, "ca_cert"),
		ClientCert:     given[string](d, "client_cert"),
		ClientKey:      given[string](d, "client_key"),
		ProxyURL:       given[string](d, "proxy_url"),
		Timeout:        givenSeconds(d, "timeout"),
		RateLimit:      given[float64](d, "rate_limit"),
		MaxConcurrent:  given[int](d, "max_concurrent"),
		NameTemplate:   given[string](d, "name_template"),
		Description:    given[string](d, "description"),
		RevokeOnDelete: given[bool](d, "revoke_on_delete"),
	})
	return warned(warnings, err)
}

func (b *backend) pathConnectionsDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if _, err := b.load(ctx, req.Storage); err != nil {
		return nil, err
	}
	return warned(b.upstreams.DeleteConnection(ctx, req.Storage, upstream.Deletion{
		Name: d.Get("name").(string), Force: d.Get("force").(bool), MountPoint: req.MountPoint,
	}))
}

func (b *backend) pathConnectionsCheck(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if _, err := b.load(ctx, req.Storage); err != nil {
		return nil, err
	}
	provider, data, err := b.upstreams.Check(ctx, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"provider": provider, "credential": mapped(data)}}, nil
}

package backend

import (
	"cmp"
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/connector"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// connectionFields are the fields of a connection.
var connectionFields = map[string]*framework.FieldSchema{
	"name":             {Type: framework.TypeString, Required: true, Description: "Name of the connection."},
	"provider":         field(framework.TypeString, "Provider", "Provider of the service; see providers. The provider of a connection cannot be changed."),
	"url":              field(framework.TypeString, "URL", "URL of the service, such as https://gitea.example.com. A change requires the secrets of the credential again."),
	"credential":       {Type: framework.TypeMap, Description: "Credential of the engine at the service; the provider defines the fields. Omitted fields keep their values. A read never returns secrets.", DisplayAttrs: &framework.DisplayAttributes{Name: "Credential", Sensitive: true}},
	"settings":         field(framework.TypeMap, "Settings", "Further settings; the provider defines the fields."),
	"name_template":    field(framework.TypeString, "Name template", "Template of token names at the service. Default: "+upstream.DefaultNameTemplate+"."),
	"timeout":          field(framework.TypeDurationSecond, "Timeout", "Time limit of a call, retries included. Default: 30s."),
	"rate_limit":       field(framework.TypeFloat, "Rate limit", "Maximum number of requests a second. Default: no limit."),
	"max_concurrent":   field(framework.TypeInt, "Maximum concurrent requests", "Maximum number of concurrent requests. Default: 16."),
	"ca_cert":          {Type: framework.TypeString, Description: "CA certificates of the service, in PEM. A change requires the secrets of the credential again. Default: the system's.", DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificate", EditType: "file"}},
	"client_cert":      {Type: framework.TypeString, Description: "Client certificate of the engine, in PEM. Default: none.", DisplayAttrs: &framework.DisplayAttributes{Name: "Client certificate", EditType: "file"}},
	"client_key":       {Type: framework.TypeString, Description: "Private key of client_cert, in PEM. A read never returns the key.", DisplayAttrs: &framework.DisplayAttributes{Name: "Client key", EditType: "file", Sensitive: true}},
	"proxy_url":        field(framework.TypeString, "Proxy URL", "HTTP proxy to the service. A change requires the secrets of the credential again. Default: the proxy of the server's environment."),
	"description":      field(framework.TypeString, "Description", "Purpose of the connection."),
	"revoke_on_delete": field(framework.TypeBool, "Revoke on delete", "Revoke the credential at the service when the connection is deleted, if the provider can. If the revocation fails, the connection is deleted with a warning. Default: false."),
	"force": {
		Type:        framework.TypeBool,
		Description: "Delete the connection even if roles or tokens use the connection. The answer lists the tokens left at the service. Default: false.",
		Query:       true,
	},
}

func (b *backend) pathsConnections() []*framework.Path {
	nameOnly := map[string]*framework.FieldSchema{"name": connectionFields["name"]}
	return []*framework.Path{
		{
			Pattern:        "connections/" + framework.GenericNameRegex("name"),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "connection"},
			Fields:         connectionFields,
			ExistenceCheck: b.exists(func(st *state, name string) bool { return st.Connections.Has(name) }),
			Operations: crud(
				b.answer(b.pathConnectionsRead, "Read a connection without secrets.", ok(readFields(map[string]*framework.FieldSchema{
					"rotated_at": {Type: framework.TypeString, Required: true, Description: "Time of the last rotation by rotate-root; empty if never rotated."},
					"tokens":     {Type: framework.TypeInt, Required: true, Description: "Number of live tokens at the service."},
					"queue":      {Type: framework.TypeMap, Required: true, Description: "Tokens still to be revoked: count, oldest (when the oldest token entered the queue), last_error, next_try if the service could not be reached, unrevocable (tokens that the service cannot revoke) and unrevocable_until. root: unfinished work of a credential rotation."},
				}, connectionFields, "name", "client_key", "force"))),
				b.change(b.pathConnectionsWrite, "Create or change a connection. Omitted fields keep their values."),
				b.change(b.pathConnectionsDelete, "Delete an unused connection."),
			),
			HelpSynopsis:    "An upstream service and the credential for minting tokens.",
			HelpDescription: "A connection holds the URL of an upstream service and the engine's credential. Roles with the connection issue tokens of the service. Write the connection, then verify the credential by check.",
		},
		{
			Pattern:      "connections/" + framework.GenericNameRegex("name") + "/check",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "check", OperationSuffix: "connection"},
			Fields:       nameOnly,
			Operations: only(logical.UpdateOperation, b.answer(b.pathConnectionsCheck, "Verify the credential of a connection.", ok(map[string]*framework.FieldSchema{
				"provider":   {Type: framework.TypeString, Required: true, Description: "The provider."},
				"credential": {Type: framework.TypeMap, Required: true, Description: "Account and permissions of the credential, as the service reports."},
			}))),
			HelpSynopsis:    "Verify the credential of a connection, and return its permissions.",
			HelpDescription: "Asks the service for the account of the credential, and retries the queue. The check changes nothing at the service, with two exceptions: provider vault renews the credential's token, and oauth2 requests a token.",
		},
		b.listPath("connections", func(st *state) []string { return st.Connections.Names() }),
	}
}

func (b *backend) pathConnectionsRead(ctx context.Context, st *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	c := st.Connections.Get(name)
	if c == nil {
		return nil, refusal.Wrap(st.Connections.Broken(name))
	}
	rotated := ""
	if !c.RotatedAt.IsZero() {
		rotated = rfc3339(c.RotatedAt)
	}
	return &logical.Response{Data: map[string]any{
		"provider":         c.Provider,
		"url":              c.URL,
		"credential":       st.Connections.PublicCredential(c),
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
		"tokens":           st.Upstreams.Count(c.ID, upstream.Live),
		"queue":            b.Upstreams.Describe(c),
	}}, nil
}

func (b *backend) pathConnectionsWrite(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if given[bool](d, "force") != nil {
		return nil, refusal.Field("force", "is for deleting a connection")
	}
	warnings, err := b.Upstreams.WriteConnection(ctx, req.Storage, d.Get("name").(string), &upstream.Change{
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

func (b *backend) pathConnectionsDelete(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return warned(b.Upstreams.DeleteConnection(ctx, req.Storage, upstream.Deletion{
		Name: d.Get("name").(string), Force: d.Get("force").(bool), MountPoint: req.MountPoint,
	}))
}

func (b *backend) pathConnectionsCheck(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	provider, data, err := b.Upstreams.Check(ctx, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"provider": provider, "credential": mapped(data)}}, nil
}

package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/upstream"
)

// connectionFields are the fields of a connection.
var connectionFields = fields{
	"name": must(str("Name of the connection.")),
	"provider": titled("Provider", str("Provider of the service; see providers. The provider of a connection cannot be "+
		"changed.")),
	"url": titled("URL", str("URL of the service, such as https://gitea.example.com. A change requires the secrets "+
		"of the credential again.")),
	"credential": secret(titled("Credential", object("Credential of the engine at the service; the provider defines the "+
		"fields. Omitted fields keep their values. A read never returns secrets."))),
	"settings": titled("Settings", object("Further settings; the provider defines the fields.")),
	"name_template": titled("Name template", str("Template of token names at the service. Default: "+
		upstream.DefaultNameTemplate+".")),
	"timeout":        titled("Timeout", secs("Time limit of a call, retries included. Default: 30s.")),
	"rate_limit":     titled("Rate limit", float("Maximum number of requests a second. Default: no limit.")),
	"max_concurrent": titled("Maximum concurrent requests", num("Maximum number of concurrent requests. Default: 16.")),
	"ca_cert": edited("file", titled("CA certificate", str("CA certificates of the service, in PEM. A change requires "+
		"the secrets of the credential again. Default: the system's."))),
	"client_cert": edited("file", titled("Client certificate", str("Client certificate of the engine, in PEM. Default: none."))),
	"client_key": secret(edited("file", titled("Client key", str("Private key of client_cert, in PEM. A read never returns "+
		"the key.")))),
	"proxy_url": titled("Proxy URL", str("HTTP proxy to the service. A change requires the secrets of the credential "+
		"again. Default: the proxy of the server's environment.")),
	"reconcile_period": titled("Reconcile period", secs("Time between two comparisons of the tokens at the service with the tokens of "+
		"the engine, at least 1h; see reconcile. Default: 0, only on demand.")),
	"description": titled("Description", str("Purpose of the connection.")),
	"owner":       ownerField,
	"review_by":   reviewByField,
	"revoke_on_delete": titled("Revoke on delete", flag("Revoke the credential at the service when the connection is deleted, if "+
		"the provider can. If the revocation fails, the connection is deleted with a warning. Default: false.")),
	"force": query(flag("Delete the connection even if roles or tokens use the connection. The answer lists the " +
		"tokens left at the service. Default: false.")),
}

// connectionAnswer are the members of a connection.
var connectionAnswer = readFields(fields{
	"rotated_at": must(str("Time of the last rotation by rotate-root; empty if never rotated.")),
	"tokens":     must(num("Number of live tokens at the service.")),
	"queue": must(object("Tokens still to be revoked: count, oldest (when the oldest token entered the queue), last_error, " +
		"next_try if the service could not be reached, unrevocable (tokens that the service cannot revoke) and unrevocable_until. " +
		"root: unfinished work of a credential rotation.")),
	"attested": attestedField,
}, connectionFields, "name", "client_key", "force")

// checkAnswer are the members of the answer of check.
var checkAnswer = fields{
	"provider":   must(str("The provider.")),
	"credential": must(object("Account and permissions of the credential, as the service reports.")),
}

func (b *backend) pathsConnections() []*framework.Path {
	nameOnly := fields{"name": connectionFields["name"]}
	return append(b.pathsEntries("connections", func(st *state) entries { return st.Connections }, connectionFields,
		crud(
			b.answer(b.pathConnectionsRead, "Read a connection without secrets.", ok(connectionAnswer)),
			b.change(b.pathConnectionsWrite, "Create or change a connection. Omitted fields keep their values."),
			b.change(b.pathConnectionsDelete, "Delete an unused connection."),
		),
		"An upstream service and the credential for minting tokens.",
		"A connection holds the URL of an upstream service and the engine's credential. Roles with the connection issue tokens of "+
			"the service. Write the connection, then verify the credential by check."),
		path("connections/"+framework.GenericNameRegex("name")+"/check", "check", "connection", nameOnly,
			only(logical.UpdateOperation, b.answer(b.pathConnectionsCheck, "Verify the credential of a connection.", ok(checkAnswer))),
			"Verify the credential of a connection, and return its permissions.",
			"Asks the service for the account of the credential, and retries the queue. The check changes nothing at the service, with "+
				"two exceptions: provider vault renews the credential's token, and oauth2 requests a token."),
		b.pathReconcile(nameOnly))
}

func (b *backend) pathConnectionsRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	c := st.Connections.Get(name)
	if c == nil {
		return nil, refusal.Wrap(st.Connections.Broken(name))
	}
	return members(connectionAnswer, st.Connections.Public(c), map[string]any{
		"attested": attested(&c.Review),
		"tokens":   st.Upstreams.Count(c.ID, upstream.Live),
		"queue":    b.Upstreams.Describe(c),
	}), nil
}

func (b *backend) pathConnectionsWrite(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	if _, forced := d.GetOk("force"); forced {
		return nil, refusal.Field("force", "is for deleting a connection")
	}
	change := given[upstream.Change](d)
	change.MountPoint = req.MountPoint
	return warned(b.Upstreams.WriteConnection(ctx, req.Storage, d.Get("name").(string), change))
}

func (b *backend) pathConnectionsDelete(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	return warned(b.Upstreams.DeleteConnection(ctx, req.Storage, upstream.Deletion{
		Name: d.Get("name").(string), Force: d.Get("force").(bool), MountPoint: req.MountPoint,
	}))
}

func (b *backend) pathConnectionsCheck(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	provider, data, err := b.Upstreams.Check(ctx, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	return members(checkAnswer, map[string]any{"provider": provider, "credential": data}), nil
}

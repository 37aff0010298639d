package backend

import (
	"context"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/role"
)

// roleFields are the fields of a role.
var roleFields = fields{
	"name": must(str("Name of the role.")),
	"token_format": preset(oneOf(titled("Token format", str("Format of the tokens. \"opaque\": API servers check the "+
		"token by introspection. \"jwt\": an RFC 9068 access token; API servers verify the token with the published keys. Default: "+
		"opaque.")), role.FormatOpaque, role.FormatJWT), role.FormatOpaque),
	"scopes": titled("Scopes", commas("Scopes of a token, unless the request names other scopes within "+
		"allowed_scopes. A last segment * matches any: invoices:*.")),
	"allowed_scopes": titled("Allowed scopes", commas("All scopes that a request may name. Default: scopes.")),
	"audience": titled("Audience", commas("APIs that the token is for. An introspection with an audience accepts "+
		"only tokens for that audience. Required with token_format=jwt. Default: any.")),
	"ttl": titled("TTL", secs("TTL of a token without renewal. Default: the mount's default lease TTL.")),
	"max_ttl": titled("Maximum TTL", secs("Longest lifetime of a token, renewals included; at most the mount's "+
		"maximum lease TTL. Default: the mount's maximum lease TTL.")),
	"max_tokens": titled("Maximum live tokens", num("Maximum number of live tokens of the role. A grant counts once, "+
		"however often a token is refreshed or exchanged. Requires leases, except with connection. Default: 0, no limit.")),
	"token_bound_cidrs": titled("Token bound CIDRs", commas("Addresses and CIDR ranges that the token may be used from. "+
		"Default: anywhere.")),
	"request_bound_cidrs": titled("Request bound CIDRs", commas("Addresses and CIDR ranges that creds may be read from. "+
		"Default: anywhere.")),
	"bound_hosts": titled("Bound hosts", commas("API hosts that the token is for, such as api.example.com or "+
		"*.example.com. Default: any.")),
	"bound_regions": titled("Bound regions", commas("Countries that the token may be used from: codes of ISO 3166-1 alpha-2 "+
		"in upper case, such as DE or US. EU and EEA stand for their members. Default: any.")),
	"require_bound_checks": titled("Require bound checks", flag("States that all API servers check token_bound_cidrs, "+
		"bound_regions and bound_hosts of a JWT, which ordinary JWT libraries ignore. A role of JWTs takes these three fields "+
		"only with require_bound_checks. Default: false.")),
	"rate_limit": titled("Rate limit", str("How often a token may be used: 100/1m, or 10/1s burst 50, with the window in s, m "+
		"or h. Verifiers enforce the rate per token and process; the engine does not. Default: no limit.")),
	"metadata": titled("Metadata", pairs("Key=value pairs that introspection returns. A value may be an identity "+
		"template, such as {{identity.entity.name}}; the engine fills in the template when issuing the token. Default: none.")),
	"description": titled("Description", str("Purpose of the role.")),
	"owner":       ownerField,
	"review_by":   reviewByField,
	"allow_privileged": titled("Allow privileged scopes", flag("Allow the role to hold scopes that match the mount's "+
		"privileged_scopes. Default: false.")),
	"generate_lease": preset(titled("Generate lease", flag("Issue tokens under a lease. A JWT without a lease lives for at "+
		"most 15m. The engine stores nothing of such a JWT, and status lists do not show its revocation. Default: true.")), true),
	"refresh": titled("Refresh", flag("Issue short-lived tokens with access_ttl, and a refresh token for the next "+
		"token at oauth/token, until the lease ends. Default: false.")),
	"access_ttl": titled("Access TTL", secs("TTL of each short-lived token. Required with refresh.")),
	"exchange": titled("Exchange", flag("Allow the holder of a token to exchange the token at oauth/token for a "+
		"token with fewer permissions. Default: false.")),
	"connection": titled("Connection", str("Connection whose service issues the tokens. The connection of a role "+
		"cannot be changed. Default: none, native tokens.")),
	"params": titled("Params", object("Parameters of the tokens at the upstream service; the connection's provider "+
		"defines the fields.")),
	"reuse": titled("Reuse", secs("With connection: how long after its creation a token is issued to further "+
		"requesters, each under a separate lease. The token is revoked with the last lease. Default: 0, no reuse.")),
	"proof": oneOf(titled("Proof", str("Bind each token to a key that the request names: \"dpop\" by dpop_jkt "+
		"(RFC 9449), \"mtls\" by x5t_s256 (RFC 8705). API servers check the proof. Default: none.")),
		"", role.ProofDPoP, role.ProofMTLS),
}

// roleAnswer are the members of a role.
var roleAnswer = readFields(fields{
	"version":  must(num("Version of the role's permissions: incremented by each change of the permissions.")),
	"attested": attestedField,
}, roleFields, "name")

func (b *backend) pathsRoles() []*framework.Path {
	return b.pathsEntries("roles", func(st *state) entries { return st.Roles }, roleFields,
		crud(
			b.answer(b.pathRolesRead, "Read a role.", ok(roleAnswer)),
			b.change(b.pathRolesWrite, "Create or change a role. Omitted fields keep their values."),
			b.change(b.pathRolesDelete, "Delete a role and revoke all its tokens."),
		),
		"The tokens that may be issued, and their permitted use.",
		"A role defines what a token may be used for, where, and how long. Tightening a role also restricts the live tokens at once. "+
			"Widening a role does not extend live tokens. Deleting a role revokes its tokens, and a new role of the same name does not "+
			"revive these tokens.")
}

func (b *backend) pathRolesRead(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	r := st.Roles.Get(name)
	if r == nil {
		return nil, refusal.Wrap(st.Roles.Broken(name))
	}
	return members(roleAnswer, &r.Entry, map[string]any{"generate_lease": !r.NoLease, "attested": attested(&r.Review)}), nil
}

func (b *backend) pathRolesWrite(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	q := given[native.WriteRoleRequest](d)
	q.Name, q.MountPoint = d.Get("name").(string), req.MountPoint
	q.Given, q.Change = slices.Collect(maps.Keys(d.Raw)), given[role.Change](d)
	return warned(b.WriteRole(ctx, req.Storage, st, q))
}

func (b *backend) pathRolesDelete(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	return nil, b.DeleteRole(ctx, req.Storage, st, d.Get("name").(string))
}

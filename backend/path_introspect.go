package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/metrics"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
)

// introspectAnswer are the members of the answer of introspect.
var introspectAnswer = fields{
	"active":            must(flag("Whether the token is valid for the use in the request.")),
	"reason":            str("Reason for active=false; absent if the token is active."),
	"detail":            str("The reason in a sentence."),
	"scope":             str("Scopes of the token, separated by spaces."),
	"client_id":         str("Name of the role."),
	"token_type":        str("Bearer or DPoP."),
	"iss":               str("Issuer of the mount; absent if not set."),
	"cnf":               object("Key that the token is bound to (RFC 7800): the thumbprint jkt or x5t#S256."),
	"grant_id":          str("ID of the grant; only for refreshed and exchanged tokens."),
	"exp":               num64("Expiry of the token, in seconds since 1970."),
	"iat":               num64("Time of issue, in seconds since 1970."),
	"sub":               str("Vault entity that requested the token; absent if none."),
	"aud":               strs("APIs that the token is for; absent if any."),
	"jti":               str("Same as token_id."),
	"token_id":          str("Public name of the token, safe to log."),
	"role":              str("Role that the token was issued from."),
	"environment":       str("Environment of the mount."),
	"metadata":          pairs("Metadata of the role."),
	"token_bound_cidrs": strs("Addresses that the token may be used from; absent if any, empty if nothing is left of its limits."),
	"epoch":             str("Epoch of feed; only from the active node."),
	"cursor": num64("End of feed before the answer was made: the answer knows all events up to the cursor. Only from " +
		"the active node."),
	"bound_regions": strs("Countries that the token may be used from (ISO 3166-1 alpha-2); absent if any."),
	"rate_limit": str("How often the token may be used, such as 100/1m or 10/1s burst 50; absent if there is no limit. The " +
		"verifier enforces the rate."),
	"bound_hosts": strs("API hosts that the token is for; absent if any."),
}

func (b *backend) pathsIntrospect() []*framework.Path {
	return []*framework.Path{path("introspect", "introspect", "token", fields{
		"token":           must(secret(str("Token that the API received."))),
		"required_scopes": commas("Scopes that the API call requires. Default: none; the API checks \"scope\" itself."),
		"audience":        str("Audience of the API, as in the roles. Default: not checked."),
		"client_ip": str("Address of the API's client. Required for a token with token_bound_cidrs: otherwise the token is " +
			"not active."),
		"region": str("Country of the API's client, an ISO 3166-1 alpha-2 code in upper case. Required for a token with " +
			"bound_regions: otherwise the token is not active. Default: the country of client_ip in geoip_database of config."),
		"min_cursor": num64("For verifiers that read feed: a node other than the active node forwards a request with " +
			"min_cursor to the active node. Default: any node answers."),
		"host": str("Host header of the API call. Required for a token with bound_hosts: otherwise the token is not active."),
	},
		only(logical.UpdateOperation,
			handle(b.pathIntrospectUpdate, "Check whether a token is valid for a use.", ok(introspectAnswer))),
		"Check whether a token is valid for a use.",
		"The answer has the members of RFC 7662, and the reason for active=false: malformed, wrong_environment, unknown, expired, "+
			"revoked, role_deleted, suspended, subject_disabled, wrong_audience, insufficient_scope, address_not_allowed, "+
			"region_not_allowed, host_not_allowed.")}
}

// pathIntrospectUpdate loads the state itself: the position in the feed must be that before the state is read, since the
// answer must not claim to know a later change.
func (b *backend) pathIntrospectUpdate(ctx context.Context, req *request, d *input) (*response, error) {
	active := b.WriteSafeReplicationState()
	if _, given := d.GetOk("min_cursor"); given && !active {
		return nil, logical.ErrReadOnly // Vault forwards the request to the active node
	}
	at := b.World.Feed.Position()
	st, err := b.Load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	text := d.Get("token").(string)
	if err := native.CheckText(text); err != nil {
		return nil, err
	}
	use, err := given[native.UseRequest](d).Parse()
	if err != nil {
		return nil, err
	}
	v, err := st.Verify(ctx, req.Storage, text, use)
	if err != nil {
		return nil, err
	}
	if !isLookUp(d) {
		b.Counters.Decided(metrics.Introspection, v.Reason, 1)
		if active {
			b.NoteUse(v, use, text)
		}
	}
	data := v.Answer(st.Config, req.MountPoint)
	if active {
		setPosition(data, at)
	}
	return &logical.Response{Data: data}, nil
}

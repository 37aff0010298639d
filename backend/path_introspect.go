package backend

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/native"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

// introspectAnswer are the members of the answer of introspect.
var introspectAnswer = fields{
	"active":            {Type: framework.TypeBool, Required: true, Description: "Whether the token is valid for the use in the request."},
	"reason":            {Type: framework.TypeString, Description: "Reason for active=false; absent if the token is active."},
	"detail":            {Type: framework.TypeString, Description: "The reason in a sentence."},
	"scope":             {Type: framework.TypeString, Description: "Scopes of the token, separated by spaces."},
	"client_id":         {Type: framework.TypeString, Description: "Name of the role."},
	"token_type":        {Type: framework.TypeString, Description: "Bearer or DPoP."},
	"iss":               {Type: framework.TypeString, Description: "Issuer of the mount; absent if not set."},
	"cnf":               {Type: framework.TypeMap, Description: "Key that the token is bound to (RFC 7800): the thumbprint jkt or x5t#S256."},
	"grant_id":          {Type: framework.TypeString, Description: "ID of the grant; only for refreshed and exchanged tokens."},
	"exp":               {Type: framework.TypeInt64, Description: "Expiry of the token, in seconds since 1970."},
	"iat":               {Type: framework.TypeInt64, Description: "Time of issue, in seconds since 1970."},
	"sub":               {Type: framework.TypeString, Description: "Vault entity that requested the token; absent if none."},
	"aud":               {Type: framework.TypeStringSlice, Description: "APIs that the token is for; absent if any."},
	"jti":               {Type: framework.TypeString, Description: "Same as token_id."},
	"token_id":          {Type: framework.TypeString, Description: "Public name of the token, safe to log."},
	"role":              {Type: framework.TypeString, Description: "Role that the token was issued from."},
	"environment":       {Type: framework.TypeString, Description: "Environment of the mount."},
	"metadata":          {Type: framework.TypeKVPairs, Description: "Metadata of the role."},
	"token_bound_cidrs": {Type: framework.TypeStringSlice, Description: "Addresses that the token may be used from; absent if any."},
	"epoch":             {Type: framework.TypeString, Description: "Epoch of feed; only from the active node."},
	"cursor":            {Type: framework.TypeInt64, Description: "End of feed before the answer was made: the answer knows all events up to the cursor. Only from the active node."},
	"bound_hosts":       {Type: framework.TypeStringSlice, Description: "API hosts that the token is for; absent if any."},
}

func (b *backend) pathsIntrospect() []*framework.Path {
	return []*framework.Path{path("introspect", "introspect", "token", fields{
		"token": {
			Type:         framework.TypeString,
			Description:  "Token that the API received.",
			Required:     true,
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		"required_scopes": {Type: framework.TypeCommaStringSlice, Description: "Scopes that the API call requires. Default: none; the API checks \"scope\" itself."},
		"audience":        {Type: framework.TypeString, Description: "Audience of the API, as in the roles. Default: not checked."},
		"client_ip":       {Type: framework.TypeString, Description: "Address of the API's client. Required for a token with token_bound_cidrs: otherwise the token is not active."},
		"min_cursor":      {Type: framework.TypeInt64, Description: "For verifiers that read feed: a node other than the active node forwards a request with min_cursor to the active node. Default: any node answers."},
		"host":            {Type: framework.TypeString, Description: "Host header of the API call. Required for a token with bound_hosts: otherwise the token is not active."},
	},
		only(logical.UpdateOperation, handle(b.pathIntrospectUpdate, "Check whether a token is valid for a use.", ok(introspectAnswer))),
		"Check whether a token is valid for a use.",
		"The answer has the members of RFC 7662, and the reason for active=false: malformed, wrong_environment, unknown, expired, revoked, "+
			"role_deleted, subject_disabled, wrong_audience, insufficient_scope, address_not_allowed, host_not_allowed.")}
}

// pathIntrospectUpdate loads the state itself: the position in the feed must be that before the state is read, since the
// answer must not claim to know a later change.
func (b *backend) pathIntrospectUpdate(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	active := b.WriteSafeReplicationState()
	if _, given := d.GetOk("min_cursor"); given && !active {
		return nil, logical.ErrReadOnly // Vault forwards the request to the active node
	}
	at := b.World.Feed.Position()
	st, err := b.Load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	text, err := tokenField(d)
	if err != nil {
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
	data := v.Answer(st.Config, use, req.MountPoint)
	if active {
		setPosition(data, at)
	}
	return &logical.Response{Data: data}, nil
}

// tokenField returns the token of the request. tokenField rejects text that no token can be by its size or its bytes. The
// answer for other malformed text is active=false.
func tokenField(d *framework.FieldData) (string, error) {
	text := d.Get("token").(string)
	switch {
	case text == "":
		return "", refusal.Field("token", "is missing")
	case len(text) > token.MaxLen:
		return "", refusal.Field("token", "is %d bytes long, the longest token has %d", len(text), token.MaxLen)
	case strings.IndexFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7e }) >= 0:
		return "", refusal.Field("token", "has bytes that are not printable ASCII")
	}
	return text, nil
}

package backend

import (
	"context"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/token"
)

func (b *backend) pathsIntrospect() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "introspect",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "introspect", OperationSuffix: "token"},
		Fields: map[string]*framework.FieldSchema{
			"token": {
				Type:         framework.TypeString,
				Description:  "Token that the API received.",
				Required:     true,
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			"required_scopes": {Type: framework.TypeCommaStringSlice, Description: "Scopes that the API call requires. Default: none; the API checks \"scope\" itself."},
			"audience":        {Type: framework.TypeString, Description: "Audience of the API, as in the roles. Default: not checked."},
			"client_ip":       {Type: framework.TypeString, Description: "Address of the API's client. Required for a token with token_bound_cidrs: otherwise the token is not active."},
			"region":          {Type: framework.TypeString, Description: "Country of the API's client, an ISO 3166-1 alpha-2 code in upper case. Required for a token with bound_regions: otherwise the token is not active. Default: the country of client_ip in geoip_database of config."},
			"min_cursor":      {Type: framework.TypeInt64, Description: "For verifiers that read feed: a node other than the active node forwards a request with min_cursor to the active node. Default: any node answers."},
			"host":            {Type: framework.TypeString, Description: "Host header of the API call. Required for a token with bound_hosts: otherwise the token is not active."},
		},
		Operations: only(logical.UpdateOperation, b.answer(b.pathIntrospectUpdate, "Check whether a token is valid for a use.", ok(map[string]*framework.FieldSchema{
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
			"token_bound_cidrs": {Type: framework.TypeStringSlice, Description: "Addresses that the token may be used from; absent if any, empty if nothing is left of what the token was limited to."},
			"epoch":             {Type: framework.TypeString, Description: "Epoch of feed; only from the active node."},
			"cursor":            {Type: framework.TypeInt64, Description: "End of feed before the answer was made: the answer knows all events up to the cursor. Only from the active node."},
			"bound_regions":     {Type: framework.TypeStringSlice, Description: "Countries that the token may be used from (ISO 3166-1 alpha-2); absent if any."},
			"rate_limit":        {Type: framework.TypeString, Description: "How often the token may be used, such as 100/1m or 10/1s burst 50; absent if there is no limit. The verifier enforces the rate."},
			"bound_hosts":       {Type: framework.TypeStringSlice, Description: "API hosts that the token is for; absent if any."},
		}))),
		HelpSynopsis: "Check whether a token is valid for a use.",
		HelpDescription: "The answer has the members of RFC 7662, and the reason for active=false: malformed, wrong_environment, unknown, expired, revoked, " +
			"role_deleted, subject_disabled, wrong_audience, insufficient_scope, address_not_allowed, region_not_allowed, host_not_allowed.",
	}}
}

func (b *backend) pathIntrospectUpdate(ctx context.Context, _ *state, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	active := b.WriteSafeReplicationState()
	if minCursor := given[int64](d, "min_cursor"); minCursor != nil && !active {
		return nil, logical.ErrReadOnly // Vault forwards the request to the active node
	}
	at := b.world.Feed.Position() // before the state is read: the answer must not claim to know a later change
	st, err := b.load(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	text, err := tokenField(d)
	if err != nil {
		return nil, err
	}
	use, err := useOf(d)
	if err != nil {
		return nil, err
	}
	v, err := st.Verify(ctx, req.Storage, text, use)
	if err != nil {
		return nil, err
	}
	if active && !isLookUp(d) {
		b.noteUse(v, use)
	}

	data := map[string]any{"active": v.Reason == access.Good}
	if active {
		setPosition(data, at)
	}
	if v.Reason != access.Good {
		data["reason"] = string(v.Reason)
		data["detail"] = v.Explain()
	}
	if v.Claims == nil {
		return &logical.Response{Data: data}, nil
	}
	c := st.Config.OrDefaults()
	maps.Copy(data, v.Members(c))
	data["token_id"] = v.Claims.Name()
	if v.Claims.Grant != v.Claims.ID {
		data["grant_id"] = v.Claims.Grant.String()
	}
	if st.Config.Broken() == nil {
		data["environment"] = c.EnvironmentOf(req.MountPoint)
	}
	if v.Role != nil {
		data["role"] = v.Role.Name()
		if v.Role.RateLimit != "" {
			data["rate_limit"] = v.Role.RateLimit
		}
	}
	if v.Permissions != nil {
		addLimits(data, v.Permissions)
		if len(v.Metadata) > 0 {
			data["metadata"] = v.Metadata
		}
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

// useOf returns the use of the token that the request describes.
func useOf(d *framework.FieldData) (*access.Use, error) {
	use := &access.Use{Audience: d.Get("audience").(string)}
	if v, given := d.GetOk("required_scopes"); given {
		scopes, err := access.ParseScopes(v.([]string))
		if err != nil {
			return nil, refusal.Field("required_scopes", "%s", err)
		}
		use.Scopes = scopes
	}
	if v, given := d.GetOk("client_ip"); given {
		addr, err := access.ParseClientIP(v.(string))
		if err != nil {
			return nil, refusal.Field("client_ip", "%s", err)
		}
		use.ClientIP = addr
	}
	if v, given := d.GetOk("region"); given {
		region, err := access.ParseRegion(v.(string))
		if err != nil {
			return nil, refusal.Field("region", "%s", err)
		}
		use.Region = region
	}
	if v, given := d.GetOk("host"); given {
		host, err := access.ParseHost(v.(string))
		if err != nil {
			return nil, refusal.Field("host", "%s", err)
		}
		use.Host = host
	}
	return use, nil
}

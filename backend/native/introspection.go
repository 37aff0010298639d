package native

import (
	"maps"
	"slices"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"
)

// Members returns the members of an introspection answer (RFC 7662 section 2.2) for an opened token.
func (v *Verdict) Members(c *Config) map[string]any {
	data := map[string]any{
		"jti":        v.Claims.Name(),
		"token_type": PresentedAs(v.Claims),
		"exp":        v.Life.ExpiresAt.Unix(),
		"iat":        v.Claims.IssuedAt.Unix(),
	}
	if c.Issuer != "" {
		data["iss"] = c.Issuer
	}
	if v.Claims.Subject != "" {
		data["sub"] = v.Claims.Subject
	}
	if v.Role != nil {
		data["client_id"] = v.Role.Name()
	}
	if v.Permissions != nil {
		data["scope"] = v.Permissions.Scopes.Parameter()
		if v.Permissions.Audience != nil {
			data["aud"] = v.Permissions.Audience
		}
	}
	if cnf := v.Claims.Confirmation; cnf.JKT != "" {
		data["cnf"] = map[string]any{"jkt": cnf.JKT}
	} else if cnf.X5T != "" {
		data["cnf"] = map[string]any{"x5t#S256": cnf.X5T}
	}
	return data
}

// RowOf returns the inventory's row of an opened token. If the inventory has no row, RowOf builds a row from the claims.
func (t *Tokens) RowOf(v *Verdict) ledger.Row {
	if row, known := t.Inventory.Get(v.Claims.Grant); known {
		return row
	}
	row := ledger.Row{
		ID: v.Claims.Grant, IssuedAt: v.Claims.IssuedAt, ExpiresAt: v.Claims.ExpiresAt,
		Holder: ledger.Holder{RoleID: v.Claims.Role, RoleVersion: v.Claims.RoleVersion, Subject: v.Claims.Subject},
	}
	if v.Role != nil {
		row.Role = v.Role.Name()
	}
	if v.Permissions != nil {
		row.Scopes = v.Permissions.Scopes.Parameter()
	}
	return row
}

// Answer returns the members of the answer of introspect: those of RFC 7662 and those of this engine.
func (v *Verdict) Answer(config *ConfigStore, mountPoint string) map[string]any {
	data := map[string]any{"active": v.Reason == access.Good}
	if v.Reason != access.Good {
		data["reason"], data["detail"] = string(v.Reason), v.Explain()
	}
	if v.Claims == nil {
		return data
	}
	c := config.OrDefaults()
	maps.Copy(data, v.Members(c))
	data["token_id"] = v.Claims.Name()
	if v.Claims.Grant != v.Claims.ID {
		data["grant_id"] = v.Claims.Grant.String()
	}
	if config.Broken() == nil {
		data["environment"] = c.EnvironmentOf(mountPoint)
	}
	if v.Role != nil {
		data["role"] = v.Role.Name()
		if v.Role.RateLimit != "" {
			data["rate_limit"] = v.Role.RateLimit
		}
	}
	if v.Permissions != nil {
		AddLimits(data, v.Permissions)
		if len(v.Metadata) > 0 {
			data["metadata"] = v.Metadata
		}
	}
	return data
}

// AddLimits adds to an answer the addresses, regions and hosts that a token is limited to. If nothing is left of one of
// them, token_bound_cidrs is empty: an absent list stands for no limit.
func AddLimits(data map[string]any, p *access.Permissions) {
	bounds, ok := p.Effective()
	if !ok {
		data["token_bound_cidrs"] = []string{}
		return
	}
	if bounds.Addresses.Restricted() {
		data["token_bound_cidrs"] = bounds.Addresses.Strings()
	}
	if bounds.Regions.Restricted() {
		data["bound_regions"] = bounds.Regions.Strings()
	}
	if len(bounds.Hosts) > 0 {
		data["bound_hosts"] = slices.Clone([]string(bounds.Hosts))
	}
}

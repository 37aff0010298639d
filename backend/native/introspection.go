package native

import "github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/ledger"

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

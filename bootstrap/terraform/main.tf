# The engine: mounted, configured, with a role for each application. The plugin is registered by bootstrap/terraform/plugin.

resource "vault_mount" "apitoken" {
  path           = var.path
  type           = "vault-plugin-secrets-apitoken"
  plugin_version = var.plugin_version
  description    = "API tokens of ${var.environment}"

  default_lease_ttl_seconds = 3600
  max_lease_ttl_seconds     = 86400

  # What the audit log shows as it is. Everything else is HMACed, the tokens above all.
  audit_non_hmac_request_keys  = ["client_ip", "host", "required_scopes", "role", "scopes", "token_id"]
  audit_non_hmac_response_keys = ["active", "client_id", "reason", "role", "scope", "scopes", "token_id"]
}

resource "vault_generic_endpoint" "config" {
  path                 = "${vault_mount.apitoken.path}/config"
  disable_delete       = true # it goes with the mount
  ignore_absent_fields = true

  data_json = jsonencode({
    environment         = var.environment
    key_rotation_period = 2592000
  })
}

resource "vault_generic_endpoint" "role" {
  for_each = var.roles

  path                 = "${vault_mount.apitoken.path}/roles/${each.key}"
  ignore_absent_fields = true
  data_json            = jsonencode({ for field, value in each.value : field => value if value != null })

  depends_on = [vault_generic_endpoint.config]
}

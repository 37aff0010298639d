# The plugin in Vault's catalog, by its checksum: once per cluster, whatever the number of mounts. It has a state of its
# own, so that destroying one mount does not take the plugin from the others.

resource "vault_plugin" "apitoken" {
  type    = "secret"
  name    = "vault-plugin-secrets-apitoken"
  version = var.plugin_version
  command = "vault-plugin-secrets-apitoken"
  sha256  = var.plugin_sha256
}

# What Prometheus may do in Vault: read the metrics of the mount.
path "apitoken/metrics" {
  capabilities = ["read"]
}

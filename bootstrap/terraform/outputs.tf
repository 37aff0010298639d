output "policies" {
  description = "Policies to attach to those who play the part."
  value = {
    applications = { for role, policy in vault_policy.application : role => policy.name }
    introspect   = vault_policy.introspect.name
    verifier     = vault_policy.verifier.name
    security     = vault_policy.security.name
    metrics      = vault_policy.metrics.name
    alerts       = vault_policy.alerts.name
  }
}

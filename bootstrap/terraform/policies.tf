# Who may do what: one policy for each part that somebody plays, none with more than it needs.

# An application reads creds of its own role, and may ask for less than the role allows. Its leases it may
# renew by the policy "default".
resource "vault_policy" "application" {
  for_each = var.roles

  name   = "${var.path}-creds-${each.key}"
  policy = <<-EOT
    path "${vault_mount.apitoken.path}/creds/${each.key}" {
      capabilities = ["read", "update"]
    }
  EOT
}

# An API server asks whether the tokens that it is shown are good.
resource "vault_policy" "introspect" {
  name   = "${var.path}-introspect"
  policy = <<-EOT
    path "${vault_mount.apitoken.path}/introspect" {
      capabilities = ["update"]
    }
  EOT
}

# The security team sees who holds which token, and ends those that have leaked.
resource "vault_policy" "security" {
  name   = "${var.path}-security"
  policy = <<-EOT
    path "${vault_mount.apitoken.path}/tokens" {
      capabilities = ["list"]
    }
    path "${vault_mount.apitoken.path}/tokens/*" {
      capabilities = ["read", "list"]
    }
    path "${vault_mount.apitoken.path}/lookup" {
      capabilities = ["update"]
    }
    path "${vault_mount.apitoken.path}/revoke" {
      capabilities = ["update"]
    }
    path "${vault_mount.apitoken.path}/keys" {
      capabilities = ["list"]
    }
    path "${vault_mount.apitoken.path}/keys/rotate" {
      capabilities = ["update"]
    }
  EOT
}

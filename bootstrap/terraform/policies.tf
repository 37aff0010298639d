# Who may do what: one policy for each part that somebody plays, none with more than it needs.

# An application reads creds of its own role, which gets what the role grants. It may write, and so name scopes or a key,
# where the role is made for that: with allowed_scopes or proof. Its leases it may renew by the policy "default".
resource "vault_policy" "application" {
  for_each = var.roles

  name   = "${var.path}-creds-${each.key}"
  policy = <<-EOT
    path "${vault_mount.apitoken.path}/creds/${each.key}" {
      capabilities = ${jsonencode(local.narrows[each.key] ? ["read", "update"] : ["read"])}
    }
  EOT
}

locals {
  narrows = {
    for name, role in var.roles : name => try(length(role.allowed_scopes) > 0, false) || try(length(role.proof) > 0, false)
  }
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

# A verifier keeps the answers of introspection, reads what has changed, and reports how tokens were used.
resource "vault_policy" "verifier" {
  name   = "${var.path}-verifier"
  policy = <<-EOT
    path "${vault_mount.apitoken.path}/introspect" {
      capabilities = ["update"]
    }
    path "${vault_mount.apitoken.path}/feed" {
      capabilities = ["read"]
    }
    path "${vault_mount.apitoken.path}/usage" {
      capabilities = ["update"]
    }
  EOT
}

# Prometheus reads the metrics.
resource "vault_policy" "metrics" {
  name   = "${var.path}-metrics"
  policy = <<-EOT
    path "${vault_mount.apitoken.path}/metrics" {
      capabilities = ["read"]
    }
  EOT
}

# Who may write alerts chooses where Vault sends requests to: give that to few. A test event needs update only.
resource "vault_policy" "alerts" {
  name   = "${var.path}-alerts"
  policy = <<-EOT
    path "${vault_mount.apitoken.path}/alerts" {
      capabilities = ["list"]
    }
    path "${vault_mount.apitoken.path}/alerts/*" {
      capabilities = ["create", "read", "update", "delete"]
    }
  EOT
}

# The security team sees who holds which token, ends those that have leaked, and answers findings. Nobody needs a policy to
# report a leaked token: the path leaked takes no Vault token.
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
    path "${vault_mount.apitoken.path}/suspend" {
      capabilities = ["update"]
    }
    path "${vault_mount.apitoken.path}/resume" {
      capabilities = ["update"]
    }
    path "${vault_mount.apitoken.path}/suspended" {
      capabilities = ["list"]
    }
    path "${vault_mount.apitoken.path}/keys" {
      capabilities = ["list"]
    }
    path "${vault_mount.apitoken.path}/keys/*" {
      capabilities = ["update", "delete"]
    }
    path "${vault_mount.apitoken.path}/findings" {
      capabilities = ["list"]
    }
    path "${vault_mount.apitoken.path}/findings/*" {
      capabilities = ["read", "update"]
    }
    path "${vault_mount.apitoken.path}/report/*" {
      capabilities = ["read"]
    }
    path "${vault_mount.apitoken.path}/connections/+/reconcile" {
      capabilities = ["read", "update"]
    }
  EOT
}

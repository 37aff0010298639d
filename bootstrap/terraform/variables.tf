variable "plugin_version" {
  description = "Version of the plugin that the mount runs. It is registered by bootstrap/terraform/plugin."
  type        = string
  default     = "v0.1.0"
}

variable "path" {
  description = "Where the engine is mounted. One mount is one environment."
  type        = string
  default     = "apitoken"
}

variable "environment" {
  description = "Name that the tokens of this mount go by."
  type        = string
  default     = "production"
}

locals {
  # All fields of a role. They are in docs/api.md.
  role_fields = [
    "access_ttl", "allow_privileged", "allowed_scopes", "audience", "bound_hosts", "bound_regions", "connection", "description",
    "detection", "exchange", "generate_lease", "max_tokens", "max_ttl", "metadata", "owner", "params", "proof", "rate_limit",
    "refresh", "request_bound_cidrs", "require_bound_checks", "reuse", "review_by", "scopes", "token_bound_cidrs", "token_format",
    "ttl",
  ]
}

# The type is any, for Terraform drops attributes that an object type does not have: a misspelt restriction would be gone
# without a word. Here it fails the plan.
variable "roles" {
  description = "What may be issued, by the name of the role; fields as in docs/api.md, durations in seconds."
  type        = any
  default = {
    billing-reader = {
      description       = "The nightly report reads invoices."
      scopes            = ["invoices:read"]
      audience          = ["https://billing.example.com"]
      ttl               = 3600
      max_ttl           = 86400
      token_bound_cidrs = ["10.0.0.0/8"]
    }
    deploy-bot = {
      description    = "The pipeline releases one service at a time, and asks for that one's scope."
      scopes         = ["deploy:status"]
      allowed_scopes = ["deploy:*"]
      ttl            = 900
      max_ttl        = 3600
    }
  }

  validation {
    condition     = can([for name, role in var.roles : keys(role)])
    error_message = "Must be a map from the names of roles to their fields."
  }

  validation {
    condition = alltrue(flatten([
      for role in try(values(var.roles), []) : [for field in try(keys(role), []) : contains(local.role_fields, field)]
    ]))
    error_message = format("Not a field of a role: %s. A role has: %s.",
      join(", ", flatten([
        for name, role in try(var.roles, {}) : [for field in try(keys(role), []) : "${name}.${field}" if !contains(local.role_fields, field)]
      ])),
      join(", ", local.role_fields),
    )
  }
}

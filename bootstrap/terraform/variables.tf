variable "plugin_sha256" {
  description = "SHA-256 of the plugin binary that lies in Vault's plugin directory."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.plugin_sha256))
    error_message = "Must be 64 lower-case hexadecimal digits, as sha256sum prints them."
  }
}

variable "plugin_version" {
  description = "Version of that binary, as its flag -version prints it."
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

variable "roles" {
  description = "What may be issued, by the name of the role; fields as in docs/api.md, durations in seconds."
  type = map(object({
    description       = string
    scopes            = list(string)
    allowed_scopes    = optional(list(string), [])
    audience          = optional(list(string), [])
    ttl               = number
    max_ttl           = number
    token_bound_cidrs = optional(list(string), [])
  }))
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
}

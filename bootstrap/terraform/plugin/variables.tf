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

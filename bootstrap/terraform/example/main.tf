# How Terraform itself uses a token: as an ephemeral value, which is in no plan and in no state. The
# provider asks for it with a Vault token of its own that lives for 20 minutes, and its lease ends with that.

terraform {
  required_version = ">= 1.11"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = "~> 5.0"
    }
  }
}

ephemeral "vault_generic_secret" "deploy" {
  path = "apitoken/creds/deploy-bot"
}

# A provider would take the token as its credential; here a command gets it.
resource "terraform_data" "release" {
  input = "v1.2.3"

  provisioner "local-exec" {
    command = "test -n \"$API_TOKEN\" && echo \"releasing ${self.input}\""
    environment = {
      API_TOKEN = ephemeral.vault_generic_secret.deploy.data["token"]
    }
  }
}

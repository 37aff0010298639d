# What the authorizer may do in Vault: ask about tokens, read which changed, and report uses.
path "apitoken/introspect" {
  capabilities = ["update"]
}
path "apitoken/feed" {
  capabilities = ["read"]
}
path "apitoken/usage" {
  capabilities = ["update"]
}

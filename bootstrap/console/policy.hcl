# What the pages of the console read.
path "apitoken/report/*" {
  capabilities = ["read"]
}
path "apitoken/tokens" {
  capabilities = ["list"]
}
path "apitoken/tokens/*" {
  capabilities = ["read", "list"]
}
path "apitoken/findings" {
  capabilities = ["list"]
}
path "apitoken/roles" {
  capabilities = ["list"]
}
path "apitoken/roles/*" {
  capabilities = ["read", "list"]
}
path "apitoken/connections" {
  capabilities = ["list"]
}
path "apitoken/connections/*" {
  capabilities = ["read", "list"]
}

# The comparison of the tokens at a service with those of the engine. update starts a comparison; read is for the numbers.
path "apitoken/connections/+/reconcile" {
  capabilities = ["read", "update"]
}

# What the buttons of the console write: acknowledge, revoke, suspend, resume. Without update, findings/* is for reading.
path "apitoken/findings/*" {
  capabilities = ["read", "list", "update"]
}
path "apitoken/revoke" {
  capabilities = ["update"]
}
path "apitoken/suspend" {
  capabilities = ["update"]
}
path "apitoken/resume" {
  capabilities = ["update"]
}

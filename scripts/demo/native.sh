#!/bin/sh
# The life of a token from end to end, on the Vault server at VAULT_ADDR. Each step explains, shows and runs a command.
# "make demo" starts the server.
. "$(dirname "$0")/story.sh"

say "Vault registers the plugin by its checksum, and mounts the plugin. A mount is an environment: a token of one mount is
# never valid in another mount. The mount decides which fields the audit log shows in plain text."
sha256=$(sha256sum "$PLUGIN" | cut -d ' ' -f 1)
run vault plugin register -sha256="$sha256" secret vault-plugin-secrets-apitoken
run vault secrets enable -path=apitoken \
  -audit-non-hmac-request-keys=token_id -audit-non-hmac-request-keys=client_ip \
  -audit-non-hmac-response-keys=token_id -audit-non-hmac-response-keys=role \
  -audit-non-hmac-response-keys=active -audit-non-hmac-response-keys=reason \
  vault-plugin-secrets-apitoken
run vault write apitoken/config environment=production

say "A role defines what a token may be used for, where, and how long."
run vault write apitoken/roles/billing-reader \
  scopes=invoices:read allowed_scopes=invoices:* ttl=1h max_ttl=24h \
  token_bound_cidrs=10.0.0.0/8 metadata=team=billing

say "The application requests a token. The token is a leased secret, like every other secret of Vault."
run vault read apitoken/creds/billing-reader
token=$(value token) id=$(value token_id) lease=$(value lease_id)

say "The API server received the token, and checks the token for this call from this address. (epoch and cursor are a position
# in the feed, the list of what was revoked or changed. An API server that keeps answers needs the position: docs/api.md.)"
run vault write apitoken/introspect token="$token" client_ip=10.1.2.3 required_scopes=invoices:read
expect active true

say "The token is not valid from another address: a stolen token is useless elsewhere."
run vault write apitoken/introspect token="$token" client_ip=192.0.2.66
expect reason address_not_allowed

say "The token is not valid for a call that requires another scope."
run vault write apitoken/introspect token="$token" client_ip=10.1.2.3 required_scopes=invoices:write
expect reason insufficient_scope

say "A request may ask for less than the role allows: one task, one machine, five minutes."
run vault write apitoken/creds/billing-reader scopes=invoices:lines:read ttl=5m token_bound_cidrs=10.9.8.7
say "A request must not ask for more."
refused vault write apitoken/creds/billing-reader scopes=invoices:read,users:delete

say "Renewing the lease extends the token, up to max_ttl."
run vault lease renew -increment=2h "$lease"

say "A rotation makes a new key, which seals new tokens. Older tokens stay valid."
run vault write -force apitoken/keys/rotate
run vault list -detailed apitoken/keys
run vault write apitoken/introspect token="$token" client_ip=10.1.2.3
expect active true

say "The inventory lists who holds which token, and how often the token was used and refused. The inventory does not hold the
# tokens themselves."
run vault list -detailed apitoken/tokens
run vault read -format=json -field=usage apitoken/tokens/"$id"

say "The token leaked. The token_id in the logs suffices to revoke the token."
run vault write apitoken/revoke token_id="$id"
run vault write apitoken/introspect token="$token" client_ip=10.1.2.3
expect reason revoked

say "An API server can verify a JWT without asking Vault. The API server needs only the URL of the issuer, and discovers keys
# and endpoints. (The demo shortens the caching from minutes to a second.)"
run vault write apitoken/config issuer="$VAULT_ADDR/v1/apitoken" jwks_max_age=1s status_list_ttl=1s
run vault write apitoken/roles/orders-reader token_format=jwt \
  scopes=orders:read audience=https://orders.example.com ttl=1h
run vault read apitoken/creds/orders-reader
jwt=$(value token) jwt_lease=$(value lease_id)

say "This API server uses the OpenID Connect library go-oidc. The published keys verify the signature. One bit of a status
# list shows that the token was not revoked."
run go run ./scripts/oidcverify -issuer="$VAULT_ADDR/v1/apitoken" -audience=https://orders.example.com "$jwt"
expect revoked false

say "The engine publishes a new signing key before the key signs, and an old key as long as its tokens live."
sleep 1
run vault write -force apitoken/keys/rotate
run go run ./scripts/oidcverify -issuer="$VAULT_ADDR/v1/apitoken" -audience=https://orders.example.com "$jwt"
expect signature good

say "The lease is revoked. The signature of the token is still valid; the status list shows the revocation."
run vault lease revoke -sync "$jwt_lease"
run go run ./scripts/oidcverify -issuer="$VAULT_ADDR/v1/apitoken" -audience=https://orders.example.com "$jwt"
expect revoked true

say "A client that runs for days gets a refresh token with a short-lived access token."
run vault write apitoken/roles/mobile scopes=orders:read refresh=true access_ttl=5m ttl=8h max_ttl=24h
run vault read apitoken/creds/mobile
first=$(value refresh_token)

say "A refresh needs no Vault token: the credential is the refresh token, for one use. (The demo uses the vault command. Any
# OAuth client works.)"
run env VAULT_TOKEN= vault write apitoken/oauth/token grant_type=refresh_token refresh_token="$first"
second=$(value refresh_token)
run env VAULT_TOKEN= vault write apitoken/oauth/token grant_type=refresh_token refresh_token="$second"
access=$(value access_token)
run vault write apitoken/introspect token="$access"
expect active true

say "The first refresh token is used again. One of the two users stole the token, so the engine revokes the whole grant.
# (The answer is the OAuth error invalid_grant. The vault command does not show its text.)"
refused env VAULT_TOKEN= vault write apitoken/oauth/token grant_type=refresh_token refresh_token="$first"
run vault write apitoken/introspect token="$access"
expect reason revoked

say "The audit log shows every request about the first token. The audit log holds the token only as an HMAC, and token_id in
# plain text:"
in_audit_log "$token" "$id"

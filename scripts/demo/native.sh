#!/bin/sh
# The main job of the engine from end to end, on the Vault server that VAULT_ADDR names: each step says
# why, shows the command as one would type it, and runs it. "make demo" brings the server along.
. "$(dirname "$0")/story.sh"

say "Vault is told of the plugin by its checksum, and mounts it. A mount is an environment: no token of
# one is ever good in another. What stands in plain text in the audit log is up to the mount."
sha256=$(sha256sum "$PLUGIN" | cut -d ' ' -f 1)
run vault plugin register -sha256="$sha256" secret vault-plugin-secrets-apitoken
run vault secrets enable -path=apitoken \
  -audit-non-hmac-request-keys=token_id -audit-non-hmac-request-keys=client_ip \
  -audit-non-hmac-response-keys=token_id -audit-non-hmac-response-keys=role \
  -audit-non-hmac-response-keys=active -audit-non-hmac-response-keys=reason \
  vault-plugin-secrets-apitoken
run vault write apitoken/config environment=production

say "A role says what may be granted, to be used from where, and for how long."
run vault write apitoken/roles/billing-reader \
  scopes=invoices:read allowed_scopes=invoices:* ttl=1h max_ttl=24h \
  token_bound_cidrs=10.0.0.0/8 metadata=team=billing

say "The application asks for a token. It is a leased secret, like every other of Vault's."
run vault read apitoken/creds/billing-reader
token=$(value token) id=$(value token_id) lease=$(value lease_id)

say "The API server was shown the token, and asks whether it is good for this call from this address."
run vault write apitoken/introspect token="$token" client_ip=10.1.2.3 required_scopes=invoices:read
expect active true

say "From another address it is not: a stolen token is of no use elsewhere."
run vault write apitoken/introspect token="$token" client_ip=192.0.2.66
expect reason address_not_allowed

say "Nor is it for a call that needs a scope that it was not granted."
run vault write apitoken/introspect token="$token" client_ip=10.1.2.3 required_scopes=invoices:write
expect reason insufficient_scope

say "A request may ask for less than the role allows: for one task, one machine, five minutes."
run vault write apitoken/creds/billing-reader scopes=invoices:lines:read ttl=5m token_bound_cidrs=10.9.8.7
say "... and never for more."
refused vault write apitoken/creds/billing-reader scopes=invoices:read,users:delete

say "Renewing the lease extends the token, up to max_ttl."
run vault lease renew -increment=2h "$lease"

say "A new key seals new tokens from now on. Those that are out stay good."
run vault write -force apitoken/keys/rotate
run vault list -detailed apitoken/keys
run vault write apitoken/introspect token="$token" client_ip=10.1.2.3
expect active true

say "Who holds which token? The inventory has everything but the tokens."
run vault list -detailed apitoken/tokens

say "The token has leaked. Its id stands in the logs, and is enough to end it."
run vault write apitoken/revoke token_id="$id"
run vault write apitoken/introspect token="$token" client_ip=10.1.2.3
expect reason revoked

say "An API server can also verify a token without asking Vault: if it is a JWT. It has to know the URL
# of the issuer, and finds keys and endpoints from there. (What it may cache for minutes is a second here.)"
run vault write apitoken/config issuer="$VAULT_ADDR/v1/apitoken" jwks_max_age=1s status_list_ttl=1s
run vault write apitoken/roles/orders-reader token_format=jwt \
  scopes=orders:read audience=https://orders.example.com ttl=1h
run vault read apitoken/creds/orders-reader
jwt=$(value token) jwt_lease=$(value lease_id)

say "Here an API server does so with go-oidc, a library that knows nothing of this plugin: the published
# keys verify the signature, and one bit of a status list says that the token was not revoked."
run go run ./scripts/oidcverify -issuer="$VAULT_ADDR/v1/apitoken" -audience=https://orders.example.com "$jwt"
expect revoked false

say "A new signing key is published before it signs, and the old one for as long as its tokens live."
sleep 1
run vault write -force apitoken/keys/rotate
run go run ./scripts/oidcverify -issuer="$VAULT_ADDR/v1/apitoken" -audience=https://orders.example.com "$jwt"
expect signature good

say "The lease is revoked. The token still looks good to whoever has only the keys; the status list knows."
run vault lease revoke -sync "$jwt_lease"
run go run ./scripts/oidcverify -issuer="$VAULT_ADDR/v1/apitoken" -audience=https://orders.example.com "$jwt"
expect revoked true

say "A client that runs for days gets a refresh token with a short-lived access token."
run vault write apitoken/roles/mobile scopes=orders:read refresh=true access_ttl=5m ttl=8h max_ttl=24h
run vault read apitoken/creds/mobile
first=$(value refresh_token)

say "It refreshes without a Vault token: the refresh token is the credential, and is good once. (Any OAuth
# client can; here it is vault, so that the demo needs nothing else.)"
run env VAULT_TOKEN= vault write apitoken/oauth/token grant_type=refresh_token refresh_token="$first"
second=$(value refresh_token)
run env VAULT_TOKEN= vault write apitoken/oauth/token grant_type=refresh_token refresh_token="$second"
access=$(value access_token)
run vault write apitoken/introspect token="$access"
expect active true

say "Somebody uses the first one again. One of the two has stolen it, so that the whole grant ends.
# (The answer is the OAuth error invalid_grant, of which the vault command shows no text.)"
refused env VAULT_TOKEN= vault write apitoken/oauth/token grant_type=refresh_token refresh_token="$first"
run vault write apitoken/introspect token="$access"
expect reason revoked

say "The audit log tells the story. The token is in it as an HMAC only; token_id can be read:"
in_audit_log "$token" "$id"

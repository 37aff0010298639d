#!/bin/sh
# The main job of the engine from end to end, on the Vault server that VAULT_ADDR names: each step says
# why, shows the command as one would type it, and runs it. "make demo" brings the server along.
set -eu

say() { printf '\n# %s\n' "$*"; }

# run shows a command and runs it. What it prints is kept in $out.
run() {
  printf '$ %s\n' "$*"
  out=$("$@" 2>&1) || { printf '%s\n' "$out"; exit 1; }
  if [ -n "$out" ]; then printf '%s\n' "$out"; fi
}

# refused runs a command that must fail.
refused() {
  printf '$ %s\n' "$*"
  if out=$("$@" 2>&1); then printf '%s\nThis should have been refused.\n' "$out"; exit 1; fi
  printf '%s\n' "$out" | grep -e '^Code' -e '^\*'
}

# value finds a value in the table that the last command printed.
value() { printf '%s\n' "$out" | awk -v key="$1" '$1 == key { print $2 }'; }

# expect stops the demo when the last answer is not the one that the story tells.
expect() {
  if [ "$(value "$1")" != "$2" ]; then printf 'Expected %s to be %s.\n' "$1" "$2"; exit 1; fi
}

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
run vault write apitoken/roles/orders-reader token_type=jwt \
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

say "Somebody uses the first one again. One of the two has stolen it, so that the whole grant ends."
refused env VAULT_TOKEN= vault write apitoken/oauth/token grant_type=refresh_token refresh_token="$first"
run vault write apitoken/introspect token="$access"
expect reason revoked

if [ -z "${GITEA_URL:-}" ]; then
  say "SKIPPED: tokens of a Gitea server. $NO_GITEA"
else
  say "Tokens of other services come the same way. Here is a Gitea server, as one finds it in many a company;
# Vault is told where it is and as whom to mint tokens there."
  run vault write apitoken/connections/gitea provider=gitea url="$GITEA_URL" \
    credential=username=admin credential=password="$GITEA_PASSWORD"
  run vault write -force apitoken/connections/gitea/check

  say "From now on nobody but Vault needs to know that password, so nobody shall."
  run vault write -force apitoken/rotate-root/gitea

  say "A role says whose token it is to be, and for what."
  run vault write apitoken/roles/ci-bot connection=gitea params=username=ci-bot params=scopes=read:user ttl=1h
  run vault read apitoken/creds/ci-bot
  token=$(value token) lease=$(value lease_id)

  say "It is Gitea's own token. Gitea accepts it for what it is for, and for nothing else."
  run go run ./scripts/get "$GITEA_URL/api/v1/user" token "$token"
  refused go run ./scripts/get "$GITEA_URL/api/v1/notifications" token "$token"

  say "Its lease is revoked, and Gitea refuses it."
  run vault lease revoke -sync "$lease"
  refused go run ./scripts/get "$GITEA_URL/api/v1/user" token "$token"

  say "Gitea is one of these. A service that is not among them takes a page of YAML: docs/providers.md."
  run vault list apitoken/providers
fi

say "The audit log tells the story. The token is in it as an HMAC only; token_id can be read:"
if grep -q "$token" "$AUDIT_LOG"; then echo "The token is in the audit log!"; exit 1; fi
grep "$id" "$AUDIT_LOG" | grep '"type":"response"' | awk '
  function field(name) {
    if (!match($0, "\"" name "\":(\"[^\"]*\"|true|false)")) return ""
    v = substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
    gsub("\"", "", v)
    return "  " name "=" (v ~ /^hmac/ ? substr(v, 1, 20) "..." : v)
  }
  { print field("operation") field("path") field("client_ip") field("token") field("token_id") field("active") field("reason") }'

printf '\nThat was all. To try it yourself: make dev\n'

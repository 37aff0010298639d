#!/bin/sh
# The second part of the demo: tokens of a Gitea server at GITEA_URL. The part runs after native.sh on the same Vault server.
# Without a Gitea server, NO_GITEA holds the reason.
. "$(dirname "$0")/story.sh"

if [ -z "${GITEA_URL:-}" ]; then
  say "SKIPPED: tokens of a Gitea server. $NO_GITEA"
  the_end
  exit
fi

say "The engine also issues tokens of other services, here of a Gitea server. A connection holds the URL of the service and
# the credential for minting tokens."
run vault write apitoken/connections/gitea provider=gitea url="$GITEA_URL" \
  credential=username=admin credential=password="$GITEA_PASSWORD"
run vault write -force apitoken/connections/gitea/check

say "Vault replaces the password by a new password that only Vault knows."
run vault write -force apitoken/rotate-root/gitea

say "A role defines the user and the scopes of its tokens."
run vault write apitoken/roles/ci-bot connection=gitea params=username=ci-bot params=scopes=read:user ttl=1h
run vault read apitoken/creds/ci-bot
token=$(value token) id=$(value token_id) lease=$(value lease_id)

say "The token is a Gitea token. Gitea accepts the token for its scopes only."
run go run ./scripts/get "$GITEA_URL/api/v1/user" token "$token"
refused go run ./scripts/get "$GITEA_URL/api/v1/notifications" token "$token"

say "The lease is revoked. Gitea rejects the token."
run vault lease revoke -sync "$lease"
refused go run ./scripts/get "$GITEA_URL/api/v1/user" token "$token"

say "Gitea is one of the built-in providers. Another service needs one page of YAML: docs/providers.md."
run vault list apitoken/providers

say "The audit log holds the Gitea token only as an HMAC, too:"
in_audit_log "$token" "$id"
the_end

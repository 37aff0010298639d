#!/bin/sh
# The second part of the demo, which comes after native.sh on the same Vault server: tokens of another service, a Gitea
# server at GITEA_URL. Where there is none, NO_GITEA says why.
. "$(dirname "$0")/story.sh"

if [ -z "${GITEA_URL:-}" ]; then
  say "SKIPPED: tokens of a Gitea server. $NO_GITEA"
  the_end
  exit
fi

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
token=$(value token) id=$(value token_id) lease=$(value lease_id)

say "It is Gitea's own token. Gitea accepts it for what it is for, and for nothing else."
run go run ./scripts/get "$GITEA_URL/api/v1/user" token "$token"
refused go run ./scripts/get "$GITEA_URL/api/v1/notifications" token "$token"

say "Its lease is revoked, and Gitea refuses it."
run vault lease revoke -sync "$lease"
refused go run ./scripts/get "$GITEA_URL/api/v1/user" token "$token"

say "Gitea is one of these. A service that is not among them takes a page of YAML: docs/providers.md."
run vault list apitoken/providers

say "The audit log has Gitea's token as an HMAC only, too:"
in_audit_log "$token" "$id"
the_end

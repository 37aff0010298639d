#!/bin/sh
# The chapter about gateways: an API behind a real gateway, which asks apitoken-authz. The chapter runs after native.sh on the
# same Vault server. Gateways: nginx or caddy on PATH, or bin/caddy, which the chapter builds if need be.
. "$(dirname "$0")/story.sh"

if command -v nginx >/dev/null; then gateway=nginx
elif command -v caddy >/dev/null; then gateway=caddy caddy=caddy
elif [ -x bin/caddy ]; then gateway=caddy caddy=bin/caddy
else
  gateway=caddy caddy=bin/caddy
  say "There is neither nginx nor caddy here. The demo builds Caddy, once; that takes some minutes."
  ./bootstrap/gateways/build.sh caddy
fi

dir=$(mktemp -d)
pids=
stop() {
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  for pid in $pids; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$dir"
}
trap stop EXIT
trap 'exit 1' INT TERM

printf '\nNow for a gateway. Building the authorizer, the scanner and a small API: up to a minute the first time.\n'
go build -o "$dir" ./scripts/orders ./cmd/apitoken-authz ./cmd/apitoken
PATH=$dir:$PATH
set -- $(orders ports 5)
web=127.0.0.1:$1 api=127.0.0.1:$2 authz=127.0.0.1:$3 admin=127.0.0.1:$4 hook=127.0.0.1:$5

# copy writes a file of bootstrap/authz with the addresses of the demo.
copy() {
  sed -e "s|127.0.0.1:8000|$web|; s|http://:8000|http://:${web#*:}|; s|127.0.0.1:8080|$api|; s|127.0.0.1:9191|$authz|; s|127.0.0.1:9190|$admin|" \
    -e "s|https://vault.example.com:8200|$VAULT_ADDR|; s|/run/apitoken-authz/vault-token|$dir/vault-token|; s|gateways: \[nginx\]|gateways: [$gateway]|" \
    "bootstrap/authz/$1" > "$dir/$1"
}

say "An API has no part in checking tokens: the gateway in front of the API asks the authorizer. The authorizer is a small
# server with a policy of its own in Vault. Its rules state which request needs which scope."
run vault policy write apitoken-authz bootstrap/authz/policy.hcl
vault token create -policy=apitoken-authz -field=token > "$dir/vault-token"
copy authz.yaml
printf '$ cat authz.yaml    # the part with the rules\n'
sed -n '/^rules:/,$p' "$dir/authz.yaml"
printf '$ apitoken-authz -check-config -config authz.yaml\n'
(cd "$dir" && apitoken-authz -check-config -config authz.yaml)

orders serve "$api" & pids="$pids $!"
apitoken-authz -config "$dir/authz.yaml" 2> "$dir/authz.log" & pids="$pids $!"
case $gateway in
  nginx)
    copy nginx.conf
    nginx -p "$dir" -e "$dir/error.log" -c "$dir/nginx.conf" -g "daemon off; pid $dir/nginx.pid; error_log $dir/error.log;" & pids="$pids $!"
    ;;
  caddy)
    copy Caddyfile
    HOME=$dir "$caddy" run --adapter caddyfile --config "$dir/Caddyfile" 2> "$dir/error.log" & pids="$pids $!"
    ;;
esac
orders until 200 "http://$web/status" "" > "$dir/started" || { cat "$dir/authz.log" "$dir/error.log"; exit 1; }

# ask_until asks until the status is the expected status, and shows how long that took. More than two seconds stop the demo.
ask_until() {
  printf '$ GET %s with %s, again and again until the status is %s\n' "$2" "$4" "$1"
  out=$(orders until "$1" "http://$web$2" "$3") || exit 1
  printf '%s\n' "$out"
  took=${out#"$1" after } took=${took% ms}
  if [ "$took" -gt 2000 ]; then echo "That took too long."; exit 1; fi
}

# ask shows the answer to a request with a token, and stops the demo if the status is another.
ask() {
  printf '$ GET %s with %s\n' "$2" "${4:-no token}"
  out=$(orders get "http://$web$2" "$3")
  printf '%s\n' "$out"
  if [ "${out%% *}" != "$1" ]; then printf 'Expected the status %s.\n' "$1"; cat "$dir/authz.log"; exit 1; fi
}

say "Here the gateway is $gateway. A token passes where the token has the scope, and the API learns who asks."
run vault write apitoken/roles/orders-clerk scopes=orders:read audience=https://orders.example.com ttl=1h
run vault read apitoken/creds/orders-clerk
token=$(value token) lease=$(value lease_id) id=$(value token_id)
ask 200 /orders/7 "$token" "the token"
say "The rule of /admin/ requires a scope that the token does not grant. A client can spell a path below /admin/ so that the
# path begins with /orders/: the authorizer refuses such a path, whatever the token grants."
ask 403 /admin/users "$token" "the token"
ambiguous=400
if [ $gateway = nginx ]; then ambiguous=403; fi # nginx takes no other refusals
ask $ambiguous "/orders/%2e%2e/admin/users" "$token" "the token"
say "A request without a token passes only where a rule is public. The API then sees - in place of a role and a token."
ask 401 /orders/7 ""
ask 200 /status ""

say "The authorizer explains a decision to operators."
printf '$ echo $TOKEN | apitoken-authz -config authz.yaml -explain "GET http://orders.example.com/admin/users"\n'
printf '%s\n' "$token" | apitoken-authz -config "$dir/authz.yaml" -explain "GET http://orders.example.com/admin/users"

say "The authorizer keeps what it knows of a token, and does not ask Vault again for each use. Once a second the
# authorizer reads the feed, the list of what was revoked. The token is therefore refused within two seconds."
run vault lease revoke -sync "$lease"
ask_until 401 /orders/7 "$token" "the token"

say "The same with a JWT, whose signature and status list the authorizer checks itself."
run vault write apitoken/roles/orders-jwt token_format=jwt scopes=orders:read audience=https://orders.example.com ttl=1h
jwt=$(vault read -format=json apitoken/creds/orders-jwt)
lease=$(printf '%s' "$jwt" | sed -n 's/.*"lease_id": "\(.*\)",/\1/p')
jwt=$(printf '%s' "$jwt" | sed -n 's/.*"token": "\(.*\)",*/\1/p')
ask 200 /orders/7 "$jwt" "the JWT"
run vault lease revoke -sync "$lease"
ask_until 401 /orders/7 "$jwt" "the JWT"

say "The log of the authorizer has the id of the token, and never the token. The last line about the first token:"
if grep -q -e "$token" -e "$jwt" "$dir/authz.log"; then echo "A token is in the log!"; exit 1; fi
grep "$id" "$dir/authz.log" | tail -n 1

. "$(dirname "$0")/insight.sh"

# The chapter about misuse and leaks. gateway.sh reads this file with ".", since the chapter needs its gateway.

say "Where a token is used from says a lot about who uses the token. The engine looks addresses up in a database. The demo's
# database says that 127.0.10.0/24 is in Berlin, and 127.0.20.0/24 in Sydney."
orders places "$dir/places.mmdb"
run vault write apitoken/config geoip_database="$dir/places.mmdb"
say "Rules find misuse. This one suspends a token that travels faster than an aeroplane."
run vault write apitoken/config/detection impossible_travel=suspend
say "An alert calls a webhook about findings. The receiver checks the signature of each call."
printf '$ vault write -field=secret apitoken/alerts/security url=http://%s allow_http=true > webhook-secret\n' "$hook"
orders receive "$hook" "$dir/webhook-secret" "$dir/received" 2> "$dir/hook.log" & pids="$pids $!"
vault write -field=secret apitoken/alerts/security url="http://$hook" allow_http=true > "$dir/webhook-secret"

run vault read apitoken/creds/orders-clerk
token=$(value token) id=$(value token_id)
say "The clerk in Berlin uses the token."
ORDERS_FROM=127.0.10.7 ask 200 /orders/7 "$token" "the token, from Berlin"
say "A thief in Sydney has a copy. The first request passes. The authorizer reports the new place at once, and the engine suspends the
# token: everywhere, and for the clerk too."
ORDERS_FROM=127.0.20.9 ask 200 /orders/7 "$token" "the token, from Sydney"
ORDERS_FROM=127.0.20.9 ask_until 401 /orders/7 "$token" "the token, from Sydney"
ORDERS_FROM=127.0.10.7 ask 401 /orders/7 "$token" "the token, from Berlin"
say "The finding says which rule, which numbers, and what to do."
finding=$(vault list -format=json apitoken/findings | sed -n 's/.*"\([0-9a-f]*\)".*/\1/p' | head -n 1)
for field in rule severity summary response; do
  printf '%-9s %s\n' "$field" "$(vault read -field=$field "apitoken/findings/$finding")"
done
vault read -format=json -field=commands "apitoken/findings/$finding" | sed -n 's/^ *"\(.*\)",*$/  \1/p'
say "The webhook was called."
orders wait "$dir/received" apitoken.finding.opened
say "The clerk gets another token. The suspension can be undone, but a stolen token is better revoked."
run vault write apitoken/revoke token_id="$id"
run vault write apitoken/findings/"$finding" note="stolen with a laptop, reported by the clerk"

say "Somebody commits a token to a git repository, and removes the token with the next commit. The history still has the token."
run vault read apitoken/creds/orders-clerk
token=$(value token) id=$(value token_id)
history=$dir/shop
git init -q "$history"
commit() { git -C "$history" add -A && git -C "$history" -c user.name=clerk -c user.email=clerk@example.com commit -qm "$1"; }
printf 'ORDERS_TOKEN=%s\n' "$token" > "$history/settings.env"
commit "Add the settings"
printf 'ORDERS_TOKEN=\n' > "$history/settings.env"
commit "Remove the token"
printf '$ apitoken scan -git -revoke shop\n'
code=0
(cd "$dir" && apitoken scan -git -revoke shop) || code=$?
if [ "$code" != 1 ]; then echo "The scan should have found a token."; exit 1; fi
run vault write apitoken/introspect token="$token"
expect active false
ask_until 401 /orders/7 "$token" "the token"

# Functions of the demo's parts. Each part reads this file with ".".
set -eu

say() { printf '\n# %s\n' "$*"; }

# run shows and runs a command. $out holds the command's output.
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

# value returns a value of the table that the last command printed.
value() { printf '%s\n' "$out" | awk -v key="$1" '$1 == key { print $2 }'; }

# expect stops the demo if a value of the last answer is not the expected value.
expect() {
  if [ "$(value "$1")" != "$2" ]; then printf 'Expected %s to be %s.\n' "$1" "$2"; exit 1; fi
}

# in_audit_log fails if the audit log holds a token in plain text, and shows the answers about a token_id. Lists name many tokens.
in_audit_log() {
  if grep -q "$1" "$AUDIT_LOG"; then echo "The token is in the audit log!"; exit 1; fi
  grep "$2" "$AUDIT_LOG" | grep '"type":"response"' | grep -v '"operation":"list"' | awk '
    function field(name) {
      if (!match($0, "\"" name "\":(\"[^\"]*\"|true|false)")) return ""
      v = substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
      gsub("\"", "", v)
      return "  " name "=" (v ~ /^hmac/ ? substr(v, 1, 20) "..." : v)
    }
    { print field("operation") field("path") field("client_ip") field("token") field("token_id") field("active") field("reason") }'
}

the_end() { printf '\nThat was all. To try it yourself: make dev\n'; }

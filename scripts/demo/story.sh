# What the parts of the demo tell their story with. They read it with ".".
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

# in_audit_log fails when the audit log has a token, and shows what it says of a token_id instead.
in_audit_log() {
  if grep -q "$1" "$AUDIT_LOG"; then echo "The token is in the audit log!"; exit 1; fi
  grep "$2" "$AUDIT_LOG" | grep '"type":"response"' | awk '
    function field(name) {
      if (!match($0, "\"" name "\":(\"[^\"]*\"|true|false)")) return ""
      v = substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
      gsub("\"", "", v)
      return "  " name "=" (v ~ /^hmac/ ? substr(v, 1, 20) "..." : v)
    }
    { print field("operation") field("path") field("client_ip") field("token") field("token_id") field("active") field("reason") }'
}

the_end() { printf '\nThat was all. To try it yourself: make dev\n'; }

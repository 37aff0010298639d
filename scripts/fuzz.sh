#!/usr/bin/env bash
# Runs each fuzz target for $FUZZTIME.
#
# Before Go 1.27 the fuzzer sometimes reports "context deadline exceeded" when the time is up while a worker is busy, without
# a failing input: golang.org/issue/75804. Only that report is no failure.
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
FUZZTIME=${FUZZTIME:-20s}
output=$(mktemp)
trap 'rm -f "$output"' EXIT

# time_is_up reports whether the output of a failed run holds nothing but the report of the deadline.
time_is_up() {
  ! grep -qE 'Failing input|panic:|testdata/fuzz|_test\.go:[0-9]+' "$output" &&
    [ "$(grep -A1 '^--- FAIL' "$output" | tail -n 1 | tr -d ' ')" = contextdeadlineexceeded ]
}

grep -rl --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' "$file"); do
    echo "$(dirname "$file") $target"
    if ! "$GO" test "$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 1x 2>&1 | tee "$output"; then
      time_is_up || exit 1
      echo "$target: no input failed; the time was up while the fuzzer was busy (golang.org/issue/75804)"
    fi
  done
done

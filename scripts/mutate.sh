#!/bin/sh
# Changes the code of the packages one operator at a time, and prints the changes that no test of the package notices.
# Run it from the root of the repository; arguments are the packages, by default all that are to be mutated.
set -eu

packages="token access ledger role native upstream"

root=$PWD
go build -C bootstrap/tools -o ../../bin/ github.com/go-gremlins/gremlins/cmd/gremlins

# gremlins copies the whole module for each worker: give it what git has, without binaries and caches.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy"
cd "$copy"

# Its time limit is a multiple of the first run of the tests, which therefore must not come from the cache.
export GOFLAGS="-count=1 -short -vet=off"
for package in ${*:-$packages}; do
  [ -d "backend/$package" ] || continue
  echo "== $package"
  "$root/bin/gremlins" unleash "./backend/$package"
done

#!/bin/sh
# Lints the repository. Run it from its root. The tools are built from bootstrap/tools, which pins them.
set -eu

root=$PWD
modules=". backend/connector/contract backend/verify/bench"

echo "Building the linters (the first time takes minutes)"
go build -C bootstrap/tools -o ../../bin/ \
  github.com/golangci/golangci-lint/v2/cmd/golangci-lint golang.org/x/vuln/cmd/govulncheck

# gofmt, go vet, staticcheck and more: .golangci.yml.
for module in $modules; do
  echo "golangci-lint $module"
  (cd "$module" && "$root/bin/golangci-lint" run ./...)
  echo "go mod tidy $module"
  (cd "$module" && go mod tidy -diff)
done

# The prose: .vale.ini. vale parses Go with a C library.
echo "vale"
if [ "$(go env CGO_ENABLED)" = 1 ]; then
  go build -C bootstrap/tools -o ../../bin/ github.com/vale-cli/vale/v3/cmd/vale
  bin/vale --minAlertLevel=error README.md CHANGELOG.md docs cmd backend scripts
else
  echo "SKIPPED: vale needs a C compiler"
fi

# govulncheck downloads the database of known vulnerabilities: where that cannot be reached, say so.
echo "govulncheck"
if report=$(bin/govulncheck ./... 2>&1); then
  echo "$report" | tail -n 1
elif echo "$report" | grep -q 'fetching vulnerabilities'; then
  echo "SKIPPED: the vulnerability database is not reachable from here"
else
  echo "$report"
  exit 1
fi

#!/bin/sh
# Lints the repository. Run it from its root.
set -eu

echo "gofmt"
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
  echo "not formatted as gofmt does:" $unformatted
  exit 1
fi

echo "go vet"
go vet ./...
(cd backend/connector/contract && go vet ./...)

echo "go mod tidy"
go mod tidy -diff
(cd backend/connector/contract && go mod tidy -diff)

echo "staticcheck"
go build -C bootstrap/tools -o ../../bin/ honnef.co/go/tools/cmd/staticcheck golang.org/x/vuln/cmd/govulncheck
bin/staticcheck ./...

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

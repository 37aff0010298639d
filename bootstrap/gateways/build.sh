#!/bin/sh
# Builds the gateways that this folder pins into bin/. The first build takes about ten minutes on two cores.
# Run from the root of the repository: ./bootstrap/gateways/build.sh [caddy] [traefik]
#
# This Traefik is for tests of ForwardAuth, and not for use: three modules that Traefik links are stand-ins, since not every
# module proxy serves the originals. So this Traefik has no BasicAuth, no DigestAuth and no DNS challenges of ACME.
set -eu

lego=v5.4.1

build() {
  echo "Building $1 from bootstrap/gateways/$1"
  CGO_ENABLED=0 go build -C "bootstrap/gateways/$1" -trimpath -ldflags="-s -w" -o "$PWD/bin/$1.unfinished" "$2"
  mv "bin/$1.unfinished" "bin/$1"
}

# copy_lego copies the ACME library of Traefik without the DNS providers, most of which are SDKs of clouds.
copy_lego() {
  from=$(cd "$(mktemp -d)" && go mod download -json "github.com/go-acme/lego/v5@$lego" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  rm -rf .cache/lego
  mkdir -p .cache
  cp -R "$from" .cache/lego
  chmod -R u+w .cache/lego
  rm -rf .cache/lego/providers/dns .cache/lego/cmd
  mkdir .cache/lego/providers/dns
  cat > .cache/lego/providers/dns/dns.go <<'GO'
package dns

import (
	"errors"

	"github.com/go-acme/lego/v5/challenge"
)

func NewDNSChallengeProviderByName(name string) (challenge.Provider, error) {
	return nil, errors.New("built without DNS providers: " + name)
}
GO
}

[ $# -gt 0 ] || set -- caddy traefik
mkdir -p bin
for name in "$@"; do
  case $name in
    caddy) build caddy github.com/caddyserver/caddy/v2/cmd/caddy ;;
    traefik)
      copy_lego
      build traefik github.com/traefik/traefik/v3/cmd/traefik
      ;;
    *)
      echo "There is no gateway $name: caddy or traefik" >&2
      exit 2
      ;;
  esac
done

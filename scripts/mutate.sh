#!/bin/sh
# Changes packages one operator at a time, and lists the changes that no test notices: of the tests of the package, or of the
# tests of package backend where the package is tested through Vault's paths.
# Run it from the root of the repository. Arguments are packages below backend; default: all that are to be mutated.
# MUTATEFLAGS are flags of gremlins: '-E status|inventory' leaves these files out.
set -eu

packages="token access ledger role native upstream"

root=$PWD
go build -C bootstrap/tools -o ../../bin/ github.com/go-gremlins/gremlins/cmd/gremlins

# gremlins copies the whole module: give it a copy without binaries and caches.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' INT TERM
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy"
cd "$copy"

# gremlins takes its time limit from the first run of the tests, so that run must not come from the cache.
export GOFLAGS="-count=1 -short -vet=off"

# gremlins skips what the coverage profile does not name, and a profile never names the conditions of a switch. The go
# command that gremlins calls is therefore one that adds each file as a whole. Code that no test runs then counts as
# lived.
#
# The rooms of tokens are tested through the paths of package backend: their mutants must survive the tests of that package.
export GO="$(command -v go)"
export MODULE="$(go list -m)"
mkdir "$copy/path"
cat >"$copy/path/go" <<'SHIM'
#!/bin/sh
paths=
if [ "$1" = test ]; then
  for argument; do
    case $argument in
    */backend/role* | */backend/native* | */backend/upstream* | */backend/static*) paths=$MODULE/backend ;;
    esac
  done
fi
"$GO" "$@" $paths || exit
while [ $# -gt 1 ]; do
  if [ "$1" = -coverprofile ]; then
    sed -n 's/^\(.*\.go\):.*/\1:1.1,99999.1 1 1/p' "$2" | sort -u >>"$2"
  fi
  shift
done
SHIM
chmod +x "$copy/path/go"

for package in ${*:-$packages}; do
  [ -d "backend/$package" ] || continue
  echo "== $package"
  PATH="$copy/path:$PATH" "$root/bin/gremlins" unleash ${MUTATEFLAGS:-} "./backend/$package"
done

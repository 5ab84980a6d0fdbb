#!/usr/bin/env bash
# Builds the Loki server that the end-to-end tests talk to, once, from Loki's own Go module.
# Prints the path of the binary. It is kept in the cache folder by version; a second call only prints it.
set -euo pipefail

version="v3.7.8"
module="github.com/grafana/loki/v3"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${DRIFTWOOD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/driftwood}/loki"
binary="$cache/loki-$version"

if [[ -x "$binary" ]]; then
  echo "$binary"
  exit 0
fi

# Where the Go project's own installer puts it, for machines that do not have it on PATH.
command -v go >/dev/null || PATH="$PATH:/usr/local/go/bin"
if ! command -v go >/dev/null; then
  echo "build.sh: Loki $version needs Go 1.26 or newer and there is no 'go' on PATH. Install Go from the Go project" \
    "(a distribution's package is mostly too old), or set LOKI_BIN to a Loki binary or LOKI_URL to a running server." >&2
  exit 1
fi

mkdir -p "$cache"
# One build at a time: two at once would need twice the memory and end with the same file.
exec 9>"$cache/build.lock"
flock 9
if [[ -x "$binary" ]]; then
  echo "$binary"
  exit 0
fi

work="$(mktemp -d "$cache/build.XXXXXX")"
trap 'rm -rf "$work"' EXIT
cp "$here/main.go" "$work/"
cd "$work"
{
  go mod init driftwood/loki
  # Loki builds only with the forks that its own go.mod names; a module that imports it has to repeat those lines.
  origin="$(go mod download -json "$module@$version" | sed -n 's/^[[:space:]]*"GoMod": "\(.*\)",*$/\1/p')"
  sed -n -e '/^replace (/,/^)/p' -e '/^replace [^(]/p' -e '/^exclude (/,/^)/p' -e '/^exclude [^(]/p' "$origin" | sed '/=> \.\//d' >>go.mod
  go mod edit -require="$module@$version"
  go mod tidy
  echo "build.sh: compiling Loki $version; this takes 5 to 15 minutes on two cores, once" >&2
  # -s -w: without the symbol tables it is a third smaller, and nobody debugs it.
  CGO_ENABLED=0 go build -mod=mod -ldflags='-s -w' -o loki .
} >&2
mv loki "$binary"
echo "$binary"

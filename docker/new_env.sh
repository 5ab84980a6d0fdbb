#!/usr/bin/env bash
# Writes docker/.env from docker/example.env with a new random secret for every empty value; what is there stays.
set -euo pipefail
umask 077
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ -e .env ]]; then
  echo "docker/.env is there already; remove it first if you want new secrets (and the volumes with it: they know the old ones)." >&2
  exit 0
fi
while IFS= read -r line; do
  case "$line" in
    [A-Z]*=) printf '%s%s\n' "$line" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
    *) printf '%s\n' "$line" ;;
  esac
done <example.env >.env.new
mv .env.new .env
echo "docker/.env is written." >&2

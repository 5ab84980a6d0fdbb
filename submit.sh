#!/usr/bin/env bash
# Sets up this checkout on first use, then runs a command in it: ./submit.sh --help lists them.
# Only the search for Python is here; the rest is flink_jobs/runtime/environment.py.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

for python in "${DRIFTWOOD_PYTHON:-}" python3.11 python3 python; do
  if [[ -n "$python" ]] && "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    exec "$python" -I -B "$root/flink_jobs/runtime/environment.py" "$@"
  fi
done

echo "submit.sh: Driftwood needs Python 3.11 and finds none on PATH. Install it (Debian, Ubuntu: apt install python3.11" \
  "python3.11-venv), or name one with DRIFTWOOD_PYTHON=/path/to/python3.11, then run the same command again." >&2
exit 2

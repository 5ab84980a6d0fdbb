#!/usr/bin/env bash
# What a container of the Driftwood image runs:
#   jobmanager [OPTIONS]   Flink's JobManager with the job; OPTIONS are those of `driftwood run`, or DRIFTWOOD_… variables
#   taskmanager            Flink's TaskManager
#   healthy                exit status 0 if this JobManager's job runs
#   anything else          is run as it is: `driftwood console`, or what the Flink Kubernetes Operator asks for
set -euo pipefail

here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

case "${1:-}" in
  jobmanager | taskmanager | healthy) exec python "$here/start.py" "$@" ;;
  *) exec "$@" ;;
esac

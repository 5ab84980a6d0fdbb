#!/usr/bin/env bash
# Makes the secrets of the Minikube trial inside the cluster, once; nothing is written to a file.
set -euo pipefail
kubectl="${KUBECTL:-minikube kubectl --}"
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

$kubectl create namespace driftwood --dry-run=client -o yaml | $kubectl apply -f -
if $kubectl -n driftwood get secret driftwood-secrets >/dev/null 2>&1; then
  echo "the secrets are there already" >&2
  exit 0
fi
job="$(random)" trainer="$(random)" console="$(random)" minio="$(random)"
$kubectl -n driftwood create secret generic driftwood-redis --from-file=REDIS_JOB_PASSWORD=<(printf %s "$job") \
  --from-file=REDIS_TRAINER_PASSWORD=<(printf %s "$trainer") --from-file=REDIS_CONSOLE_PASSWORD=<(printf %s "$console")
$kubectl -n driftwood create secret generic driftwood-console-users --from-file=users.json=<(printf '{}')
$kubectl -n driftwood create secret generic driftwood-secrets \
  --from-file=AWS_ACCESS_KEY_ID=<(printf driftwood) \
  --from-file=AWS_SECRET_ACCESS_KEY=<(printf %s "$minio") \
  --from-file=DRIFTWOOD_REDACTION_KEY=<(random) \
  --from-file=DRIFTWOOD_CONSOLE_SECRET=<(random) \
  --from-file=DRIFTWOOD_SINK=<(printf %s "kafka://kafka:9092/anomalies loki://loki:3100 redis://job:$job@redis:6379/0") \
  --from-file=DRIFTWOOD_CONSOLE_REDIS=<(printf %s "redis://console:$console@redis:6379/0") \
  --from-file=DRIFTWOOD_REDIS=<(printf %s "redis://trainer:$trainer@redis:6379/0")

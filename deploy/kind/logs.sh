#!/usr/bin/env bash
# The logs of all pods of the pipeline. NAMESPACE selects another installation, arguments go to `kubectl logs`.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/kind/steps.sh

need docker kind kubectl
need_cluster
on_cluster --namespace "${NAMESPACE:-$namespace}" logs --selector app.kubernetes.io/name=onceproof \
  --all-containers --prefix --timestamps --tail 200 --max-log-requests 50 "$@"

#!/usr/bin/env bash
# The story of one order, from the trace store in the cluster.
#
# NAMESPACE selects the installation; the first argument is the order, further ones go to `onceproof trace`.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/kind/steps.sh

[ -n "${1:-}" ] || { echo "which order? make trace ORDER=o-1-17" >&2; exit 2; }
need docker kind kubectl
need_cluster
exec .venv/bin/onceproof trace "$@" --namespace "${NAMESPACE:-$namespace}" --context "$context"

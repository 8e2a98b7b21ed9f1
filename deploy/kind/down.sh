#!/usr/bin/env bash
# Deletes the cluster with all that is in it; the images stay in the engine.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/kind/steps.sh

need docker kind
if exists; then
  step "Deleting cluster $cluster" kind delete cluster --name "$cluster"
else
  echo " ✓ There is no cluster called $cluster"
fi

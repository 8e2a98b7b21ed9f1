#!/usr/bin/env bash
# The metrics server in the cluster: what the chart's autoscaler reads. Without it its test under load is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/kind/steps.sh

apply() {
  on_cluster apply --filename deploy/kind/metrics-server.yaml
  on_cluster --namespace kube-system rollout status deployment/metrics-server --timeout 120s
  on_cluster wait --for=condition=Available apiservice/v1beta1.metrics.k8s.io --timeout 120s
}

need docker kind kubectl
need_cluster
step "Metrics server" apply

#!/usr/bin/env bash
# From nothing to a running pipeline: cluster, images, chart. Every step is skipped or repeated safely.
#
# VARIANT selects the variant, BROKER sqs or kafka, RELAY polling or cdc; arguments go to `helm upgrade`.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/kind/steps.sh

chart=deploy/helm/onceproof
variant=${VARIANT:-hardened}
broker=${BROKER:-sqs}
relay=${RELAY:-polling}
values=(--values "$chart/ci/hardened-kind.yaml")
[ "$broker" = sqs ] || values+=(--values "$chart/ci/$broker-kind.yaml")
[ "$relay" = polling ] || values+=(--values "$chart/ci/$relay-kind.yaml")

create() { # kind switches the current context to the new cluster; it is switched back if there was one
  local current
  current=$(kubectl config current-context 2> /dev/null || true)
  kind create cluster --config deploy/kind/cluster.yaml --wait 180s
  [ -z "$current" ] || kubectl config use-context "$current"
}

reuse() { # also after a restart of the engine, and with another kubeconfig than the one of its creation
  local current
  docker start "$cluster-control-plane"
  current=$(kubectl config current-context 2> /dev/null || true)
  kind export kubeconfig --name "$cluster"
  [ -z "$current" ] || kubectl config use-context "$current"
  within 120 on_cluster get --raw /readyz
  on_cluster wait --for=condition=Ready node --all --timeout 120s
}

within() { # SECONDS COMMAND...: until it succeeds
  local deadline=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { "$@"; return; }
    sleep 1
  done
}

resources() { # helm creates the resource definitions of a chart, but never upgrades them
  on_cluster apply --server-side --force-conflicts --filename "$chart/crds"
  on_cluster wait --for=condition=Established --timeout 60s --filename "$chart/crds"
}

forget_interrupted() { # a helm that was killed leaves a record that blocks every later upgrade
  on_cluster --namespace "$namespace" delete secret --ignore-not-found \
    --selector "owner=helm,name=$release,status in (pending-install, pending-upgrade, pending-rollback)"
}

install() {
  forget_interrupted
  helm upgrade "$release" "$chart" --install --kube-context "$context" --namespace "$namespace" --create-namespace \
    "${values[@]}" --set "variant=$variant" \
    --set-string "image.tag=$ONCEPROOF_IMAGE_TAG" --wait --wait-for-jobs --timeout 5m "$@" ||
    explain $?
}

explain() { # STATUS: what helm waited for in vain
  local pod
  on_cluster --namespace "$namespace" get pods --output wide
  on_cluster --namespace "$namespace" get events --field-selector type=Warning --sort-by .lastTimestamp | tail -15
  on_cluster --namespace "$namespace" get pods --output \
    'jsonpath={range .items[*]}{.metadata.name} {.status.phase} {.status.containerStatuses[*].ready}{"\n"}{end}' |
    awk '$2 != "Succeeded" && /false/ { print $1 }' |
    while read -r pod; do on_cluster --namespace "$namespace" logs "$pod" --all-containers --tail 15 || true; done
  exit "$1"
}

need docker kind kubectl helm
if exists; then
  step "Cluster $cluster, which exists" reuse
else
  step "Cluster $cluster" create
fi
deploy/kind/load.sh
step "Resource definitions" resources
step "Chart, variant $variant over $broker, relay $relay" install "$@"
cat << EOF

The $variant pipeline over $broker runs in namespace $namespace, its relay is $relay. Next:
  kubectl --context $context --namespace $namespace get pods,crashdrills,campaigns
  make e2e VARIANT=$variant BROKER=$broker RELAY=$relay      each crash point, asserted from both ledgers and the traces
  make logs                      make trace ORDER=...                     make kind-down
EOF

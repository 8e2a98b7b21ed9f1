#!/usr/bin/env bash
# A campaign in the running installation: as many pods deleted at traced crash points as asked for, then the count.
#
# Succeeds when the verdict is what the variant is for: naive must fail, everything else must pass.
# VARIANT, ORDERS, KILLS (at each crash point), SEED, DEADLINE (seconds) and NAMESPACE select; the run folder comes
# under runs/.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/kind/steps.sh

variant=${VARIANT:-hardened} kills=${KILLS:-10} seed=${SEED:-1} deadline=${DEADLINE:-3000}
namespace=${NAMESPACE:-$namespace}
name=$(printf %s "$variant-$seed-$(date +%s)" | tr _ -)
[ "$variant" = naive ] && expected=fail || expected=pass

create() {
  on_cluster --namespace "$namespace" create --filename - << EOF
apiVersion: onceproof.dev/v1alpha1
kind: Campaign
metadata:
  name: $name
spec:
  variant: $variant
  orders: ${ORDERS:-1000}
  seed: $seed
  deadlineSeconds: $deadline
  faults:
    kills:
      producer.after_commit: $kills
      relay.before_publish: $kills
      relay.after_publish: $kills
      consumer.before_charge: $kills
      consumer.after_charge: $kills
      consumer.after_commit: $kills
EOF
}

status() { on_cluster --namespace "$namespace" get campaign "$name" --output "jsonpath={.status.$1}"; }

finish() { # the operator ends a campaign at its deadline; a little later somebody has to say that it did not
  local end=$((SECONDS + deadline + 300))
  until [ "$SECONDS" -ge "$end" ]; do
    case $(status phase) in Finished | Refused) return ;; esac
    sleep 5
  done
  echo "neither finished nor refused $((deadline + 300)) s after it was made" >&2
  return 1
}

fetch() { # it judges the run again, and says so by its exit code: 2 is that there was nothing to fetch
  .venv/bin/onceproof campaign fetch "$name" --namespace "$namespace" --context "$context" || [ $? -ne 2 ]
}

need docker kind kubectl
need_cluster
step "Campaign $name" create
step "Kills and drains" finish
on_cluster --namespace "$namespace" get campaign "$name" --output wide
step "Run folder" fetch
verdict=$(status verdict)
if [ "$verdict" != "$expected" ]; then
  echo "verdict ${verdict:-none}, expected $expected: $(status message)" >&2
  exit 1
fi

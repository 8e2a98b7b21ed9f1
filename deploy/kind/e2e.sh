#!/usr/bin/env bash
# Runs the end-to-end tests of one variant: they install the chart into a namespace of their own.
#
# VARIANT selects the variant, BROKER sqs or kafka, RELAY polling or cdc; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/kind/steps.sh

need docker kind kubectl helm
need_cluster
deploy/kind/load.sh
exec .venv/bin/pytest tests/e2e --context "$context" --variant "${VARIANT:-hardened}" --broker "${BROKER:-sqs}" \
  --relay "${RELAY:-polling}" "$@"

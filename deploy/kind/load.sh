#!/usr/bin/env bash
# Builds the images if there is no build of this content, and loads into the node those that it does not have.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/kind/steps.sh

missing() { # the images that the node does not have, one a line
  comm -23 <(deploy/images/build.sh --refs | LC_ALL=C sort) \
    <(docker exec "$cluster-control-plane" ctr --namespace k8s.io images list --quiet | LC_ALL=C sort)
}

load() {
  local images
  images=$(missing)
  # shellcheck disable=SC2086 # one word per image
  [ -z "$images" ] || kind load docker-image --name "$cluster" $images
}

need docker kind
step "Images $ONCEPROOF_IMAGE_TAG" deploy/images/build.sh
step "Images on the node" load

#!/usr/bin/env bash
# Builds the five images, unless they exist with this content, and prints their tag.
#
#   deploy/images/build.sh         build what is missing; the tag on standard output, progress on standard error
#   deploy/images/build.sh --tag   only print the tag
#   deploy/images/build.sh --refs  only print the images' names
#
# The tag is a hash of everything that goes into the images, so the same tag is always the same content: a node never
# holds an old image under a new name, and nothing has to be pulled or loaded twice. ONCEPROOF_IMAGE_TAG, where it is
# set, takes the place of the hash.
set -euo pipefail
cd "$(dirname "$0")/../.."

export REGISTRY=${REGISTRY:-ghcr.io/onceproof}
services=(producer relay consumer provider operator)
inputs=(
  .dockerignore README.md pyproject.toml requirements.lock src
  chaos/pyproject.toml chaos/src k8s-operator/pyproject.toml k8s-operator/src services
  deploy/images/Dockerfile deploy/images/build.lock deploy/images/docker-bake.hcl deploy/images/install.sh
)

sha256() { if command -v sha256sum > /dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

content() {
  find "${inputs[@]}" -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z |
    while IFS= read -r -d '' file; do sha256 "$file"; done | sha256 | cut -c1-12
}

TAG=${ONCEPROOF_IMAGE_TAG:-$(content)}
export TAG
refs=("${services[@]/#/$REGISTRY/onceproof-}")
refs=("${refs[@]/%/:$TAG}")

case ${1:-} in
  "") ;;
  --tag) echo "$TAG"; exit ;;
  --refs) printf '%s\n' "${refs[@]}"; exit ;;
  *) echo "unknown argument '$1': --tag, --refs or nothing" >&2; exit 2 ;;
esac

if ! docker buildx version > /dev/null 2>&1; then
  echo "docker with buildx is needed to build the images: https://docs.docker.com/engine/install/" >&2
  exit 1
fi
if docker image inspect "${refs[@]}" > /dev/null 2>&1; then
  echo "images $TAG exist" >&2
else
  echo "building images $TAG" >&2
  docker buildx bake --load --file deploy/images/docker-bake.hcl >&2
fi
echo "$TAG"

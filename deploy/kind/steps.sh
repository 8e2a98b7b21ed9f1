# shellcheck shell=bash
# Sourced by the scripts beside it: the cluster's names, a visible list of steps, and what each script needs first.
#
# A step is one line. Its command lines and their output are shown only when it fails; with V=1, while it runs.
# The context is always named: the user's current one is neither used nor changed.

# shellcheck disable=SC2034 # used by those scripts
cluster=onceproof release=onceproof namespace=onceproof
context=kind-$cluster
# Fixed once, so that all steps, and the tests, speak of the same images though somebody edits a file meanwhile.
ONCEPROOF_IMAGE_TAG=${ONCEPROOF_IMAGE_TAG:-$(deploy/images/build.sh --tag)}
export ONCEPROOF_IMAGE_TAG

on_cluster() { kubectl --context "$context" "$@"; }

step() { # TITLE COMMAND...
  local title=$1 log=/dev/stdout start=$SECONDS status
  shift
  if [ -n "${V:-}" ]; then
    echo " • $title"
  else
    log=$(mktemp)
    [ ! -t 1 ] || printf ' • %s ...' "$title"
  fi
  set +e
  (PS4=' $ '; set -ex; "$@") >> "$log" 2>&1
  status=$?
  set -e
  [ -n "${V:-}" ] || [ ! -t 1 ] || printf '\r\033[K'
  if [ "$status" -ne 0 ]; then
    echo " ✗ $title"
    [ -n "${V:-}" ] || { sed 's/^/   /' "$log"; rm "$log"; }
    exit "$status"
  fi
  [ -n "${V:-}" ] || rm "$log"
  echo " ✓ $title ($((SECONDS - start)) s)"
}

need() { # TOOL...: each is there, and if one of them is docker, its engine answers
  local tool missing=0
  for tool in "$@"; do
    command -v "$tool" > /dev/null && continue
    missing=1
    case $tool in
      docker) echo "docker is missing: https://docs.docker.com/engine/install/" ;;
      kind) echo "kind is missing: https://kind.sigs.k8s.io/docs/user/quick-start/#installation" ;;
      kubectl) echo "kubectl is missing: https://kubernetes.io/docs/tasks/tools/" ;;
      helm) echo "helm is missing: https://helm.sh/docs/intro/install/" ;;
      *) echo "$tool is missing" ;;
    esac >&2
  done
  [ "$missing" -eq 0 ] || exit 1
  case " $* " in *" docker "*) need_engine ;; esac
}

need_engine() {
  local answer limit=()
  ! command -v timeout > /dev/null || limit=(timeout 20)
  answer=$(${limit[@]+"${limit[@]}"} docker version --format '{{.Server.Version}}' 2>&1) && return
  echo "the Docker engine does not answer; is it started, and may this user reach it?" >&2
  echo "  \$ docker version: $(tr -d '\n' <<< "${answer:-no answer within 20 s}")" >&2
  exit 1
}

exists() { kind get clusters 2> /dev/null | grep -qx "$cluster"; }

need_cluster() {
  exists || { echo "there is no kind cluster called $cluster: make kind-up" >&2; exit 1; }
  on_cluster get --raw /readyz --request-timeout 10s > /dev/null 2>&1 && return
  echo "cluster $cluster exists but its API server does not answer: make kind-up" >&2
  exit 1
}

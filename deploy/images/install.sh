#!/bin/sh
# Runs inside the image builds: installs what `uv pip install` is told to, and compiles what that brought.
#
# Only what is new is compiled, so that a layer does not carry the layer below it once more. Unchecked bytecode is
# never compared with its source: layers may be rewritten with other file times, and the root file system is read-only.
set -eu

environment=/opt/onceproof
export UV_LINK_MODE=copy VIRTUAL_ENV="$environment"

[ -d "$environment" ] || /build/bin/uv venv --quiet --python "$(command -v python)" "$environment"
site=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cd "$site"
installed() { find . -mindepth 1 -maxdepth 1 ! -name '*.dist-info' | sort; }
before=$(mktemp)
installed > "$before"

/build/bin/uv pip install --no-deps "$@"

# botocore describes all of AWS (25 MB). Ours: SQS, and the services that give credentials.
if [ -d botocore ] && ! grep -qx ./botocore "$before"; then
  find botocore/data -mindepth 1 -maxdepth 1 -type d \
    ! -name sqs ! -name sts ! -name sso ! -name sso-oidc -exec rm -r {} +
fi
installed | comm -13 "$before" - | xargs "$environment/bin/python" -m compileall -qq -j 0 --invalidation-mode unchecked-hash
rm "$before"

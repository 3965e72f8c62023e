#!/bin/sh
# The one command of the key that a CI may hold. In ~/.ssh/authorized_keys of the user that runs the platform:
#   restrict,command="/srv/ops_platform/infrastructure/rollout-from-ci.sh" ssh-ed25519 AAAA… ci
# It is given `service repository@sha256:digest` and does nothing but roll that out.
set -eu
cd "$(dirname "$0")/.."
set -f
# shellcheck disable=SC2086  # two words are wanted, and checked below
set -- ${SSH_ORIGINAL_COMMAND:-}
[ $# = 2 ] || {
    echo "wanted: service repository@sha256:digest" >&2
    exit 2
}
echo "$1" | grep -Eqx '[a-z0-9][a-z0-9_-]{0,62}' || {
    echo "not a service's name: $1" >&2
    exit 2
}
echo "$2" | grep -Eqx '[a-z0-9][a-z0-9._:/-]*@sha256:[0-9a-f]{64}' || {
    echo "not an image by digest: $2" >&2
    exit 2
}
exec .venv/bin/ops rollout "$1" --image "$2" --why "a build of the main branch"

#!/bin/sh
# The one command of the key that a CI may hold. In ~/.ssh/authorized_keys of the user that runs the platform, on a line:
#   restrict,command="OPS_STACK=/srv/stack.yaml DAGSTER_HOME=/srv/dagster /srv/ops_platform/infrastructure/rollout-from-ci.sh"
#     ssh-ed25519 AAAA… ci
# It is given `service repository@sha256:digest` and does nothing but roll that out, as a run that the UI shows.
set -euf
cd "$(dirname "$0")/.."
: "${OPS_STACK:?is not set: name the stack file in the command of the key}"
: "${DAGSTER_HOME:?is not set: name the directory of the Dagster instance in the command of the key}"
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
export OPS_STACK DAGSTER_HOME
exec .venv/bin/dagster asset materialize --module-name ops_platform.definitions --select "rollouts/$1" --config-json \
    "{\"ops\": {\"rollouts__$(echo "$1" | tr - _)\": {\"config\": {\"image\": \"$2\", \"why\": \"a build of the main branch\"}}}}"

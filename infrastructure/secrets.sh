#!/bin/sh
# Makes the stack's secrets at random, once. Only root can enter their directory; inside a container everybody may
# read the file that is mounted there, as its programs do not run as root.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
for name in postgres_password redis_password grafana_password; do
    [ -s "secrets/$name" ] && continue
    head -c 24 /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_' >"secrets/.$name"
    chmod 444 "secrets/.$name"
    mv "secrets/.$name" "secrets/$name"
done

#!/bin/sh
# Starts Redis with four fifths of the container's memory limit for data, 100 MB of 128. Only keys with a time to
# live are ever evicted: the queue has none, so a full cache cannot eat work that waits. Nothing is written to a disk:
# a restart of Redis empties cache and queue, and the nightly backup is what is left of them.
set -eu
limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes)
[ "$limit" != max ] && [ "$limit" -lt 9000000000000000000 ] || {
    echo "this container has no memory limit: set deploy.resources.limits.memory of redis in compose.yaml" >&2
    exit 1
}
# By standard input, so that the password lies in no file and no argument; the image's entrypoint leaves root behind.
exec docker-entrypoint.sh redis-server - <<EOF
dir /data
maxmemory $((limit * 25 / 32))
maxmemory-policy volatile-lru
save ""
appendonly no
requirepass $(cat /run/secrets/redis_password)
EOF

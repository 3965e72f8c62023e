#!/bin/sh
# Starts Redis with four fifths of the container's memory limit for data, 100 MB of 128. Only keys with a time to
# live are ever evicted: the queue has none, so a full cache cannot eat work that waits.
set -eu
limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes)
[ "$limit" != max ] && [ "$limit" -lt 9000000000000000000 ] || {
    echo "this container has no memory limit: set deploy.resources.limits.memory of redis in compose.yaml" >&2
    exit 1
}
umask 77
cat >/tmp/redis.conf <<EOF
dir /data
maxmemory $((limit * 25 / 32))
maxmemory-policy volatile-lru
save ""
appendonly no
requirepass $(cat /run/secrets/redis_password)
EOF
exec redis-server /tmp/redis.conf

#!/bin/sh
# Starts Postgres with memory settings that follow from the container's limit: a bigger machine needs a bigger limit
# in compose.yaml and nothing else. At 1 GB they are 256, 512, 64 and 16 MB.
set -eu
limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes)
[ "$limit" != max ] && [ "$limit" -lt 9000000000000000000 ] || {
    echo "this container has no memory limit: set deploy.resources.limits.memory of postgres in compose.yaml" >&2
    exit 1
}
mb=$((limit / 1048576))
exec docker-entrypoint.sh postgres \
    -c "shared_buffers=$((mb / 4))MB" \
    -c "effective_cache_size=$((mb / 2))MB" \
    -c "maintenance_work_mem=$((mb / 16))MB" \
    -c "work_mem=$((mb / 64))MB" \
    -c max_connections=100 \
    -c random_page_cost=1.1 \
    -c effective_io_concurrency=200 \
    -c wal_compression=on \
    -c checkpoint_completion_target=0.9

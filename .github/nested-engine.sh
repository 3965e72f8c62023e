#!/bin/sh
# Lets a Docker Engine with memory limits run inside a privileged container, as a CI's jobs are. A group with limits
# may hold no processes of its own (cgroups(7), "no internal processes"), so they move into a group beside.
set -eu
[ -e /sys/fs/cgroup/cgroup.controllers ] || exit 0
mkdir -p /sys/fs/cgroup/ci
while read -r process; do
    echo "$process" >/sys/fs/cgroup/ci/cgroup.procs || : # it ended meanwhile
done </sys/fs/cgroup/cgroup.procs 2>/dev/null
sed 's/[a-z_][a-z_]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control

#!/bin/sh
# Every file of the operated stack, checked by its own tool. Called by `make check`; the tools come with .venv and
# with debian.sh.
set -eu
cd "$(dirname "$0")"
bin=$(cd .. && pwd)/.venv/bin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { echo "infrastructure: $1"; }
missing() {
    [ -z "${CI:-}" ] || { say "$1 is not installed: run infrastructure/debian.sh as root"; exit 1; }
    say "$1 is not installed, its check is left out: run infrastructure/debian.sh as root"
}

say "shell scripts"
"$bin/shellcheck" ./*.sh ./*/*.sh ../.github/*.sh
say "Dockerfiles"
for file in */Dockerfile; do "$bin/hadolint" "$file"; done

say "compose file, and whether it fits the machine of stack.yaml"
"$bin/ops" --stack stack.yaml capacity

say "Caddy"
"$bin/caddy" validate --config frontend/Caddyfile --adapter caddyfile >"$scratch/caddy" 2>&1 || {
    cat "$scratch/caddy"
    exit 1
}

say "Traefik: started, and asked for errors in what it has read"
"$bin/python" proxy/check.py "$bin/traefik"

say "Grafana's dashboards and provisioning"
"$bin/python" grafana/check.py >"$scratch/dashboards.yml"

if command -v promtool >/dev/null; then
    say "Prometheus, its rules, and the expressions of Grafana's dashboards"
    promtool check config --syntax-only prometheus/prometheus.yml >"$scratch/prometheus"
    promtool check rules prometheus/rules/*.yml "$scratch/dashboards.yml" >>"$scratch/prometheus"
    promtool test rules prometheus/platform_test.yml >>"$scratch/prometheus" || {
        cat "$scratch/prometheus"
        exit 1
    }
else missing promtool; fi
if command -v amtool >/dev/null; then
    say "Alertmanager"
    amtool check-config alertmanager/alertmanager.yml >"$scratch/alertmanager"
else missing amtool; fi

say "GitHub workflows"
"$bin/check-jsonschema" --quiet --builtin-schema vendor.github-workflows ../.github/workflows/*.yml

#!/bin/sh
# The routers come from the image at every start; the replicas beside them in the volume are what rollouts wrote last.
set -eu
[ -z "${OPS_PROBE:-}" ] || unset DOMAIN # a trial start asks for no certificate in the site's name
cp /etc/traefik/routers.yaml /etc/traefik/routes/routers.yaml
exec traefik --configFile=/etc/traefik/traefik.yaml

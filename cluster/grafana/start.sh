#!/bin/bash
# Prometheus and Grafana on the head, until this script ends: Ray's own dashboards and the one of this project.
#     bash start.sh [SESSIONS]      SESSIONS is the directory of Ray's sessions, by default /tmp/ray
# Both must be installed (Debian has prometheus; Grafana has packages of its own). What they read is written by Ray: which nodes
# to ask, every 10 s, and Grafana's data source and folders. Both listen on 127.0.0.1 alone, since Ray lets anyone look.
set -euo pipefail
metrics=${1:-/tmp/ray}/session_latest/metrics

fail() {
    echo "$1" >&2
    exit 1
}
for program in prometheus grafana; do
    command -v "$program" >/dev/null || fail "$program must be installed on the head to show metrics, and is not in the PATH"
done
[ -d "$metrics/grafana/dashboards" ] || fail "$metrics must be written by a head of Ray, and is not there; start Ray first"

cp "$(dirname "$0")/rdd.json" "$metrics/grafana/dashboards/"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
prometheus --config.file="$metrics/prometheus/prometheus.yml" --storage.tsdb.path="${PROMETHEUS_DATA:-$HOME/prometheus}" \
    --storage.tsdb.retention.time=30d --web.listen-address="127.0.0.1:${PROMETHEUS_PORT:-9090}" &
GF_SERVER_HTTP_ADDR=127.0.0.1 grafana server --homepath "${GRAFANA_HOME:-/usr/share/grafana}" \
    --config "$metrics/grafana/grafana.ini" &
wait -n

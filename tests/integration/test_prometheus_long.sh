#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_prometheus_long.sh - a real Prometheus scrapes the exporter of a real broker, in OpenMetrics and
# in the classic format, and an alert is raised when the broker dies.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"
# shellcheck source=tests/integration/lib/exporter.sh
. "$(dirname "$0")/lib/exporter.sh"

if ! command -v prometheus >/dev/null; then
	skip "no prometheus here"
	done_testing
fi
it_scratch
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
api=http://127.0.0.1:$port/api/v1

broker_start b -
exporter_start "$b_socket"
cp "$SOURCE_ROOT/docs/prometheus-alerts.yml" "$scratch/alerts.yml"
cat >"$scratch/prometheus.yml" <<END
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: shmbroker
    static_configs: [{targets: ["${url#http://}"]}]
END
setpriv --pdeathsig KILL prometheus --config.file="$scratch/prometheus.yml" \
	--storage.tsdb.path="$scratch/data" --web.listen-address="127.0.0.1:$port" \
	>"$scratch/prometheus.log" 2>&1 &
prometheus_pid=$!

ask() { # PROMQL
	curl -sS --max-time 5 -G "$api/query" --data-urlencode "query=$1" 2>/dev/null |
		jq -r '[.data.result[].value[1]] | join(" ")'
}

answers() { # PROMQL VALUE
	[ "$(ask "$1")" = "$2" ]
}

target() { # FIELD
	curl -sS --max-time 5 "$api/targets" | jq -r ".data.activeTargets[0].$1"
}

type_is() { # FAMILY TYPE
	[ "$(curl -sS --max-time 5 "$api/targets/metadata?metric=$1" | jq -r '.data[0].type')" = "$2" ]
}

worker "$b_socket" tester 'exec\tGET /a\tCREATE TABLE t (a)' 'exec\tGET /a\tINSERT INTO t VALUES (1)' \
	'exec\tGET /b\tSELECT a FROM t' >/dev/null
ok "the exporter is scraped" wait_until 60000 answers 'up{job="shmbroker"}' 1 ||
	diag "$(tail -n 20 "$scratch/prometheus.log")"
ok "statements arrive" wait_until 60000 answers 'broker_statements_finished_total{pool="main"}' 3
is "$(target health)$(target lastError)" up "without an error"
ok "counters are counters" type_is broker_statements_finished counter
ok "histograms are histograms" type_is broker_query_seconds histogram
ok "gauges are gauges" type_is broker_pool_connections gauge
is "$(ask 'broker_query_seconds_count{pool="main"}')" 3 "histograms arrive"
is "$(ask 'histogram_quantile(1, broker_query_seconds_bucket{pool="main"}) > bool 0')" 1 "and have quantiles"
is "$(grep -c 'msg="Error on ingesting\|Append failed\|level=error' "$scratch/prometheus.log")" 0 \
	"Prometheus complains about nothing"

broker_kill b
ok "the death arrives" wait_until 60000 answers broker_up 0
ok "an alert is pending" wait_until 60000 answers 'count(ALERTS{alertname="BrokerDown"})' 1

kill "$prometheus_pid"
wait "$prometheus_pid" 2>/dev/null
exporter_stop
done_testing

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_exporter.sh - brokerstat --listen against a real broker: without one, running, stopped, dead and
# started again; the texts for Prometheus, the documents, the stream, and what is refused.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"
# shellcheck source=tests/integration/lib/exporter.sh
. "$(dirname "$0")/lib/exporter.sh"

it_scratch
count='WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<300000) SELECT count(*) FROM c'

# metric NAME: its value in the classic text.
metric() {
	get /metrics | awk -v name="$1" '$1 == name { print $2 }'
}

metric_is() {
	[ "$(metric "$1")" = "$2" ]
}

json() { # PATH FILTER
	get "$1" | jq -r "$2"
}

json_is() { # PATH FILTER VALUE
	[ "$(json "$1" "$2")" = "$3" ]
}

# --- nobody there yet
exporter_start "$scratch/later.sock"
is "$(status /healthz)" 503 "no broker: not healthy"
is "$(status /readyz)" 503 "no broker: not ready"
is "$(metric broker_up)" 0 "no broker: not up"
is "$(status /api/pools.json)" 503 "no broker: no pools"
like "$(cat "$exporter_log")" 'no board of a broker at .*/later.sock' "no broker: said so"
is "$(wc -l <"$exporter_log")" 1 "once"
exporter_stop
is $exporter_status 0 "a polite end is exit code 0"

# --- a broker that runs
broker_start b - "pool main.slow_threshold=0" "pool main.leak_threshold=2s"
exporter_start "$b_socket"
ok "healthy" wait_until 30000 status_is /healthz 200
ok "ready" wait_until 30000 status_is /readyz 200
is "$(json /readyz '.pools[0] | [.name, .state, .writable, .readable, .degraded] | join(" ")')" \
	"main up true true false" "readiness names the pool"
is "$(status '/readyz?pool=main&need=read')" 200 "one pool may be asked for"
is "$(status '/readyz?pool=other')" 503 "a pool that is not there is not ready"
is "$(status '/readyz?need=beer')" 400 "a need that nobody knows"

worker "$b_socket" tester 'exec\tGET /a\tCREATE TABLE t (a)' 'exec\tGET /a\tINSERT INTO t VALUES (1)' \
	'exec\tGET /b\tSELECT broken' "exec\tGET /c\t$count" >"$scratch/worker.out"
is "$(grep -c '^ok' "$scratch/worker.out")" 4 "a worker runs statements"
ok "they are counted" wait_until 30000 metric_is 'broker_statements_finished_total{pool="main"}' 3
is "$(metric 'broker_statements_failed_total{pool="main"}')" 1 "failures, too"
is "$(metric 'broker_query_seconds_count{pool="main"}')" \
	"$(metric 'broker_query_seconds_bucket{pool="main",le="+Inf"}')" "the histogram adds up"
if command -v promtool >/dev/null; then
	get /metrics | promtool check metrics >"$scratch/promtool" 2>&1
	is "$?$(cat "$scratch/promtool")" 0 "promtool finds nothing to complain about"
else
	skip "no promtool here"
fi
like "$(get /metrics -D - -o /dev/null)" '^Content-Type: text/plain; version=0.0.4' "the classic text"
om='Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5'
like "$(get /metrics -H "$om" -D - -o /dev/null)" '^Content-Type: application/openmetrics-text' \
	"OpenMetrics for those who ask"
is "$(get /metrics -H "$om" | tail -n 1)" '# EOF' "which ends as it should"
get /metrics -H "$om" | sed '$d' >"$scratch/open"
is "$(get /metrics | grep -vc '^#')" "$(grep -vc '^#' "$scratch/open")" "both have the same series"
is "$(grep -v '^#' "$scratch/open" | sed 's/ [^ ]*$//' | sort | uniq -d | wc -l)" 0 "none twice"

# --- documents
is "$(json /api/pools.json '.pools[0].name')" main "pools"
is "$(json /api/servers.json '.servers[0].kind')" sqlite "servers"
is "$(json /api/connections.json '.connections | length > 0')" true "connections"
is "$(json /api/workers.json '.workers | type')" array "workers"
is "$(json /api/events.json '[.events[].kind] | contains(["start"])')" true "events"
mkfifo "$scratch/pinner"
"$IT_WORKER" "$b_socket" pinner <"$scratch/pinner" >"$scratch/pinner.out" &
pinner_pid=$!
exec 7>"$scratch/pinner"
printf 'begin\tGET /pin\tCREATE TEMP TABLE secret_1 (a)\n' >&7
event_like() { # KIND REGEX
	json /api/events.json ".events[] | select(.kind == \"$1\") | .text" | grep -qE "$2"
}
ok "who pins a connection is an event" wait_until 30000 event_like pin \
	"^pool main: worker $pinner_pid tag GET /pin changed the session"
ok "so is a lease that nobody uses" wait_until 15000 event_like leak \
	"^pool main: worker $pinner_pid tag GET /pin holds a connection .* last statement: shape [0-9a-f]{16}\$"
is "$(get /api/events.json | grep -c secret_)" 0 "without the text of its statement"
exec 7>&-
wait $pinner_pid
ok "slow statements" json_is /api/slow.json "[.slow[].sql] | contains([\"$count\"])" true
is "$(json /api/slow.json ".slow[] | select(.sql == \"$count\") | [.tag, .rows, .code] | join(\" \")")" \
	"GET /c 1 0" "with tag and rows"
is "$(json /api/statements.json '.statements[] | select(.tags == ["GET /c"]) | [.calls, .rows, .errors] | join(" ")')" \
	"1 1 0" "what shapes of statements cost"
is "$(json /api/statements.json '[.statements[].share] | add | . > 0.999 and . < 1.001')" true \
	"with their shares of the time"
like "$(json /api/statements.json '.statements[].statement')" '^insert into t values \(\?\)$' \
	"without literals"
is "$(json /api/overview.json '[.broker.state, .ready] | join(" ")')" "running true" "overview"
ok "the history grows" wait_until 30000 json_is '/api/history.json?pool=main' '.time | length >= 2' true
is "$(json /api/history.json '[.[] | select(type == "array") | length] | unique | length')" 1 \
	"all fields of the history are equally long"
ok "a part of it may be asked for" wait_until 30000 json_is '/api/history.json?seconds=1' '.time | length' 1
is "$(status '/api/history.json?seconds=-1')" 400 "so many seconds there are not"
is "$(status '/api/history.json?pool=other')" 404 "there is none of a pool that never was"

# --- the stream
# messages N: the first N messages.
messages() {
	curl -sSN --max-time 10 "$url/events" 2>/dev/null |
		sed -n "s/^data: //p;$(($1 * 2 - 1))q"
}
messages 2 >"$scratch/stream"
is "$(jq -s '.[1].point.time - .[0].point.time | . > 0.5 and . < 6' <"$scratch/stream")" true \
	"the stream has a message a second"
is "$(jq -rs '.[1] | [.broker.state, .pools[0].name, (.slow | length > 0)] | join(" ")' \
	<"$scratch/stream")" "running main true" "which says everything"
# The place of a client that left is free at the next message: hence the retries.
streams=()
for i in $(seq 16); do
	setpriv --pdeathsig KILL curl -sSN --max-time 60 --retry 10 --retry-delay 1 \
		-D "$scratch/stream.$i" "$url/events" >/dev/null 2>&1 &
	streams+=($!)
done
all_open() {
	[ "$(cat "$scratch"/stream.* | grep -c '^HTTP/1.1 200')" = 16 ]
}
ok "sixteen streams are open" wait_until 30000 all_open
is "$(status /events)" 503 "one more is refused"
is "$(status /healthz)" 200 "other requests are answered all the same"
kill "${streams[@]}"
wait "${streams[@]}" 2>/dev/null
stream_opens() {
	[ "$(curl -sS --max-time 1 -o /dev/null -w '%{http_code}' "$url/events" 2>/dev/null)" = 200 ]
}
ok "places are free again" wait_until 30000 stream_opens

# --- the page, and what every answer carries
like "$(get /)" '<title>shmbroker</title>' "the dashboard"
for asset in $(get / | grep -o 'assets/[^"]*'); do
	is "$(status "/$asset")" 200 "$asset"
done
etag=$(get / -D - -o /dev/null | sed -n 's/^ETag: \(.*\)\r$/\1/p')
is "$(status / -H "If-None-Match: $etag")" 304 "a page that is known is not sent again"
for path in / /metrics /api/slow.json /events /nowhere; do
	head=$(get $path -D - -o /dev/null --max-time 2 2>/dev/null)
	like "$head" "^Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'" \
		"$path: a strict policy"
	like "$head" '^X-Content-Type-Options: nosniff' "$path: no sniffing"
done
is "$(get / -D - -o /dev/null | grep -c 'unsafe-')" 0 "nothing unsafe is allowed"
like "$(get /api/slow.json -D - -o /dev/null)" '^Cache-Control: no-store' "statements are not stored"

# --- refusals
is "$(status /nowhere)" 404 "no such document"
is "$(status /assets/../metrics --path-as-is)" 404 "no way around"
is "$(status /metrics -X POST)" 405 "no POST"
is "$(status /metrics -X DELETE)" 405 "no DELETE"
is "$(status /metrics -X GET -d body)" 413 "no body"
is "$(status /metrics -I)" 200 "HEAD is answered"

# --- all connections taken by clients that never finish their request
trap '' PIPE
address=${url#http://}
slow=()
for i in $(seq 64); do
	exec {fd}<>"/dev/tcp/${address%%:*}/${address##*:}"
	printf 'GET /healthz HTTP/1.1\r\nX: ' >&"$fd"
	slow+=("$fd")
done
while sleep 0.3; do
	for fd in "${slow[@]}"; do
		printf a >&"$fd"
	done
done 2>/dev/null &
dripping=$!
is "$(status /healthz --max-time 20)" 200 "clients that send a byte now and then keep nobody out"
kill $dripping
wait $dripping 2>/dev/null
for fd in "${slow[@]}"; do
	exec {fd}>&-
done
trap - PIPE
is "$(status /metrics -H 'Host: evil.example')" 421 "no names from elsewhere"
is "$(status /metrics -H 'Host: localhost:1')" 200 "localhost is one of ours"
is "$(status "/$(printf 'a%.0s' $(seq 30000))")" 414 "no endless address"

# --- stopped, dead, back
broker_pause b
ok "stopped: not healthy" wait_until 30000 status_is /healthz 503
is "$(status /readyz)" 503 "stopped: not ready"
is "$(metric broker_up)$(metric broker_running)" 10 "stopped: up, but not running"
broker_resume b
ok "resumed: healthy" wait_until 30000 status_is /healthz 200
broker_kill b
ok "killed: not healthy" wait_until 30000 status_is /healthz 503
is "$(metric broker_up)" 0 "killed: not up"
is "$(metric 'broker_statements_finished_total{pool="main"}')" 4 "killed: what it left is shown"
is "$(json /healthz .broker)" dead "killed: said so"
broker_restart b
ok "started again: followed" wait_until 30000 status_is /readyz 200
is "$(metric 'broker_statements_finished_total{pool="main"}')" 0 "started again: counts anew"
exporter_stop

# --- who may not read statements does not serve them
chmod 000 "$b_socket.slow" # follows the link
if [ "$(id -u)" = 0 ]; then
	exporter_start "$b_socket" --bounding-set=-dac_override,-dac_read_search
else
	exporter_start "$b_socket"
fi
is "$(status /healthz)" 200 "the board can be read"
is "$(status /api/slow.json)$(status /api/statements.json)" 403403 \
	"statements are for those who may read them"
is "$(messages 1 | jq -r '[has("slow"), .why_no_slow] | join(" ")')" \
	"false this process may not read them, or was told not to show them" "the page is told why"
exporter_stop
drop=()
if [ "$(id -u)" = 0 ]; then
	drop=(--bounding-set=-dac_override,-dac_read_search)
fi
like "$(setpriv --pdeathsig KILL "${drop[@]}" "$BROKERSTAT_BIN" -n "$b_socket" -s -1 2>&1)" \
	'statements: .*monitor_group of broker.conf' "brokerstat says who may read statements"
chmod 000 "$b_socket.board"
like "$(setpriv --pdeathsig KILL "${drop[@]}" "$BROKERSTAT_BIN" -n "$b_socket" -p -t 0 2>&1)" \
	'board may not be read by this user; .*socket_mode' "and who may read the board"
chmod 440 "$b_socket.board"
chmod 400 "$b_socket.slow"
exporter_start "$b_socket"
is "$(status /api/slow.json)" 200 "who may read them serves them"
exporter_stop
exporter_options=--no-texts
exporter_start "$b_socket"
is "$(status /api/slow.json)$(status /api/statements.json)" 403403 "unless told not to"
exporter_stop
exporter_options=

# --- addresses
listen() {
	timeout 10 "$BROKERSTAT_BIN" -n "$b_socket" --listen "$1" >/dev/null 2>&1
	echo $?
}
is "$(listen nonsense)" 1 "an address that is none"
is "$(listen 127.0.0.1:70000)" 1 "a port that is none"
is "$(listen 192.0.2.1:0)" 2 "an address of somebody else"
exporter_start "$b_socket"
is "$(listen "${url##*:}")" 2 "a port that is taken"
exporter_stop
done_testing

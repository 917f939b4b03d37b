# SPDX-License-Identifier: MIT
#
# exporter.sh - what tests of `brokerstat --listen` share; after fixture.sh.
#
#   exporter_start SOCKET [COMMAND…]   sets url and exporter_pid; COMMAND runs brokerstat, with
#                                      $exporter_options
#   exporter_stop                      sets exporter_status
#   get PATH [CURL-OPTION…]            the body
#   status PATH [CURL-OPTION…]         the status code
#   worker SOCKET NAME LINE…           runs itworker on these lines
# shellcheck shell=bash

exporter_options=

exporter_start() {
	local socket=$1 log
	shift
	log=$scratch/exporter.$RANDOM
	setpriv --pdeathsig KILL "$@" "$BROKERSTAT_BIN" -n "$socket" --listen 0 $exporter_options \
		>"$log" 2>"$log.err" &
	exporter_pid=$!
	exporter_log=$log.err
	wait_until 60000 grep -q listening "$log" || bail_out "the exporter does not start: $(cat "$log.err")"
	url=$(sed -n 's/^listening on \(.*\)\/$/\1/p' "$log")
}

exporter_stop() {
	kill "$exporter_pid"
	wait "$exporter_pid"
	exporter_status=$?
}

get() {
	local path=$1
	shift
	curl -sS --max-time 30 "$@" "$url$path"
}

status() {
	get "$@" -o /dev/null -w '%{http_code}'
}

# status_is PATH CODE: for wait_until.
status_is() {
	[ "$(status "$1")" = "$2" ]
}

worker() {
	printf '%b\n' "${@:3}" | "$IT_WORKER" "$1" "$2"
}

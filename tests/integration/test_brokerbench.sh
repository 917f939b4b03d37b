#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_brokerbench.sh - brokerbench drives the broker, PostgreSQL and SQLite, and what it says agrees
# with what they say.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"

bench=${BUILD_ROOT:?root of the build}/tools/brokerbench
workloads='point pages pages1 write tpcb rows mix attach'
large='blob put' # take long, one by one
if [ -n "${TEST_QUICK:-}" ]; then
	workloads='point pages tpcb mix attach'
	large=put
fi
workers=3
export BROKER_DUMPABLE=1 # its memory is looked at

it_scratch

# window SECONDS OUTPUT ARGUMENT...: longer where so long is not enough for every workload
window() {
	local seconds
	for seconds in "$1" 2 10; do
		"$bench" -j -s "$seconds" -W 0.05 -w $workers --slow-ms 20 "${@:3}" >"$2" 2>"$scratch/err" || {
			diag "$(cat "$scratch/err")"
			return 1
		}
		if jq -e 'all(.[]; .operations > 0)' "$2" >/dev/null; then
			break
		fi
	done
}

# measure NAME "WORKLOAD..." "LARGE WORKLOAD..." ARGUMENT...: leaves all results in $scratch/NAME.json
# shellcheck disable=SC2086
measure() {
	local name=$1 short=$2 long=$3
	shift 3
	window 0.25 "$scratch/short.json" "$@" $short &&
		window 0.6 "$scratch/long.json" "$@" $long &&
		jq -s add "$scratch/short.json" "$scratch/long.json" >"$scratch/$name.json"
}

# holds NAME JQ-CONDITION-ON-EVERY-RESULT
holds() {
	jq -e "length > 0 and all(.[]; $2)" "$scratch/$1.json" >/dev/null || {
		diag "$(jq -c ".[] | select(($2) | not) | {workload, operations, errors, error, latency}" \
			"$scratch/$1.json")"
		return 1
	}
}

# check NAME: what every result must be
check() {
	ok "$1: no statement fails" holds "$1" '.errors == 0 and .workers_gave_up == 0'
	ok "$1: every workload gets something done" holds "$1" '.operations > 0 and .rate > 0'
	ok "$1: percentiles are in order" holds "$1" \
		'.latency | .p50 <= .p90 and .p90 <= .p99 and .p99 <= .p999 and .p999 <= .max'
	ok "$1: workers use CPU time" holds "$1" '.cpu_per_1000.workers > 0'
}

# -- PostgreSQL ------------------------------------------------------------------------------------

pg_start db
ok "tables are made in PostgreSQL" "$bench" init -t libpq -a "$db_url" --scale 1 2>/dev/null
is "$(pg_query db 'SELECT count(*), sum(abalance) FROM pgbench_accounts')" '100000|0' \
	"as many accounts as pgbench makes, and nothing booked"
broker_start b "$db_url" 'pool main.max_size=3'
backends_are() { # N of the broker, that of its probes included
	[ "$(pg_query db "SELECT count(*) FROM pg_stat_activity
		WHERE application_name LIKE 'shmbroker%'")" = "$1" ]
}
ok "the pool is full" wait_until 60000 backends_are 4

ok "all workloads run through the broker" measure broker "$workloads lease" "$large" -a "$b_socket" \
	-o "$db_url"
check broker
ok "broker: its process and the server's are found" holds broker \
	'.middle == "broker" and (.cpu_per_1000 | .middle > 0 and .database >= 0)'
ok "broker: the server has the pool's connections and that of the probes" holds broker \
	'.backends == 4'
ok "broker: its own count of statements is not below the workers'" holds broker \
	'.workload == "lease" or
	([.metrics | to_entries[] | select(.key | startswith("broker_statements_finished_total"))
	.value] | add) >= .statements - 300'
if [ -r /proc/self/smaps_rollup ]; then
	ok "broker: memory of everybody is counted" holds broker \
		'.pss_kib | .workers > 0 and .middle > 0 and (.database > 0 or .database == null)'
else
	skip "this kernel does not tell proportional memory"
fi

ok "all workloads run on PostgreSQL directly" measure direct "$workloads" "$large" -t libpq \
	-a "$db_url" -o "$db_url"
check direct
ok "direct: nothing stands in the middle" holds direct \
	'.middle == null and .cpu_per_1000.middle == null and .protocol == "prepared"'
ok "direct: every worker has a connection" holds direct \
	'.workload == "attach" or .backends == 4 + .workers'
for protocol in extended simple; do
	ok "statements are sent as $protocol ones" measure $protocol 'point pages write tpcb' "$large" \
		-t libpq -a "$db_url" -p $protocol
	check $protocol
done
is "$(pg_query db 'SELECT count(*) > 0 AND (SELECT sum(bbalance) FROM pgbench_branches) =
	sum(delta) FROM pgbench_history')" t "every transaction of tpcb was one"

# -- SQLite ----------------------------------------------------------------------------------------

file=$scratch/bench.db
ok "tables are made in SQLite" "$bench" init -t sqlite -a "$file" --scale 1
ok "all workloads run on SQLite directly" measure sqlite "$workloads" "$large" -t sqlite -a "$file"
check sqlite
broker_start s "sqlite:$file"
ok "all workloads run through a broker on SQLite" measure sqlite-broker "$workloads" "$large" \
	-a "$s_socket"
check sqlite-broker
ok "it is seen that SQLite is behind the broker" holds sqlite-broker '.database == "sqlite"'

# -- mistakes --------------------------------------------------------------------------------------

# fails STATUS TEXT ARGUMENT...
fails() {
	local want=$1 text=$2 status
	shift 2
	"$bench" "$@" >"$scratch/out" 2>&1
	status=$?
	[ $status = "$want" ] && grep -qF -e "$text" "$scratch/out" || {
		diag "status $status: $(cat "$scratch/out")"
		return 1
	}
}

ok "a workload that there is not" fails 2 "no workload 'pint'" -a "$b_socket" pint
ok "no workload" fails 2 'no workload is named'
ok "no address" fails 2 'needs --address' -t libpq point
ok "a number that is none" fails 2 "invalid value '0'" -w 0 point
ok "a database without tables" fails 1 'brokerbench init' -t sqlite -a "$scratch/empty.db" point
ok "a broker that there is not" fails 1 'point, 8 workers' -a "$scratch/nobody" point
ok "leases where there is no broker" fails 1 'only the broker has leases' -t libpq -a "$db_url" lease
ok "tables are not made through the broker" fails 1 'on the database itself' -a "$b_socket" init
pg_query db 'DROP TABLE bench_row'
ok "statements that fail make the run fail" fails 1 'bench_row' -a "$b_socket" -s 0.05 -W 0 rows
like "$("$bench" --help)" 'lease +take a connection' "the help names the workloads"
undocumented=$("$bench" --help | grep -oE -e '--[a-z-]+' -e '^  [a-z0-9]+ ' | sort -u |
	while read -r word; do
		sed 's/\\//g' "$SOURCE_ROOT/docs/man/brokerbench.1" | grep -qwF -e "$word" || echo "$word"
	done)
is "$undocumented" '' "the manual has every option and workload of the help"

done_testing

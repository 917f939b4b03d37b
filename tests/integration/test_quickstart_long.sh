#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_quickstart_long.sh - tools/quickstart does what it says on both databases, and leaves nothing
# behind: after its end, after an interrupt, after it was killed.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"

it_scratch
quickstart=$SOURCE_ROOT/tools/quickstart

# Processes whose command line or directory mentions the temporary directory of a quickstart.
left_of() { # DIR
	local pid
	for pid in /proc/[0-9]*; do
		if tr '\0' ' ' 2>/dev/null <"$pid/cmdline" | grep -qF "$1" ||
			[ "$(readlink "$pid/cwd" 2>/dev/null)" = "$1" ]; then
			echo "${pid#/proc/}"
		fi
	done
}

nothing_left() {
	[ ! -e "$1" ] && [ -z "$(left_of "$1")" ]
}

nobody_left() {
	[ -z "$(left_of "$1")" ]
}

dir_of() {
	sed -n 's|.*\(/tmp/shmbroker\.[A-Za-z0-9]*\)/.*|\1|p' "$1" | head -n 1
}

run_whole() { # NAME OPTION...
	local log=$scratch/$1.log dir
	"$quickstart" --build "$BUILD_ROOT" "${@:2}" >"$log" 2>&1
	is $? 0 "$1: succeeds" || diag "$(tail -n 40 "$log")"
	like "$(cat "$log")" 'writes +[1-9][0-9]* acknowledged: 0 missing, 0 there twice' \
		"$1: every acknowledged write is there"
	like "$(cat "$log")" 'broker_worker_deaths_total +1 ' "$1: one worker was killed"
	like "$(cat "$log")" '"name":"item 7"' "$1: the server answers"
	dir=$(dir_of "$log")
	ok "$1: nothing is left" nothing_left "${dir:-/unknown}"
}

has_line() {
	grep -q "$1" "$2"
}

# run_cut SIGNAL OPTION...: end it in the middle of the load.
run_cut() {
	local signal=$1 log=$scratch/cut-$1.log pid
	shift
	setsid "$quickstart" --build "$BUILD_ROOT" "$@" >"$log" 2>&1 &
	pid=$!
	wait_until 60000 has_line '== load' "$log" || diag "$(cat "$log")"
	kill -s "$signal" "$pid"
	wait "$pid" 2>/dev/null
	cut_status=$?
	cut_dir=$(dir_of "$log")
}

run_whole sqlite
run_whole postgres --postgres

run_cut TERM --postgres
is $cut_status 143 "terminated: says so"
ok "terminated: nothing is left" wait_until 30000 nothing_left "$cut_dir"
run_cut KILL --postgres
ok "killed: no process is left" wait_until 30000 nobody_left "$cut_dir"
rm -rf "$cut_dir" # nobody is left who could
done_testing

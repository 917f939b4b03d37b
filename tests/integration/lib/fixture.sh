# SPDX-License-Identifier: MIT
#
# fixture.sh - what shell tests share: TAP, and the clusters and brokers of the C fixture library.
#
#     . "$(dirname "$0")/lib/fixture.sh"
#     pg_start db max_connections=20              # sets db_url, db_host, db_pid, db_log
#     broker_start b "$db_url" "pool main.max_size=4"     # sets b_socket, b_pid, b_log
#     ok "rows are there" test "$(pg_query db 'SELECT count(*) FROM t')" = 3
#     wait_until 5000 grep -q ready "$b_log"
#     done_testing
#
# Everything that was started ends with the script, also when the script is killed: the work is done
# by the coprocess itctl, whose standard input then ends.
#
#   pg_start NAME [SETTING…]            pg_standby NAME PRIMARY [SETTING…]
#   pg_stop NAME smart|fast|immediate|kill   pg_restart NAME   pg_promote NAME
#   pg_freeze NAME   pg_thaw NAME       pg_query NAME SQL
#   broker_start NAME URL|- [SETTING…] [-- COMMAND…]
#   broker_stop NAME, broker_wait NAME  (set NAME_status)      broker_kill NAME
#   broker_pause NAME   broker_resume NAME   broker_restart NAME
# shellcheck shell=bash

set -u

tap_count=0
tap_failed=0

diag() {
	printf '%s\n' "$*" | sed 's/^/# /'
}

tap_line() { # 0|1 TEXT
	tap_count=$((tap_count + 1))
	if [ "$1" = 0 ]; then
		printf 'ok %d - %s\n' "$tap_count" "$2"
	else
		tap_failed=$((tap_failed + 1))
		printf 'not ok %d - %s\n' "$tap_count" "$2"
		diag "  failed at ${BASH_SOURCE[2]}:${BASH_LINENO[1]}"
	fi
}

# ok TEXT COMMAND…: passes if the command succeeds.
ok() {
	local text=$1 rc=0
	shift
	"$@" || rc=1
	tap_line $rc "$text"
	return $rc
}

# is GOT WANT TEXT
is() {
	local rc=0
	[ "$1" = "$2" ] || rc=1
	tap_line $rc "$3"
	if [ $rc != 0 ]; then
		diag "  got \"$1\", want \"$2\""
	fi
	return $rc
}

# like TEXT-TO-SEARCH EXTENDED-REGEX TEXT
like() {
	local rc=0
	grep -qE -- "$2" <<<"$1" || rc=1
	tap_line $rc "$3"
	if [ $rc != 0 ]; then
		diag "  no match for $2 in:" && diag "$1"
	fi
	return $rc
}

skip() {
	tap_count=$((tap_count + 1))
	printf 'ok %d # SKIP %s\n' "$tap_count" "$*"
}

bail_out() {
	printf 'Bail out! %s\n' "$*"
	exit 99
}

done_testing() {
	if [ $tap_failed != 0 ] && [ -n "${it_started:-}" ]; then
		it show_logs
	fi
	printf '1..%d\n' "$tap_count"
	exit $((tap_failed != 0))
}

# wait_until MILLISECONDS COMMAND…
wait_until() {
	local end=$(($(date +%s%3N) + $1))
	shift
	while ! "$@"; do
		if [ "$(date +%s%3N)" -ge $end ]; then
			return 1
		fi
		sleep 0.02
	done
}

# Talk to the coprocess: the words go out, the answer's words come back in it_answer.
it() {
	local line IFS=$'\t'
	if [ -z "${it_started:-}" ]; then
		coproc IT { exec "${IT_CTL:?is not set; run through meson test}"; }
		it_started=1
	fi
	printf '%s\n' "$*" >&"${IT[1]}" # a builtin: subshells do not have the coprocess
	while IFS= read -r line <&"${IT[0]}"; do
		case $line in
		ok*)
			read -r -a it_answer <<<"${line#ok?}"
			return
			;;
		*) printf '%s\n' "$line" ;;
		esac
		case $line in
		Bail*) exit 99 ;;
		esac
	done
	bail_out "the fixture program ended"
}

it_scratch() {
	it scratch
	scratch=${it_answer[0]}
}

it_cluster() { # NAME VERB WORD…
	local name=$1
	shift
	it "$@"
	printf -v "${name}_id" %s "${it_answer[0]}"
	printf -v "${name}_url" %s "${it_answer[1]}"
	printf -v "${name}_host" %s "${it_answer[2]}"
	printf -v "${name}_pid" %s "${it_answer[3]}"
	printf -v "${name}_log" %s "${it_answer[4]}"
}

it_id() {
	local var=${1}_id
	printf %s "${!var}"
}

pg_start() {
	local name=$1
	shift
	it_cluster "$name" pg_start "$@"
}

pg_standby() {
	local name=$1 primary=$2
	shift 2
	it_cluster "$name" pg_standby "$(it_id "$primary")" "$@"
}

pg_stop() {
	it pg_stop "$(it_id "$1")" "$2"
}

pg_restart() {
	it pg_restart "$(it_id "$1")"
	printf -v "${1}_pid" %s "${it_answer[0]}"
}

pg_promote() {
	it pg_promote "$(it_id "$1")"
}

pg_freeze() {
	it pg_freeze "$(it_id "$1")"
}

pg_thaw() {
	it pg_thaw "$(it_id "$1")"
}

pg_query() {
	local url=${1}_url
	psql -XAtq -v ON_ERROR_STOP=1 -d "${!url}" -c "$2"
}

broker_start() {
	local name=$1
	shift
	it broker_start "$@"
	printf -v "${name}_id" %s "${it_answer[0]}"
	printf -v "${name}_socket" %s "${it_answer[1]}"
	printf -v "${name}_pid" %s "${it_answer[2]}"
	printf -v "${name}_log" %s "${it_answer[3]}"
}

broker_stop() {
	it broker_stop "$(it_id "$1")"
	printf -v "${1}_status" %s "${it_answer[0]}"
}

broker_wait() {
	it broker_wait "$(it_id "$1")"
	printf -v "${1}_status" %s "${it_answer[0]}"
}

broker_kill() {
	it broker_kill "$(it_id "$1")"
}

broker_pause() {
	it broker_pause "$(it_id "$1")"
}

broker_resume() {
	it broker_resume "$(it_id "$1")"
}

broker_restart() {
	it broker_restart "$(it_id "$1")"
	printf -v "${1}_pid" %s "${it_answer[0]}"
}

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_follow.sh - brokerstat that follows a broker which is killed and started again: what the old one
# logged between two looks is printed and recorded, too.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"

it_scratch
broker_start b - "pool main.slow_threshold=0"

# Looks seldom, so that the broker's end is most likely between two looks.
follow() { # NAME OPTION…
	local name=$1
	shift
	setpriv --pdeathsig KILL "$BROKERSTAT_BIN" -n "$b_socket" -w 5 "$@" \
		>"$scratch/$name" 2>"$scratch/$name.err" &
	followers+=($!)
}

statement() { # TAG
	[ "$(printf 'exec\t%s\tSELECT 1\n' "$1" | "$IT_WORKER" "$b_socket" worker | grep -c '^ok')" = 2 ]
}

tags() {
	grep -oE '"tag":"[^"]*"' "$1" | cut -d'"' -f4 | paste -sd' '
}

logged() { # EVENT
	"$BROKERSTAT_BIN" -n "$b_socket" -e | grep -q "$1"
}

ok "a statement" statement before
followers=()
follow slow -s -d -j
follow events -e
follow record -W "$scratch/rec"
ok "statements are followed" wait_until 30000 grep -q before "$scratch/slow"
ok "events, too" wait_until 30000 grep -q start "$scratch/events"
ok "and all is recorded" wait_until 30000 test -s "$scratch/rec"

ok "a statement of which they do not know yet" statement last
mkfifo "$scratch/input"
"$IT_WORKER" "$b_socket" victim <"$scratch/input" >"$scratch/victim" &
victim=$!
exec 7>"$scratch/input"
wait_until 30000 grep -q ok "$scratch/victim"
kill -KILL $victim
wait $victim 2>/dev/null
exec 7>&-
ok "an event" wait_until 30000 logged worker_death
broker_kill b
broker_restart b
ok "a statement of the next broker" statement first

ok "all are printed" wait_until 15000 grep -q first "$scratch/slow"
is "$(tags "$scratch/slow")" "before last first" "in order, each once"
ends() {
	[ "$(grep -c ' start ' "$scratch/events")" = 2 ]
}
ok "the events of both" wait_until 15000 ends
is "$(grep -c worker_death "$scratch/events")" 1 "with the last ones of the first"
recorded() {
	"$BROKERSTAT_BIN" -r "$scratch/rec" -s -d -j >"$scratch/replayed" 2>/dev/null
	grep -q first "$scratch/replayed"
}
ok "the recording has the next broker's" wait_until 15000 recorded
is "$(tags "$scratch/replayed")" "before last first" "and what the first one left"
kill "${followers[@]}"
wait "${followers[@]}" 2>/dev/null
done_testing

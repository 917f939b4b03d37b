#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_monitors_long.sh - five monitors that read everything ten times a second, and what that does to
# the throughput: windows with and without them take turns, and the medians are compared.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"

bench=${BUILD_ROOT:?root of the build}/tools/brokerbench
turns=7
seconds=1
it_scratch
"$bench" init --target sqlite --address "$scratch/bench.db" --scale 1 >/dev/null 2>&1
broker_start b "sqlite:$scratch/bench.db"

# Statements per second of one window.
window() {
	"$bench" -a "$b_socket" -w 4 -s $seconds -W 0.2 -j point | jq '.[0].rate'
}

monitors=()
monitors_start() {
	local i
	monitors=()
	for i in 1 2 3 4 5; do
		setpriv --pdeathsig KILL "$BROKERSTAT_BIN" -n "$b_socket" -j -w 0.1 >"$scratch/monitor.$i" &
		monitors+=($!)
	done
}

documents() { # the fewest that a monitor has written
	local i
	for i in 1 2 3 4 5; do
		grep -c '^}' "$scratch/monitor.$i"
	done | sort -n | head -n 1
}

monitors_read() { # at least N documents each
	[ "$(documents)" -ge "$1" ]
}

monitors_stop() {
	kill "${monitors[@]}" 2>/dev/null
	wait "${monitors[@]}" 2>/dev/null
}

window >/dev/null # warm
least=1000000
for _ in $(seq $turns); do
	window >>"$scratch/without"
	monitors_start
	wait_until 30000 monitors_read 2 || diag "the monitors are slow"
	window >>"$scratch/with"
	n=$(documents)
	least=$((n < least ? n : least))
	monitors_stop
done
diag "without monitors: $(tr '\n' ' ' <"$scratch/without")"
diag "with monitors:    $(tr '\n' ' ' <"$scratch/with")"
is "$(cat "$scratch/with" "$scratch/without" | grep -cE '^[0-9.]+$')" $((2 * turns)) "all windows were measured"
ok "every monitor read about ten times a second ($least in the laziest window)" test "$least" -ge $((seconds * 5))
read -r ratio noise verdict <<<"$(jq -nr --slurpfile a "$scratch/without" --slurpfile b "$scratch/with" '
	def median: sort | .[length / 2 | floor];
	(($b | median) / ($a | median)) as $ratio
	| ((($a | max) - ($a | min)) / ($a | median)) as $noise
	| "\($ratio * 1000 | round / 1000) \($noise * 1000 | round / 1000) \($ratio > 1 - ([$noise, 0.25] | max))"')"
diag "throughput with five monitors / without: $ratio; windows without them differ by $noise"
is "$verdict" true "monitors change the throughput by less than the noise (ratio $ratio, noise $noise)"
done_testing

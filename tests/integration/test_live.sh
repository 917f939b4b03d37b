#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_live.sh - brokerstat's live screen on a terminal: views, keys, filters, sizes, locales, and a
# broker that is stopped, killed and started again.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"
# shellcheck source=tests/integration/lib/screen.sh
. "$(dirname "$0")/lib/screen.sh"

if ! command -v tmux >/dev/null; then
	skip "no tmux here"
	done_testing
fi
it_scratch
broker_start b - "pool main.slow_threshold=0"

# A worker that does what is written to descriptor 7, and one that comes and goes.
mkfifo "$scratch/holder"
setpriv --pdeathsig KILL "$IT_WORKER" "$b_socket" holder <"$scratch/holder" >"$scratch/holder.out" &
holder_pid=$!
exec 7>"$scratch/holder"
printf 'begin\tPOST /cart\tCREATE TABLE IF NOT EXISTS cart (item)\n' >&7
printf 'exec\tGET /a\tSELECT %d\n' 1 2 3 4 5 | "$IT_WORKER" "$b_socket" visitor >"$scratch/visitor"
is "$(grep -c ok "$scratch/visitor")" 6 "a worker runs statements"
wait_until 30000 grep -c '^ok' "$scratch/holder.out" >/dev/null || bail_out "the holder cannot begin"

live="LC_ALL=C.UTF-8 '$BROKERSTAT_BIN' -n '$b_socket' -w 0.2"
width_ok() { # no line is wider than N
	[ "$(screen | LC_ALL=C.UTF-8 wc -L)" -le "$1" ]
}

# --- overview
screen_start 80 24 "$live"
ok "the overview says that the broker runs" screen_shows "^broker running  pid $b_pid  up "
ok "with the throughput of the pool" screen_shows '^main +up +local +[0-9]'
ok "with percentiles" screen_shows '^POOL +WAIT_P50 +P95 +P99 +RUN_P50'
ok "with servers" screen_shows '^local +local +up'
ok "with events" screen_shows 'start +broker .*pid '
ok "with averages over 10, 100 and 1000 samples" screen_shows 'AVG10 +100 +1000'
ok "with a curve" screen_shows '^stmt/s .* (▁|▂|▃|▄|▅|▆|▇|█)+'
is "$(screen | wc -l)" 24 "on all lines there are"
ok "and no more columns" width_ok 80

# --- views
screen_keys 1
ok "1 shows pools" screen_shows '^POOL +STATE +STMT/S.*CL_WAITING'
screen_keys Right Right Right Right Right Right Right Right
ok "columns scroll" screen_shows '^POOL +.*SV_LEASED'
screen_keys 2
ok "2 shows servers" screen_shows '^SERVER +ROLE +VERDICT'
screen_keys 3
ok "3 shows connections" screen_shows "leased|transaction.* $holder_pid holder"
screen_keys 4
ok "4 shows who holds what" screen_shows "^ *$holder_pid +holder +main/[0-9]+ +[0-9.]+m?s +.*POST /cart"
long='WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<10000000) SELECT count(*) FROM c'
answers=$(wc -l <"$scratch/holder.out")
printf 'exec\tPOST /pay\t%s\n' "$long" >&7
ok "the number of what it runs for the first time" screen_shows "^ *$holder_pid +holder .* shape [0-9a-f]{5}"
answered() {
	[ "$(wc -l <"$scratch/holder.out")" -gt "$answers" ]
}
wait_until 60000 answered
ok "then the shape of what it ran" screen_shows "^ *$holder_pid +holder +main/.* with rec"
"$IT_WORKER" "$b_socket" runner <<<$'exec\tGET /report\t'"$long" >"$scratch/runner" &
runner_pid=$!
ok "and who runs a statement without holding a connection" \
	screen_shows "^ *$runner_pid +runner +main/[0-9]+ +[0-9.]+m?s +active +GET /report"
wait $runner_pid
screen_keys 5
ok "5 shows shapes of statements" screen_shows 'select \?'
screen_keys t
ok "t shows single statements" screen_shows 'SELECT 5'
screen_keys t
ok "and samples" screen_shows 'None so far'
screen_keys 6
ok "6 shows all metrics" screen_shows '^NAME +CURRENT +CHANGE +AVERAGE +AVG10'
screen_keys Down Down Down
ok "the last line describes the selected one" screen_shows '^Workers attached now'
screen_keys End
ok "End goes to the last" screen_shows 'broker_handoff_seconds_count'
screen_keys Home
ok "Home to the first" screen_shows '^broker_up '
screen_keys Tab
ok "Tab goes on, around" screen_shows '^POOL +WAIT_P50'

# --- help, details
screen_keys 6 h
ok "h shows the keys" screen_shows '^q +quit|^Tab +the next view'
ok "and what is selected" screen_shows '^broker_up: 1 while'
screen_keys NPage NPage
ok "it scrolls" screen_shows '^avg1000 +Of about'
screen_keys Escape
ok "Esc goes back" screen_shows '^NAME +CURRENT'
screen_keys 5 t t Enter
ok "Enter shows all of a row" screen_shows '^fingerprint +[0-9a-f]{16}'
screen_keys Enter
ok "and back" screen_shows '^ENDED'

# --- filter and order
screen_keys 6 /
screen_type 'broker_statements_fin'
ok "a filter works while it is typed" screen_hides '^broker_up'
screen_keys Enter
ok "and says how much it left" screen_shows 'filter: broker_statements_fin +\(1 of [0-9]+ rows\)'
screen_keys '\\'
ok "\\ removes it" screen_shows '^broker_up'
screen_keys /
screen_type 'current>0 && name~wor'
screen_keys Enter
ok "a condition on columns" screen_shows '^broker_workers .*'
screen_keys /
screen_type ' && ('
ok "one that is wrong is told" screen_shows 'missing here'
screen_keys Escape
ok "Esc removes it" screen_shows '^broker_up'
screen_keys s s
ok "s sorts by the next column" screen_shows '^NAME +CURRENT-'
first=$(screen | sed -n 5p)
screen_keys r
ok "r turns the order around" screen_shows '^NAME +CURRENT\+'
changed() {
	[ "$(screen | sed -n 5p)" != "$first" ]
}
ok "and the rows with it" wait_until 30000 changed
screen_keys o
ok "o is the order they came in" screen_shows '^broker_up'

# --- pause: nothing moves, keys work
screen_keys 6 Space
ok "Space pauses" screen_shows 'paused'
before=$(screen | sed -n 6p)
printf 'exec\tGET /b\tSELECT 1\n' | "$IT_WORKER" "$b_socket" other >/dev/null
screen_keys 1
ok "keys still work" screen_shows '^POOL'
screen_keys 6
ok "and back" screen_shows '^NAME'
is "$(screen | sed -n 6p)" "$before" "nothing moved"
screen_keys Space
ok "Space goes on" screen_shows 'every 0.2s'
moved() {
	[ "$(screen | sed -n 6p)" != "$before" ]
}
ok "and things move" wait_until 30000 moved
screen_keys +
ok "+ samples more often" screen_shows 'every 0.1s'

# --- sizes
screen_keys 4
for size in "200 50" "40 10" "20 5" "10 2" "2 2" "80 24"; do
	# shellcheck disable=SC2086
	screen_size $size
	ok "it fits $size" screen_shows '^b'
	ok "$size: not a column too many" width_ok "${size% *}"
done
screen_size 40 10
ok "on 40 columns it says which view it is" screen_shows '^0 1 2 3 4 workers 5 6'
screen_size 80 24
ok "back to 80 columns all is there" screen_shows "^ *$holder_pid +holder"

# --- the broker stops, goes on, dies, is back
screen_keys 0
broker_pause b
ok "a stopped broker is shown, and said to be" screen_shows '^broker stopped .*heartbeat'
ok "its pools, too" screen_shows '^main +up'
broker_resume b
ok "it runs again" screen_shows '^broker running'
broker_kill b
ok "a dead broker is shown" screen_shows '^broker dead'
ok "with what it left" screen_shows '^main +up'
screen_keys 4
ok "also who held what" screen_shows "$holder_pid +holder +main/"
broker_restart b
ok "the next one is followed" screen_shows "^broker running  pid $b_pid"
screen_keys q
ok "q ends it" wait_until 30000 screen_ended
is "$screen_status" 0 "with 0"
exec 7>&-

# --- no colours, other locales
colours() { # SGR 30-37: foreground colours
	screen -e | grep -qE $'\033''\[([0-9;]*;)?3[0-7]m'
}
broker_pause b
screen_start 80 24 "TERM=screen-256color $live"
ok "trouble has a colour" wait_until 30000 colours
screen_keys q
ok "and an end" wait_until 30000 screen_ended
for how in "NO_COLOR=1 $live" "$live -C" "$live --no-color"; do
	screen_start 80 24 "TERM=screen-256color $how"
	ok "it is said without colours" screen_shows '^broker stopped'
	ok "and bold" wait_until 30000 eval 'screen -e | grep -q "$(printf "\033")\[1m"'
	ok "in no colour" eval '! colours'
	screen_keys q
	wait_until 30000 screen_ended
done
broker_resume b
screen_start 80 24 "LC_ALL=C '$BROKERSTAT_BIN' -n '$b_socket' -w 0.2"
ok "in the C locale" screen_shows '^stmt/s .*  [_.~=+*#-]{2}'
is "$(screen | LC_ALL=C grep -c '[^ -~]')" 0 "all is ASCII"
screen_keys q
wait_until 30000 screen_ended

# --- where there is no live screen
screen_start 100 24 "TERM=dumb $live 2>'$scratch/dumb'"
ok "a terminal without a cursor has no live screen" wait_until 30000 screen_ended
is "$screen_status" 1 "as the exit status says"
like "$(cat "$scratch/dumb")" "type 'dumb' has no live screen; set TERM" "and the message"
screen_start 100 24 "$live -f 'broker_up' </dev/null"
ok "without a keyboard the metrics are printed" screen_shows '^name +value +rate'
screen_stop

# --- filters of the command line
screen_start 100 24 "$live -f 'broker_*total*' -f '^broker_loop*' -f 'broker_prepared_total{state=\"miss\",*'"
screen_keys 6
ok "-f chooses metrics" screen_shows '^broker_attaches_total'
ok "and no others" screen_hides '^broker_(up|loop_turns_total|io_threads) '
screen_keys q
wait_until 30000 screen_ended

# --- a recording
"$BROKERSTAT_BIN" -n "$b_socket" -W "$scratch/rec" -w 0.05 -c 30
broker_kill b
screen_start 80 24 "$live -r '$scratch/rec'"
ok "a recording is played" screen_shows '(playing|stopped) x1  frame [0-9]+/30'
ok "to its end" screen_shows 'stopped x1  frame 30/30'
ok "the broker of then" screen_shows "^broker running  pid $b_pid"
screen_keys ,
ok "a frame back" screen_shows 'frame 29/30'
screen_keys '{'
ok "to its begin" screen_shows 'frame 1/30'
screen_keys .
ok "a frame on" screen_shows 'frame 2/30'
screen_keys '}' 4 + +
ok "to its end, faster, in any view" screen_shows 'x4  frame 30/30'
screen_keys '{' Space
ok "played again" screen_shows 'frame 30/30'
screen_keys '['
ok "a minute back is its begin" screen_shows 'frame 1/30'
screen_keys q
ok "q ends it" wait_until 30000 screen_ended
is "$screen_status" 0 "well, since then the broker ran"

# --- nothing but a dead broker
screen_start 80 24 "$live"
ok "a broker that is dead already" screen_shows '^broker dead'
ok "has rates of its life" screen_shows 'since start'
screen_keys q
wait_until 30000 screen_ended
is "$screen_status" 4 "the exit status tells"
done_testing

# SPDX-License-Identifier: MIT
#
# screen.sh - a terminal for tests of the live screen (tmux); after fixture.sh and it_scratch.
#
#   screen_start COLUMNS LINES COMMAND    runs a command line on a terminal of its own
#   screen_keys KEY…                      types, with tmux's names of keys
#   screen_type TEXT                      types a text
#   screen_size COLUMNS LINES
#   screen                                what stands there; screen -e: with colours
#   screen_shows REGEX, screen_hides REGEX   for ok: within half a minute
#   screen_ended                          for wait_until; sets screen_status
#   screen_stop
# shellcheck shell=bash

screen_number=0

# The server ends with the command, and the command after ten minutes whatever becomes of us.
screen_start() {
	screen_number=$((screen_number + 1))
	screen_socket=$scratch/tmux$screen_number
	screen_result=$scratch/status$screen_number
	cat >"$scratch/run$screen_number" <<-END
		$3
		echo \$? >"$screen_result"
	END
	tmux -S "$screen_socket" -f /dev/null new-session -d -x "$1" -y "$2" \
		"exec timeout --foreground 600 bash '$scratch/run$screen_number'" || bail_out "no tmux"
}

screen_keys() {
	tmux -S "$screen_socket" send-keys "$@"
}

screen_type() {
	tmux -S "$screen_socket" send-keys -l "$1"
}

screen_size() {
	tmux -S "$screen_socket" resize-window -x "$1" -y "$2"
}

screen() {
	tmux -S "$screen_socket" capture-pane -p "$@" 2>/dev/null
}

screen_has() {
	screen | grep -qE -- "$1"
}

screen_lacks() {
	! screen | grep -qE -- "$1"
}

screen_shows() {
	wait_until 30000 screen_has "$1" || { diag "no $1 in:" && diag "$(screen)" && return 1; }
}

screen_hides() {
	wait_until 30000 screen_lacks "$1" || { diag "$1 in:" && diag "$(screen)" && return 1; }
}

screen_ended() {
	[ -s "$screen_result" ] && screen_status=$(cat "$screen_result")
}

screen_stop() {
	tmux -S "$screen_socket" kill-server 2>/dev/null
	return 0
}
trap screen_stop EXIT

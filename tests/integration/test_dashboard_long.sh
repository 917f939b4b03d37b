#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_dashboard_long.sh - the dashboard in headless Chromium, on a real broker; the checks are in
# lib/dashboard.py.  Screenshots are kept in BUILD/dashboard/.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"

for program in chromium chromedriver; do
	if ! command -v $program >/dev/null; then
		skip "no $program here"
		done_testing
	fi
done
it_scratch
broker_start b - "pool main.slow_threshold=100ms"
mkdir -p "$BUILD_ROOT/dashboard"
setpriv --pdeathsig KILL python3 "$SOURCE_ROOT/tests/integration/lib/dashboard.py" "$b_socket" "$b_pid" \
	"$scratch" "$BUILD_ROOT/dashboard"
status=$?
if [ $status != 0 ]; then
	it show_logs
fi
exit $status

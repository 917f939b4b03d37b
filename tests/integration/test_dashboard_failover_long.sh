#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_dashboard_failover_long.sh - the dashboard in headless Chromium shows a real failover; the checks
# are in lib/dashboard_failover.py.  The screenshot is kept in BUILD/dashboard/.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"

for program in chromium chromedriver; do
	if ! command -v $program >/dev/null; then
		skip "no $program here"
		done_testing
	fi
done
if ! command -v initdb >/dev/null && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
	skip "no PostgreSQL server is installed"
	done_testing
fi
mkdir -p "$BUILD_ROOT/dashboard"
exec setpriv --pdeathsig KILL python3 "$SOURCE_ROOT/tests/integration/lib/dashboard_failover.py" \
	"$BUILD_ROOT/dashboard"

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_fixture_shell.sh - the shell side of the fixture library.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"

it_scratch
ok "there is a scratch directory" test -d "$scratch"
echo ready >"$scratch/file"
ok "a condition is waited for" wait_until 1000 grep -q ready "$scratch/file"
ok "but not for ever" test "$(wait_until 50 false || echo over)" = over
if ! pg_config --version >/dev/null 2>&1; then
	skip "no PostgreSQL here"
	done_testing
fi
pg_start db max_connections=13
is "$(pg_query db 'SHOW max_connections')" 13 "a cluster is started with settings"
pg_stop db immediate
ok "it is stopped" test "$(pg_query db 'SELECT 1' 2>/dev/null || echo gone)" = gone
pg_restart db
is "$(pg_query db 'SELECT 1')" 1 "and comes back"
like "$db_url" '^postgresql:' "its address is known"
done_testing

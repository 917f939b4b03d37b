#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_testing.sh - every test that docs/testing.md names as a proof is there.
set -u
cd "${SOURCE_ROOT:?}" || exit 1
# shellcheck source=tests/integration/lib/fixture.sh
. tests/integration/lib/fixture.sh
names=$(sed -n '/^## What is promised/,/^## Speed/p' docs/testing.md |
	grep -oE '\b(unit|model|fault|integration|fuzz|headers|docs)/[a-z_0-9]+' | sort -u)

is_there() {
	[ -e "tests/${1%/*}/test_${1#*/}.c" ] || [ -e "tests/${1%/*}/test_${1#*/}.sh" ]
}

ok "the names were found" test "$(wc -w <<<"$names")" -ge 40
for name in $names; do
	ok "$name is there" is_there "$name"
done
done_testing

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_testing.sh - every test that docs/testing.md names as a proof is there.
set -u
cd "${SOURCE_ROOT:?}" || exit 1
n=0
failed=0
names=$(sed -n '/^## What is promised/,/^## Speed/p' docs/testing.md |
	grep -oE '\b(unit|model|fault|integration|fuzz|headers|docs)/[a-z_0-9]+' | sort -u)

check() { # TEXT COMMAND...
	n=$((n + 1))
	if "${@:2}"; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		failed=1
	fi
}

is_there() {
	[ -e "tests/${1%/*}/test_${1#*/}.c" ] || [ -e "tests/${1%/*}/test_${1#*/}.sh" ]
}

check "the names were found" test "$(wc -w <<<"$names")" -ge 40
for name in $names; do
	check "$name is there" is_there "$name"
done
echo "1..$n"
exit $failed

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_behaviours.sh - the list of behaviours in docs/testing.md is complete and true: every number
# from 1 to 50 is there once, and has checks of its name, or another test that exists, or a reason.
set -u

root=${SOURCE_ROOT:?root of the sources}
count=0

ok() { # STATUS WHAT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
	fi
}

table=$(sed -n '/^## Behaviours of pools/,/^## Chaos/p' "$root/docs/testing.md" | grep '^| [A-F][0-9]')
for number in $(seq 1 50); do
	row=$(grep -E "^\| [A-F]$number \|" <<<"$table")
	[ "$(grep -c . <<<"$row")" = 1 ]
	ok $? "$number is in the list, once"
	name=$(sed 's/^| \([A-F][0-9]*\) .*/\1/' <<<"$row")
	elsewhere=$(cut -d'|' -f4 <<<"$row")
	if ! grep -qsE "\"$name[:\"]" "$root"/tests/integration/test_behaviour_*.c; then
		[ -n "${elsewhere// /}" ]
		ok $? "$name has no checks of its own, but is proven elsewhere, or has a reason"
	fi
	for test in $(grep -oE '\b(unit|model|fault|integration|docs)/[a-z_0-9]+' <<<"$elsewhere"); do
		[ -e "$root/tests/${test%/*}/test_${test#*/}.c" ]
		ok $? "$name: $test is there"
	done
done
echo "1..$count"

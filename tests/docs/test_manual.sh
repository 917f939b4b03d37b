#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_manual.sh - shmbroker(3) has every function as shmbroker.h declares it, and every error code with
# its number and advice; all manual pages are free of formatting mistakes.
set -u
cd "${SOURCE_ROOT:?}" || exit 1
# shellcheck source=tests/integration/lib/fixture.sh
. tests/integration/lib/fixture.sh
page=${BUILD_ROOT:?}/docs/shmbroker.3

# One prototype per line, blanks squeezed.
prototypes() {
	tr -s ' \t\n' ' ' | sed 's/BROKER_API\|BROKER_MUST_USE\|static inline//g; s/) *[;{]/);\n/g' |
		grep -oE '(const )?(struct )?[a-z0-9_]+ \*?broker_[a-z0-9_]+ ?\(.*\);$' |
		sed 's/\([(]\) /\1/g; s/  */ /g' | sort -u
}

header=$(sed 's/^#.*//' client/shmbroker.h | sed -z 's:/\*\([^*]\|\*[^/]\)*\*/::g' | prototypes)
manual=$(sed -n '/^\.SH SYNOPSIS/,/^\.SH DESCRIPTION/{/^\./d;p}' "$page" | prototypes)
ok "prototypes were found in the header" test "$(wc -l <<<"$header")" -ge 45
while read -r line; do
	ok "the manual has $line" grep -qxF -- "$line" <<<"$manual"
done <<<"$header"
while read -r line; do
	ok "the header has $line" grep -qxF -- "$line" <<<"$header"
done <<<"$manual"
for name in $(grep -oE '^	BROKER_[A-Z0-9_]+' client/shmbroker.h | grep -v BROKER_OK); do
	ok "$name is explained" grep -qw -- "$name" "$page"
done
codes=$(sed -n 's/^BROKER_ERROR(\([A-Z_]*\), \([0-9]*\), .*/\1 \2/p' client/errors.def)
ok "the codes were found" test "$(wc -l <<<"$codes")" -ge 29
while read -r name number; do
	ok "BROKER_E_$name has its number" grep -qF "BROKER_E_$name \" (\\-$number)" "$page"
done <<<"$codes"

for page in "$BUILD_ROOT"/docs/*.[1-8] docs/man/*.[1-8]; do
	if command -v groff >/dev/null; then
		said=$(groff -man -ww -z -Tutf8 -K utf8 "$page" 2>&1)
		ok "$(basename "$page") is formatted without a warning" test -z "$said" ||
			sed 's/^/# /' <<<"$said"
	else
		tap_count=$((tap_count + 1))
		echo "ok $tap_count # SKIP no groff to format $(basename "$page")"
	fi
done
done_testing

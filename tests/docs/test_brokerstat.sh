#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_brokerstat.sh - brokerstat(1) and --help have every option, key, view, field of conditions and
# exit status that the program has, and no others.
set -u
cd "${SOURCE_ROOT:?}" || exit 1
# shellcheck source=tests/integration/lib/fixture.sh
. tests/integration/lib/fixture.sh
page=docs/man/brokerstat.1

# section NAME: its lines, requests and font changes taken out.
section() {
	sed -n "/^\.SH $1\$/,/^\.SH /p" $page | sed '1d;$d' |
		sed 's/\\-/-/g; s/\\f[A-Z]//g; s/\\e/\\/g; s/^\.[A-Z]* //; s/"//g; s/  */ /g'
}

help=$("${BROKERSTAT_BIN:?}" --help)
options=$(sed -n '/^static const struct option long_options/,/^};/s/^\t{"\([a-z-]*\)", [a-z_]*, NULL, \(.*\)},$/\1 \2/p' \
	tools/brokerstat.c)
manual=$(section OPTIONS)
in_options() {
	grep -qE -- "(^|[ ,])$1([ ,]|\$)" <<<"$manual"
}
in_help() {
	grep -qE -- "^  (.*[ ,])?$1([ ,]|\$)" <<<"$help"
}
ok "the options were found" test "$(wc -l <<<"$options")" -ge 25
while read -r name letter; do
	ok "--$name is in the manual" in_options "--$name"
	ok "--$name is in --help" in_help "--$name"
	letter=$(sed -n "s/^'\(.\)'\$/\1/p" <<<"$letter")
	if [ -n "$letter" ]; then
		ok "-$letter is in the manual, beside it" grep -qE -- "^-$letter , --$name( |\$)" \
			<<<"$manual"
		ok "-$letter is in --help, beside it" grep -qE -- "^  -$letter, --$name( |\$)" <<<"$help"
	fi
done <<<"$options"
for name in $(grep -oE '^(-. , )?--[a-z-]+' <<<"$manual" | grep -oE -- '--[a-z-]+$'); do
	ok "$name is an option" grep -qE "^${name#--} " <<<"$options"
done

screen=$(section "LIVE SCREEN")
keys=$(sed -n 's/^LIVE_KEY("\(.*\)", "\(.*\)")$/\1/p' tools/live_keys.def | sed 's/\\\\/\\/')
ok "the keys were found" test "$(wc -l <<<"$keys")" -ge 15
while IFS= read -r line; do
	ok "the keys $line are in the manual" grep -qxF -- "$line" <<<"$screen"
done <<<"$keys"
views=$(sed -n '/view_names\[VIEW_COUNT\]/,/;/p' tools/live_views.c | grep -oE '"[a-z]+"' | tr -d '"')
number=0
for view in $views; do
	ok "the view $number $view is in the manual" grep -qxF -- "$number $view" <<<"$screen"
	number=$((number + 1))
done
ok "the views were found" test $number = 7

statements=$(section STATEMENTS)
fields=$(sed -n 's/^\t\[FIELD_[A-Z]*\] *= {{"\([a-z]*\)",.*/\1/p' tools/slow_query.c)
ok "the fields were found" test "$(wc -l <<<"$fields")" -ge 15
for field in $fields; do
	ok "the field $field is in the manual" grep -qxF -- "$field" <<<"$statements"
	ok "the field $field is in --help" grep -qwF -- "$field" <<<"$help"
done

codes=$(sed -n '/^enum stat_exit/,/^};/s/^\tSTAT_[A-Z_]* = \([0-9]\),.*/\1/p' tools/brokerstat.h)
ok "the exit codes were found" test "$(wc -w <<<"$codes")" -ge 5
for code in $codes; do
	ok "exit status $code is in the manual" grep -qxF -- "$code" <<<"$(section "EXIT STATUS")"
	ok "exit status $code is in --help" grep -qE "(status: |; )$code |^version; $code " <<<"$help"
done
done_testing

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_links.sh - what the documentation links to is there: files, headings, and the decisions that
# comments name.
set -u
cd "${SOURCE_ROOT:?}" || exit 1
# shellcheck source=tests/integration/lib/fixture.sh
. tests/integration/lib/fixture.sh

# Anchors of a page, as GitHub makes them of headings.
anchors() {
	sed -n 's/^##* //p' "$1" | tr '[:upper:] ' '[:lower:]-' | sed 's/[^a-z0-9_-]//g'
}

for page in *.md docs/*.md docs/decisions/*.md; do
	while read -r link; do
		file=${link%%#*}
		target=${file:+$(dirname "$page")/$file}
		target=${target:-$page}
		ok "$page: $link is there" test -e "$target"
		if [ "$link" != "$file" ] && [ -e "$target" ]; then
			ok "$page: $link is a heading" grep -qxF -- "${link#*#}" <(anchors "$target")
		fi
	done < <(grep -oE '\]\([^) ]+\)' "$page" | sed 's/^](//; s/)$//' | grep -v '^https\?:')
done
while read -r decision; do
	ok "decision $decision, which the code names, is there" \
		grep -qF "docs/decisions/$decision" <(compgen -G "docs/decisions/$decision*.md")
done < <(grep -rhoE 'docs/decisions/[0-9]{4}' shm client broker tools | sed 's:.*/::' | sort -u)
ok "links were found" test $tap_count -ge 40
done_testing

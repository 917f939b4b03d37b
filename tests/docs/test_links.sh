#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_links.sh - what the documentation links to is there: files, headings, and the decisions that
# comments name.
set -u
cd "${SOURCE_ROOT:?}" || exit 1
n=0
failed=0

result() { # STATUS TEXT
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		failed=1
	fi
}

# Anchors of a page, as GitHub makes them of headings.
anchors() {
	sed -n 's/^##* //p' "$1" | tr '[:upper:] ' '[:lower:]-' | sed 's/[^a-z0-9_-]//g'
}

for page in *.md docs/*.md docs/decisions/*.md; do
	while read -r link; do
		file=${link%%#*}
		target=${file:+$(dirname "$page")/$file}
		target=${target:-$page}
		test -e "$target"
		result $? "$page: $link is there"
		if [ "$link" != "$file" ] && [ -e "$target" ]; then
			grep -qxF -- "${link#*#}" <(anchors "$target")
			result $? "$page: $link is a heading"
		fi
	done < <(grep -oE '\]\([^) ]+\)' "$page" | sed 's/^](//; s/)$//' | grep -v '^https\?:')
done
while read -r decision; do
	compgen -G "docs/decisions/$decision*.md" >/dev/null
	result $? "decision $decision, which the code names, is there"
done < <(grep -rhoE 'docs/decisions/[0-9]{4}' shm client broker tools | sed 's:.*/::' | sort -u)
test $n -ge 40
result $? "links were found"
echo "1..$n"
exit $failed

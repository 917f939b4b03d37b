#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_endpoints.sh - every path and every metric of the exporter stands in brokerstat(1), and the
# manual promises no others.
set -u
cd "${SOURCE_ROOT:?}" || exit 1
# shellcheck source=tests/integration/lib/fixture.sh
. tests/integration/lib/fixture.sh
page=docs/man/brokerstat.1

# The words of the section, font changes and quotes taken out.
words=$(sed -n '/^\.SH HTTP SERVICE/,/^\.SH EXIT STATUS/p' $page |
	sed 's/^\.[A-Z]* //; s/[",]/ /g; s/\\-/-/g; s/?.*//' | tr -s ' ' '\n')
in_page() {
	grep -qxF -- "$1" <<<"$words"
}

paths=$(sed -n 's/^\t{"\(\/[^"]*\)", answer_.*/\1/p' tools/exporter.c)
ok "the paths were found" test "$(wc -l <<<"$paths")" -ge 10
for path in $paths / /assets/; do
	ok "$path is documented" in_page "$path"
done
for path in $(grep -E '^/[a-z./]*$' <<<"$words" | sort -u); do
	case $path in
	/ | /assets/) ;;
	*) ok "$path is there" grep -qxF "$path" <<<"$paths" ;;
	esac
done

metrics=$(sed -n 's/^EXPORTER_METRIC([A-Z_]*, "\([a-z_]*\)".*/\1/p' tools/exporter.def)
ok "the metrics were found" test "$(wc -l <<<"$metrics")" -ge 10
for metric in $metrics; do
	ok "$metric is documented" in_page "$metric"
done
for metric in $(grep -E '^broker_' <<<"$words" | sort -u); do
	ok "$metric is there" grep -qxF "$metric" <<<"$metrics"
done
done_testing

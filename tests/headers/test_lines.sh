#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_lines.sh - how the sources are written, as far as a machine can see it: lines of at most 100
# columns (a tab is 8), nothing behind their ends, tabs in front, a licence and a purpose at the top.
set -u
cd "$(dirname "$0")/../.." || exit 99

mapfile -t sources < <(find broker client shm tests tools -name '*.[chl]' -o -name '*.def' | sort)
count=0
failed=0

# check TEXT LINES-THAT-MUST-NOT-BE
check() {
	count=$((count + 1))
	if [ -z "$2" ]; then
		echo "ok $count - $1"
	else
		failed=1
		echo "not ok $count - $1"
		head -20 <<<"$2" | sed 's/^/# /'
	fi
}

# Bytes that continue a character of UTF-8 take no column; a tab goes on to the next multiple of 8.
long_lines() {
	LC_ALL=C awk '{
		width = 0
		n = split($0, piece, "\t")
		for (i = 1; i <= n; i++) {
			gsub(/[\200-\277]/, "", piece[i])
			width += length(piece[i])
			if (i < n) {
				width += 8 - width % 8
			}
		}
		if (width > 100) {
			print FILENAME ":" FNR ": " width
		}
	}' "${sources[@]}"
}

headless() {
	LC_ALL=C awk '
		FNR == 1 {
			name = FILENAME
			sub(/.*\//, "", name)
			files++
		}
		FNR <= 2 && /SPDX-License-Identifier: MIT/ { licences++ }
		FNR <= 4 && index($0, name " - ") { purposes++; seen[FILENAME] = 1 }
		END {
			for (i = 1; i < ARGC; i++) {
				if (!(ARGV[i] in seen)) {
					print ARGV[i] ": no purpose"
				}
			}
			if (licences != files) {
				print files - licences " files without a licence"
			}
		}' "${sources[@]}"
}

check "there are sources to look at (${#sources[@]})" \
	"$([ "${#sources[@]}" -gt 300 ] || printf '%s\n' "${sources[@]}")"
check "no line is longer than 100 columns" "$(long_lines)"
check "no line ends in white space" "$(grep -nE '[[:space:]]$' "${sources[@]}")"
check "lines are indented by tabs" "$(grep -nE '^ {8}' "${sources[@]}" | grep -v '\.l:')"
check "every file names its licence and its purpose" "$(headless)"
echo "1..$count"
exit $failed

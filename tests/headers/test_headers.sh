#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_headers.sh - every header compiles alone, twice in a row, and reaches only the layers below it;
# the installed header also as strict C99 and as C++.
set -u
cd "$(dirname "$0")/../.." || exit 99

warnings="-Wall -Wextra -Werror -Wshadow -Wundef -Wstrict-prototypes -Wmissing-prototypes -Wvla
	-Wno-unused-parameter -D_GNU_SOURCE"
libraries=$(pkg-config --cflags libpq sqlite3 liburcu libuv inih jansson ncurses libmicrohttpd)
count=0
failed=0

result() { # RC TEXT OUTPUT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		failed=1
		echo "not ok $count - $2"
		sed 's/^/# /' <<<"$3"
	fi
}

# compile TEXT HEADER COMPILER FLAG...
compile() {
	local text=$1 header=$2 output rc
	shift 2
	output=$(printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
		"$@" -fsyntax-only - 2>&1)
	rc=$?
	result $rc "$text" "$output"
}

# layer DIR INCLUDE-DIR...
layer() {
	local dir=$1 header
	shift
	for header in "$dir"/*.h; do
		if [ -e "$header" ]; then
			# shellcheck disable=SC2086
			compile "$header" "${header##*/}" ${CC:-cc} -x c -std=gnu11 $warnings $libraries "$@"
		fi
	done
}

layer shm -Ishm
layer client -Iclient -Ishm
layer broker -Ibroker -Ishm -Iclient # errors.def is the one table of codes
layer tools -Itools -Iclient -Ishm
layer tests/tap -Itests/tap
layer tests/integration/lib -Itests/integration/lib -Itests/fault/lib -Itests/tap -Iclient -Ishm
layer tests/fault/lib -Itests/fault/lib -Itests/integration/lib -Ishm -Iclient
# sched.h is ours only between quotes
layer tests/model -iquote tests/model -Itests/tap -Ibroker -Ishm -Iclient

# shellcheck disable=SC2086
compile "client/shmbroker.h as C99" shmbroker.h ${CC:-cc} -x c -std=c99 -pedantic-errors -Wall \
	-Wextra -Werror -Iclient
for cxx in c++ clang++; do
	if command -v $cxx >/dev/null; then
		compile "client/shmbroker.h with $cxx" shmbroker.h $cxx -x c++ -std=c++11 \
			-pedantic-errors -Wall -Wextra -Werror -Iclient
	fi
done
echo "1..$count"
exit $failed

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_exports.sh - the library shows nothing but broker_*, and needs no database library.
set -u
lib=$(ls "$BUILD_ROOT"/client/libshmbroker.so.*.*.* | head -1)
n=0
check() { # DESCRIPTION OUTPUT-THAT-MUST-BE-EMPTY
	n=$((n + 1))
	if [ -z "$2" ]; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		printf '%s\n' "$2" | sed 's/^/# /'
	fi
}
exported=$(nm -D --defined-only "$lib" | awk '{print $3}' | sed 's/@.*//')
check "the library exports something" "$([ "$(printf '%s\n' "$exported" | grep -c '^broker_')" -gt 30 ] || echo "$exported")"
check "and only broker_*" "$(printf '%s\n' "$exported" | grep -v '^broker_' | grep -v '^SHMBROKER')"
check "it links no database library" "$(ldd "$lib" | grep -E 'libpq|sqlite|libuv|urcu')"
declared=$(grep -oE '\bbroker_[a-z0-9_]+\(' "$SOURCE_ROOT/client/shmbroker.h" | tr -d '(' | sort -u)
inline=$(grep -oE 'static inline struct broker_value broker_[a-z0-9_]+' "$SOURCE_ROOT/client/shmbroker.h" | awk '{print $NF}' | sort -u)
check "every function of the header is exported" "$(comm -23 <(comm -23 <(printf '%s\n' "$declared") <(printf '%s\n' "$inline")) <(printf '%s\n' "$exported" | sort -u))"
check "the sanitizer aside, nothing aborts or prints" "$(nm -D --undefined-only "$lib" | awk '{print $2}' | grep -E '^(abort|printf|puts|fprintf|exit|perror)(@|$)')"
echo "1..$n"

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_readme.sh - the program in README.md compiles as it stands there, runs below `broker run`, and is as
# short as it says; its configurations are good; the example server is not longer than it may be.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/lib/fixture.sh"

it_scratch
source=$scratch/hello.c
sed -n '/^```c$/,/^```$/p' "$SOURCE_ROOT/README.md" | sed '1d;$d' >"$source"
lines=$(grep -c . "$source")
ok "README.md has a program of some thirty lines ($lines)" test "$lines" -ge 20 -a "$lines" -le 32
# A library with a sanitizer wants programs that have it.
flags=
symbols=$(nm -D --undefined-only "$BUILD_ROOT/client/libshmbroker.so")
for name in address:__asan undefined:__ubsan thread:__tsan; do
	if grep -q "${name#*:}_" <<<"$symbols"; then
		flags="$flags -fsanitize=${name%:*}"
	fi
done
# shellcheck disable=SC2086
ok "it compiles" ${CC:-cc} -Wall -Wextra -Werror -std=gnu11 $flags -I"$SOURCE_ROOT/client" "$source" \
	-o "$scratch/hello" -L"$BUILD_ROOT/client" -lshmbroker
for name in $(compgen -e BROKER_); do
	case $name in
	*_BIN) ;;
	*) unset "$name" ;;
	esac
done
cd "$scratch" || exit 99
said=$(LD_LIBRARY_PATH=$BUILD_ROOT/client "$BROKER_BIN" run -- ./hello 2>err)
is "$said" "hello, world" "it says hello" || diag "$(cat err)"
ok "the database is in the working directory" test -s shmbroker.db
# Each block of the configuration is a whole one.
awk '/^```ini$/ { n++; inside = 1; next } /^```$/ { inside = 0 } inside { print > n ".ini" }' \
	"$SOURCE_ROOT/README.md"
for file in 1.ini 2.ini; do
	ok "the broker takes the configuration in $file" "$BROKER_BIN" --check-config --config "$file"
done
lines=$(wc -l <"$SOURCE_ROOT/client/examples/prefork_httpd.c")
ok "the example server has at most 400 lines ($lines)" test "$lines" -le 400
done_testing

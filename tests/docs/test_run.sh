#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_run.sh - tests/run, on a small project of its own: what it counts, which programs get a second
# attempt, and that none of those that need it is hidden.
# shellcheck source=tests/integration/lib/fixture.sh
. "$(dirname "$0")/../integration/lib/fixture.sh"

it_scratch
project=$scratch/project
mkdir -p "$project/tests" "$project/tools"
cp "$SOURCE_ROOT/tests/run" "$SOURCE_ROOT/tests/attempts.py" "$project/tests"
printf '#!/bin/sh\n' >"$project/tools/install-deps"
chmod +x "$project/tools/install-deps"

# What the programs of the project do; their name is their first argument.
cat >"$project/program" <<'END'
first=1
if [ -e "seen-$1" ]; then
	first=0
fi
: >"seen-$1"
echo "ok 1 - $1 begins"
case $1 in
good*) echo 'ok 2 # SKIP there is none' ;;
once*)
	if [ $first = 1 ]; then
		printf 'not ok 2 - %s in time\n#   1200 ms late\n' "$1"
	else
		echo "ok 2 - $1 in time"
	fi
	;;
twice*) printf 'not ok 2 - %s in time\nok 3 - and more\n' "$1" ;;
dies*) [ $first = 0 ] || kill -SEGV $$ ;;
finding*) [ $first = 0 ] || printf 'WARNING: ThreadSanitizer: data race\nnot ok 2 - no finding\n' ;;
short*) [ $first = 0 ] || exit 3 ;;
esac
case $1 in
good* | once* | finding*) echo 1..2 ;;
twice*) echo 1..3 ;;
*) echo 1..1 ;;
esac
END

# try SUITE/PROGRAM...: a run with these; leaves its output in $out and the status in $status
try() {
	local name
	rm -rf "$project/build" "$project"/seen-*
	{
		echo "project('scratch', version: '1')"
		echo "bash = find_program('bash')"
		for name; do
			echo "test('${name#*/}', bash, args: [files('program'), '${name#*/}'], protocol: 'tap'," \
				"suite: '${name%/*}'.split('+'), workdir: meson.current_source_dir())"
		done
	} >"$project/meson.build"
	"$project/tests/run" --suite unit --suite integration --suite fault --suite model >"$scratch/out" 2>&1
	status=$?
	out=$(cat "$scratch/out")
}

totals() {
	tail -n 1 <<<"$out"
}

# The lines of a section, to the next one.
section() {
	sed -n "/^$1/,/^[A-Z=0-9]/p" <<<"$out"
}

says() {
	grep -qE -- "$1" <<<"$out" || { diag "no $1 in:" && diag "$out" && return 1; }
}

says_nothing_of() {
	! says "$1" >/dev/null || { diag "$1 in:" && diag "$out" && return 1; }
}

try unit/good integration/good
is "$(totals)" '2 passed, 0 failed' "checks are counted"
ok "skipped ones apart" says '^2 skipped$'
is $status 0 "nothing failed"
ok "so nothing is said of it" says_nothing_of 'failed:|Failed|What failed'

try unit/good integration+slow/once-a fault+threads/short
is "$(totals)" '4 passed, 0 failed' "what fails beside others and passes alone counts as it did alone"
is $status 0 "and is no failure"
ok "but it is said" says '^Failed beside others, passed alone:$'
like "$(section 'Failed beside others')" 'build: scratch:integration\+slow / once-a' "of which program"
like "$(section 'Failed beside others')" 'failed: once-a in time' "of which checks"
like "$(section 'Failed beside others')" '#   1200 ms late' "and why"
like "$(section 'Failed beside others')" 'scratch:fault\+threads / short' "also of one that ended too early"
ok "without what looks like a failure" says_nothing_of '^ *not ok'

try unit/good integration/twice fault/once-a
is "$(totals)" '5 passed, 1 failed' "what fails twice has failed"
is $status 1 "and so has the run"
like "$(section 'What failed')" 'not ok 2 - twice in time' "it is said which check"
like "$(section '== the end of')" '^ok 3 - and more' "with the end of its log"
like "$(section 'What failed')" 'twice: beside others, and alone' "and that it failed twice"
like "$(section 'Failed beside others')" 'once-a' "beside those that did not"

try unit/once-u model/once-m integration+unit/once-b
is "$(totals)" '3 passed, 3 failed' "what depends on no time has no second attempt"
ok "it is not tried" says_nothing_of 'Failed beside others'
try fault/dies integration/finding
is "$(totals)" '2 passed, 2 failed' "nor has a crash, or what a sanitizer found"
try integration/once-a integration/once-b fault/once-c integration/once-d
is "$(totals)" '4 passed, 4 failed' "nor has anything if more than three programs failed"
ok "all of them are told" test "$(section 'What failed' | grep -c 'not ok 2 - once-[abcd] in time')" = 4
ok "the help says so" grep -qF 'unless more than three' <<<"$("$project/tests/run" --help)"
done_testing

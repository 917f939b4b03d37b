#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_main.sh - the command line of the broker: what it prints and the statuses it promises.
set -u

broker=${BROKER_BIN:?path of the broker}
manual=${BUILD_ROOT:?root of the build}/docs/broker.8
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
for name in $(compgen -e BROKER_); do
	[ "$name" = BROKER_BIN ] || unset "$name"
done
count=0

ok() { # STATUS WHAT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		sed 's/^/# /' out err
	fi
}

run() { # ARGUMENT...
	timeout 30 "$broker" "$@" >out 2>err </dev/null
	status=$?
}

# expect STATUS TEXT ARGUMENT... - TEXT must be in what is printed
expect() {
	local want=$1 text=$2
	shift 2
	run "$@"
	[ "$status" = "$want" ] && grep -qF -e "$text" out err
	ok $? "broker $*: $want, $text"
}

expect 0 "Usage: broker run" --help
expect 0 "Usage: broker run" run -h
expect 0 "broker 0." --version
expect 0 "max_size: number" --help-config
expect 0 "[pool main]" --print-config
expect 0 "max_workers = 7" --print-config --set broker.max_workers=7
expect 0 "file: none" --check-config
expect 0 "max_connections allows 9" --check-config -d host=h -s 'server local.max_connections=9'
expect 0 "url = postgresql://u:********@h/d" -d postgresql://u:hush@h/d --print-config
expect 0 "log_level = debug" -v --print-config

expect 2 "say what to do: run or serve"
expect 2 "there is no command 'start'" start
expect 2 "there is no option --nonsense" --nonsense
expect 2 "there is no option -x" run -x
expect 2 "option --config needs a value" serve --config
expect 2 "option -s needs a value" serve -s
expect 2 "--config is given twice" serve -c a -c b
expect 2 "run needs a command" run
expect 2 "run needs a command" run --
expect 2 "serve takes no command, but there is 'x'" serve x
expect 2 "'99' is no open descriptor" serve --ready-fd 99
expect 2 "'1x' is no open descriptor" serve --listen-fd 1x
expect 2 "belong to serve" run --ready-fd 1 -- true

expect 78 "none.ini: cannot read the configuration file" -c none.ini --check-config
expect 78 "[broker] has no option 'x'" serve -s broker.x=1
expect 78 "nothing was started" run -s broker.x=1 -- touch started
[ ! -e started ]
ok $? "a wrong configuration starts no command"
expect 78 "write 'pool main.max_size=5'" --check-config -s pool.main.max_size=5
BROKER_BROKER_MAX_WORKERS=0 expect 78 "BROKER_BROKER_MAX_WORKERS: " --check-config

printf '[broker]\nmax_workers = 9\n' >shmbroker.ini
expect 0 "max_workers = 9" --print-config
expect 0 "file: shmbroker.ini" --check-config
rm shmbroker.ini

"$broker" --print-config >/dev/full 2>err
[ $? = 1 ]
ok $? "output that cannot be written is a failure"

# Every option of --help stands in the manual, and the other way round.
"$broker" --help | grep -o -e '--[a-z][a-z-]*' | sort -u >out
sed 's/\\-/-/g' "$manual" | grep -o -e '--[a-z][a-z-]*' | sort -u >err
cmp -s out err
ok $? "--help and broker(8) have the same options"

# A round trip through the file format.
"$broker" --print-config >first.ini && "$broker" -c first.ini --print-config >second.ini
tail -n +2 first.ini >out
tail -n +2 second.ini >err
cmp -s out err
ok $? "--print-config prints a configuration that loads to the same"

echo "1..$count"

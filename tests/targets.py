# SPDX-License-Identifier: MIT
"""targets.py BUILD ARGUMENT... - what `meson test ARGUMENT...` needs of a build, as targets for ninja:
everything but the programs of other tests.  The arguments are --suite=NAME and --no-suite=NAME.
"""

import json
import os
import subprocess
import sys


def introspect(build, what):
    return json.loads(subprocess.check_output(["meson", "introspect", build, "--" + what]))


def is_chosen(test, with_suites, without):
    suites = {s.partition(":")[2] for s in test["suite"]}
    return (not with_suites or suites & with_suites) and not suites & without


def main():
    build, chosen = os.path.realpath(sys.argv[1]), {"--suite": set(), "--no-suite": set()}
    for arg in sys.argv[2:]:
        option, _, name = arg.partition("=")
        chosen[option].add(name)
    needed, unneeded = set(), set()
    for test in introspect(build, "tests"):
        programs = needed if is_chosen(test, chosen["--suite"], chosen["--no-suite"]) else unneeded
        programs.add(os.path.realpath(test["cmd"][0]))
    for target in introspect(build, "targets"):
        if target["build_by_default"]:
            for file in target["filename"]:
                if file in needed or file not in unneeded:
                    print(os.path.relpath(file, build))


main()

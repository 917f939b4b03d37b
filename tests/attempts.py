# SPDX-License-Identifier: MIT
"""attempts.py - what became of the tests that tests/run ran, and which of them get a second attempt.

    attempts.py note STATE BUILD LOG      take in the results of a `meson test` (its .json log); prints
                                          how many programs failed
    attempts.py again STATE               programs that are to be run once more, alone: lines of BUILD,
                                          TEST_QUICK of its first attempt ("-": not set), SUITE, NAME
    attempts.py report STATE NUMBERS      print what failed; the numbers of checks that passed, failed and
                                          were skipped go to the file NUMBERS

STATE is a file with a line for each program and attempt; the last one of a program counts.
"""

import json
import os
import re
import sys

# Those that start servers and depend on time; whatever is in one of the others as well never gets a second
# attempt.
TIMED = {"fault", "integration", "long", "slow", "threads"}
EXACT = {"unit", "model", "headers", "docs", "fuzz"}
MOST = 3  # more than that is no accident
LINES = 100  # of a log
# Lack of time makes none of these: what a sanitizer says, a crash.
FINDING = re.compile(r"(Address|Leak|Thread|UndefinedBehavior)Sanitizer|runtime error: |[Aa]ssertion .*failed")


def checks_of(test):
    """(passed, skipped, texts of what failed) of one program."""
    output = test.get("stdout", "")
    passed = skipped = 0
    bad = []
    for check in re.finditer(r"(?m)^(not ok|ok)\b([^\n]*(?:\n#[^\n]*)*)", output):
        if check[1] == "not ok":
            bad.append(check[0])
        elif re.search(r"#\s*skip", check[2].partition("\n")[0], re.I):
            skipped += 1
        else:
            passed += 1
    if not bad and test["result"] not in ("OK", "SKIP"):
        tail = (output + test.get("stderr", "")).splitlines()[-15:]
        bad = ["\n".join([test["result"]] + tail)]
    return passed, skipped, bad


def note(state, build, log):
    failed = 0
    with open(log, encoding="utf-8", errors="replace") as results, \
            open(state, "a", encoding="utf-8") as out:
        for line in results:
            test = json.loads(line)
            passed, skipped, bad = checks_of(test)
            text = test.get("stdout", "") + test.get("stderr", "") if bad else ""
            crashed = test["returncode"] < 0 and test["result"] != "TIMEOUT"
            failed += bool(bad)
            print(json.dumps({
                "build": build, "test": test["name"], "quick": os.environ.get("TEST_QUICK", "-"),
                "passed": passed, "skipped": skipped, "bad": bad, "log": text.splitlines()[-LINES:],
                "sure": crashed or FINDING.search(text) is not None}), file=out)
    print(failed)


def load(state):
    """Attempts by program, in the order of the first ones."""
    programs = {}
    if os.path.exists(state):
        with open(state, encoding="utf-8") as lines:
            for line in lines:
                attempt = json.loads(line)
                programs.setdefault((attempt["build"], attempt["test"]), []).append(attempt)
    return programs


def suites_and_name(test):
    """Of "project:suite+suite / name", as meson calls it."""
    suites, _, name = test.rpartition(" / ")
    return suites.rpartition(":")[2].split("+"), name


def may_be_chance(attempt):
    suites = set(suites_and_name(attempt["test"])[0])
    return bool(suites & TIMED) and not suites & EXACT and not attempt["sure"]


def again(state):
    failed = [a[-1] for a in load(state).values() if a[-1]["bad"]]
    timed = [a for a in failed if may_be_chance(a)]
    if len(timed) > MOST:
        return
    for attempt in timed:
        suites, name = suites_and_name(attempt["test"])
        print(attempt["build"], attempt["quick"], suites[0], name)


def harmless(text):
    """What is shown of checks that counted for nothing must not look as if they did."""
    return re.sub(r"(?m)^not ok\b( \d+)?( -)?", "failed:", text)


def show(attempt, texts, count):
    lines = [attempt["build"] + ": " + attempt["test"]]
    for text in texts[:count]:
        lines += text.splitlines()[:16]
    if len(texts) > count:
        lines.append("and %d more" % (len(texts) - count))
    print("\n    ".join(line[:300] for line in lines))


def report(state, numbers):
    programs = load(state).values()
    failed = [a for a in programs if a[-1]["bad"]]
    mended = [a for a in programs if not a[-1]["bad"] and a[0]["bad"]]
    for attempts in failed:
        print("== the end of %s: %s" % (attempts[-1]["build"], attempts[-1]["test"]))
        print("\n".join(attempts[-1]["log"]))
    if failed:
        print("What failed:")
    for attempts in failed:
        show(attempts[-1], attempts[-1]["bad"], 5)
        if len(attempts) > 1:
            print("    (twice: beside others, and alone)")
    if mended:
        print("Failed beside others, passed alone:")
    for attempts in mended:
        show(attempts[0], [harmless(text) for text in attempts[0]["bad"]], 20)
    with open(numbers, "w", encoding="utf-8") as out:
        print(sum(a[-1]["passed"] for a in programs), sum(len(a[-1]["bad"]) for a in programs),
              sum(a[-1]["skipped"] for a in programs), file=out)


if __name__ == "__main__":
    {"note": note, "again": again, "report": report}[sys.argv[1]](*sys.argv[2:])

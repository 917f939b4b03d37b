# SPDX-License-Identifier: MIT
"""dashboard_failover.py - the dashboard while a primary dies and its standby is promoted:
dashboard_failover.py SCREENSHOTS

Clusters and broker are started through itctl, which ends them when this process ends.
"""

import os
import subprocess
import sys
import time

from browser import Browser, die_with_parent
from dashboard import PATIENCE, SOON, ROW, Exporter, Tap, Worker

# A cell of the row of the servers' or pools' table whose first cell is a name.
CELL = """
    const [table, name, title] = arguments;
    const titles = [...document.querySelectorAll('#' + table + ' th')].map((th) => th.textContent.trim());
    const row = [...document.querySelectorAll('#' + table + ' tbody tr')].find(
        (tr) => tr.cells[0].textContent === name);
    return row === undefined ? null : row.cells[titles.indexOf(title)].textContent;
"""
CELL_IS = CELL.replace("return row === undefined ? null : ", "return row !== undefined && ").replace(
    ".textContent;\n", ".textContent === arguments[3];\n")
CHANGE = """
    return [...document.querySelectorAll('#timeline li')].some(
        (li) => li.textContent.includes(arguments[0]));
"""


class Fixture:
    """Clusters and brokers; see itctl.c."""

    def __init__(self):
        self.process = subprocess.Popen([os.environ["IT_CTL"]], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)

    def __call__(self, *words):
        self.process.stdin.write("\t".join(words) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ok"):
                return line.rstrip("\n").split("\t")[1:]
            print(line, end="")
            if line.startswith("Bail out!"):
                sys.exit(99)
        sys.exit("the fixture program ended")

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def shows(t, b, since, text, *cell):
    """The page shows a cell within two seconds of what made it so."""
    waited = b.wait_until(CELL_IS, PATIENCE, *cell)
    took = time.monotonic() - since
    t.within(took if waited is not None else None, SOON, "%s (%.2f s)" % (text, took))


def write_again(worker, seconds):
    """Write until it works; how long that took, or None."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if worker.tell("exec", "POST /order", "INSERT INTO t VALUES (2)") == "ok":
            return time.monotonic() - start
    return None


def test_before(t, b):
    t.within(b.wait_until(CELL_IS, PATIENCE, "t-servers", "a", "Role", "primary"), PATIENCE, "a is the primary")
    t.within(b.wait_until(CELL_IS, PATIENCE, "t-servers", "b", "Role", "standby"), PATIENCE, "b is its standby")
    t.within(b.wait_until(CELL_IS, PATIENCE, "t-servers", "a", "Verdict", "up"), PATIENCE, "both are up")
    t.within(b.wait_until(CELL_IS, PATIENCE, "t-servers", "b", "Verdict", "up"), PATIENCE, "the standby, too")
    t.within(b.wait_until(CELL_IS, PATIENCE, "t-pools", "main", "Server", "a"), PATIENCE, "writes go to a")


def test_primary_dies(t, b, fixture, primary):
    fixture("pg_stop", primary, "kill")
    killed = time.monotonic()
    shows(t, b, killed, "its death is shown within two seconds", "t-servers", "a", "Verdict", "down")
    t.ok(b.run(CELL, "t-servers", "a", "Last error") != "", "with a reason")
    t.within(b.wait_until(CHANGE, SOON, "server a: down"), SOON, "and among the changes")
    t.ok(b.run(CELL, "t-pools", "main", "State") != "up", "the pool is not well")


def test_standby_takes_over(t, b, fixture, standby, worker):
    fixture("pg_promote", standby)
    promoted = time.monotonic()
    shows(t, b, promoted, "the new primary is shown within two seconds", "t-servers", "b", "Role", "primary")
    shows(t, b, promoted, "and that writes go there", "t-pools", "main", "Server", "b")
    t.within(b.wait_until(CHANGE, SOON, "server b: was standby, is primary"), SOON, "the change of roles")
    t.within(b.wait_until(CHANGE, SOON, "failover"), SOON, "and the failover are among the changes")
    t.ok(b.run("return [...document.querySelectorAll('#timeline li time')].every((e) => e.dateTime)"),
         "each with its time")
    t.ok(b.run(ROW, "t-events", "failover"), "and among the events")
    t.within(write_again(worker, PATIENCE), PATIENCE, "workers write again")


def main():
    shots = sys.argv[1]
    t = Tap()
    fixture = Fixture()
    scratch = fixture("scratch")[0]
    primary, url_a = fixture("pg_start")[:2]
    standby, url_b = fixture("pg_standby", primary)[:2]
    sock = fixture("broker_start", "-", "server a.url=" + url_a, "server b.url=" + url_b,
                   "server a.health_interval=100ms", "server b.health_interval=100ms",
                   "pool main.servers=a, b")[1]
    exporter = Exporter(sock)
    worker = Worker(sock, "shop")
    t.equal(worker.tell("exec", "POST /order", "CREATE TABLE t (a int)"), "ok", "a worker writes")
    profile = os.path.join(scratch, "browser")
    os.mkdir(profile)
    try:
        with Browser(profile) as b:
            b.open(exporter.url)
            b.emulate("light")
            test_before(t, b)
            test_primary_dies(t, b, fixture, primary)
            test_standby_takes_over(t, b, fixture, standby, worker)
            t.equal(b.messages(), [], "the console stayed empty")
            b.screenshot(os.path.join(shots, "failover.png"), whole=True)
    finally:
        worker.end()
        exporter.stop()
        if t.failed:
            fixture("show_logs")
        fixture.end()
    print("1..%d" % t.count)
    return 1 if t.failed else 0


sys.exit(main())

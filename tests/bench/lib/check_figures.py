# SPDX-License-Identifier: MIT
"""Tests of figures, plan, page and svg, in TAP: ratios of results made by hand."""

import os
import sys
import tempfile
import types
import xml.dom.minidom

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import figures  # noqa: E402
import page  # noqa: E402
import plan  # noqa: E402
import svg  # noqa: E402

count = failed = 0


def ok(condition, text):
    global count, failed
    count += 1
    failed += not condition
    print(f"{'ok' if condition else 'not ok'} {count} - {text}")


def near(a, b):
    return a is not None and abs(a - b) < 1e-9 * max(1, abs(b))


def run(series, workers, contender, rate, p50=0.001, p99=0.002, worker_cpu=0.01, number=0):
    return {
        "series": series, "workers": workers, "contender": contender, "round": number,
        "rate": rate, "statements": 1000, "errors": 0, "workers_gave_up": 0, "backends": 8,
        "protocol": None, "others_cpus": 0.0,
        "latency": {"p50": p50, "p90": p50, "p99": p99, "p999": p99, "max": p99},
        "cpu_per_1000": {"workers": worker_cpu, "middle": None, "database": 0.02, "all": 0.03},
        "switches_per_statement": {"all": 2.0},
        "pss_kib": {"workers": 1, "middle": None, "database": 2048},
        "metrics": {'broker_flushes_total{pool="main"}': 500.0, "broker_wakes_sent_total": 0.0},
    }


def check_medians():
    ok(figures.median([3, 1, 2]) == 2, "median of three")
    ok(figures.median([None, 4, 2]) == 3, "what is not known is not counted")
    ok(figures.median([None]) is None, "nothing known, no median")
    runs = [run("point", 8, "broker", r, number=i) for i, r in enumerate((100, 900, 110))]
    c = figures.cells(runs)[("point", 8, "broker")]
    ok(c.rate == 110 and c.rate_low == 100 and c.rate_high == 900 and c.rounds == 3,
       "one disturbed round of three does not change the median")
    ok(c.cpu["middle"] is None and near(c.cpu["database"], 0.02), "parts that are not there")
    ok(near(c.metrics['broker_flushes_total{pool="main"}'], 0.5), "counters are per statement")


def check_ratios():
    runs = [
        run("point", 64, "broker", 50, p99=0.004), run("point", 64, "libpq", 20, p99=0.010),
        run("point", 64, "broker-undeclared", 10),
        run("point", 1, "broker", 5, p50=0.0002), run("point", 1, "libpq", 10, p50=0.0001),
        run("lease", 1, "broker", 1e6, worker_cpu=0.001),
        run("blob", 4, "libpq", 7),
    ]
    found = dict(figures.ratios(figures.cells(runs)))
    ok(near(found["point.64.libpq"], 2.5), "throughput is ours by theirs")
    ok(near(found["point.64.p99.libpq"], 2.5), "times are theirs by ours")
    ok(near(found["point.1.latency.libpq"], 0.5), "with few workers the median time counts")
    ok("point.64.latency.libpq" not in found and "point.1.p99.libpq" not in found,
       "each where it says something")
    ok(near(found["lease.1.budget"], 2.0), "1 us of CPU for a lease is half of what is allowed")
    ok(not any("undeclared" in n for n in found), "variants of our own are no contenders")
    ok("blob.4.libpq" not in found, "no ratio without both sides")


def check_verdicts():
    table = figures.verdicts([("point.64.libpq", 2.0)])
    names = [v[0] for v in table]
    ok(len(names) == len(set(names)) == len(plan.TARGETS), "every target has one verdict")
    ok(table[0][2:] == (2.5, 2.0) and table[1][3] is None, "with what was measured, or without")


def full_round(short):
    return [run(s.name, n, c, 100) for s in plan.all_series(8) for n, c in s.runs(short)]


def check_plan():
    found = dict(figures.ratios(figures.cells(full_round(False))))
    missing = [t[0] for t in plan.TARGETS if t[0] not in found]
    ok(not missing, "a full run measures every target" + (f", not {missing}" if missing else ""))
    short = full_round(True)
    ok(0 < len(short) <= 30, "a short run is short")
    ok(not any("-" in r["contender"] for r in short), "and has no variants")
    sizes = [s.pool for s in plan.all_series(4) if s.name.startswith("point-pool")]
    ok(sizes == [2, 16], "other sizes of the pool are others than the ordinary one")
    few = [s.name for s in plan.all_series(4) if s.name.startswith(("write-", "tpcb-"))]
    ok(few == ["write-pool4", "tpcb-pool4"], "writes are measured with few connections, too")
    names = [s.name for s in plan.all_series(plan.WRITE_POOL)]
    ok(len(names) == len(set(names)), "no series is there twice")


def check_page():
    context = types.SimpleNamespace(
        series={s.name: s for s in plan.all_series(8)}, commands={("point", "broker"): "bench"},
        results=full_round(False), table=figures.cells(full_round(False)), root=".",
        arguments=types.SimpleNamespace(rounds=3, seconds=2, warmup=0.5, scale=10, pool=8, set=[],
                                        build="/nonexistent"),
        postgres=types.SimpleNamespace(version="PostgreSQL", settings={}))
    context.ratios = figures.ratios(context.table)
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, page.PAGE)
        page.write(context, d)
        with open(path) as f:
            text = f.read()
        ok(all(f"`{t[0]}`" in text for t in plan.TARGETS), "the page has every target")
        ok("missed by" in text and "reached" in text, "and says which were missed")
        ok(all(f"Series `{s.name}`" in text for s in plan.all_series(8)), "and every series")
        ok("`broker_flushes_total`" in text and "wakes" not in text,
           "and the counters that counted anything, without the pool's name")
        text = text.replace(page.NO_NOTES, "Written\n\nby people.")
        with open(path, "w") as f:
            f.write(text)
        page.write(context, d)
        with open(path) as f:
            again = f.read()
        ok(again == text, "what people wrote is kept when the page is made anew")
        ok(page.notes_of(os.path.join(d, "none")) == page.NO_NOTES, "or there is nothing to keep")
        plot = xml.dom.minidom.parse(os.path.join(d, page.PLOT))
        ok(len(plot.getElementsByTagName("polyline")) == 6, "the plot has three lines in two panels")


def check_plot():
    ok("polyline" not in svg.plot({}), "a plot of nothing is empty, not an error")
    table = figures.cells([run("point", 1, "broker", 12345, p99=1e-4)])
    drawing = xml.dom.minidom.parseString(svg.plot(table))
    ok(len(drawing.getElementsByTagName("circle")) == 2, "one point in each panel")
    ok("12.3k" in svg.plot(table), "with its value to be read")


for check in (check_medians, check_ratios, check_verdicts, check_plan, check_page, check_plot):
    check()
print(f"1..{count}")
sys.exit(failed != 0)

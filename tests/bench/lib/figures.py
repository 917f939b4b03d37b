# SPDX-License-Identifier: MIT
"""Medians and ratios of what brokerbench printed.  Arithmetic only; check_figures.py tests it."""

import dataclasses
import statistics

import plan

LATENCY_WORKERS = 2  # up to so many, the time of a statement says more than throughput
TAIL_SERIES = ("point", "mix")


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


@dataclasses.dataclass
class Cell:
    """One contender at one number of workers: medians over the rounds."""

    series: str
    workers: int
    contender: str
    rounds: int
    rate: float
    rate_low: float
    rate_high: float
    latency: dict  # p50, p90, p99, p999, max: seconds
    cpu: dict  # workers, middle, database, all: seconds per 1,000 statements, or None
    switches: float
    memory: dict  # KiB by part, or None
    backends: float
    errors: int
    protocol: str
    metrics: dict  # of the broker: growth per statement


def _medians(runs, path):
    """{key: median} of the objects found under path in each run."""
    keys = []
    for r in runs:
        keys += [k for k in r[path] if k not in keys]
    return {k: median([r[path].get(k) for r in runs]) for k in keys}


def _per_statement(runs):
    out = {}
    for name in {n for r in runs for n in r["metrics"]}:
        out[name] = median([r["metrics"].get(name, 0) / r["statements"]
                            for r in runs if r["statements"]])
    return out


def cell(series, workers, contender, runs):
    rates = [r["rate"] for r in runs]
    return Cell(
        series, workers, contender, len(runs), median(rates), min(rates), max(rates),
        _medians(runs, "latency"), _medians(runs, "cpu_per_1000"),
        median([r["switches_per_statement"]["all"] for r in runs]),
        _medians(runs, "pss_kib"), median([r["backends"] for r in runs]),
        sum(r["errors"] + r["workers_gave_up"] for r in runs), runs[0]["protocol"] or "",
        _per_statement(runs))


def cells(runs):
    """{(series, workers, contender): Cell}; runs have these three as members, too."""
    groups = {}
    for r in runs:
        groups.setdefault((r["series"], r["workers"], r["contender"]), []).append(r)
    return {k: cell(*k, v) for k, v in groups.items()}


def _divide(a, b):
    return a / b if a and b else None


def ratios(table):
    """[(name, value)]: throughput ours by theirs, times theirs by ours; above 1 is better."""
    out = []
    for (series, workers, contender), theirs in table.items():
        ours = table.get((series, workers, "broker"))
        if ours is None or contender.startswith("broker"):
            continue
        base = f"{series}.{workers}"
        out.append((f"{base}.{contender}", _divide(ours.rate, theirs.rate)))
        if workers <= LATENCY_WORKERS:
            out.append((f"{base}.latency.{contender}",
                        _divide(theirs.latency["p50"], ours.latency["p50"])))
        if series in TAIL_SERIES and workers > LATENCY_WORKERS:
            out.append((f"{base}.p99.{contender}",
                        _divide(theirs.latency["p99"], ours.latency["p99"])))
    lease = table.get(("lease", 1, "broker"))
    if lease is not None:
        out.append(("lease.1.budget",
                    _divide(plan.LEASE_BUDGET_SECONDS * 1000, lease.cpu["workers"])))
    return [(name, value) for name, value in out if value is not None]


def verdicts(found):
    """[(name, what, wanted, got or None)] for every target."""
    values = dict(found)
    return [(name, what, least, values.get(name)) for name, least, what in plan.TARGETS]

# SPDX-License-Identifier: MIT
"""Results as text for a terminal, and as docs/benchmarks.md.

What people write between the lines <!-- notes --> and <!-- /notes --> of the page is kept when the
page is made anew.
"""

import dataclasses
import json
import os
import platform
import re
import subprocess

import figures
import plan
import svg

NOTES = ("<!-- notes -->", "<!-- /notes -->")
NO_NOTES = "(nothing yet)"
PAGE, PLOT = "benchmarks.md", "benchmarks.svg"
NOISE_LIMIT = 0.1  # CPUs busy with something else: from here on the page says so

# Counters that show how statements travel; those that a broker does not have are left out.
COUNTERS = re.compile(
    r"^broker_(flushes|shared_sends|retries|wakes_sent|bells_received|loop_turns|"
    r"(read_|)groups?(_statements|_commits|)|prepared|waits|leases_granted)_total")


@dataclasses.dataclass
class Context:
    root: str
    arguments: object
    postgres: object
    commands: dict
    series: dict
    results: list
    table: dict
    ratios: list


# -- numbers ---------------------------------------------------------------------------------------


def number(v):
    if v is None:
        return "–"
    if v >= 1000:
        return f"{v:,.0f}"
    return f"{v:.3g}"


def milliseconds(v):
    return "–" if v is None else f"{v * 1000:.3g}"


def megabytes(kib):
    return "–" if kib is None else f"{kib / 1024:.0f}"


HEADINGS = ("workers", "contender", "statements/s", "lowest–highest", "p50 ms", "p90 ms", "p99 ms",
            "p99.9 ms", "CPU ms", "workers", "middle", "database", "switches", "backends", "MB",
            "errors")


def row(cell):
    name = cell.contender + (f" ({cell.protocol})" if cell.protocol not in ("", "prepared") else "")
    cpu, memory = cell.cpu, cell.memory
    return ([str(cell.workers), name, number(cell.rate),
             f"{number(cell.rate_low)}–{number(cell.rate_high)}"] +
            [milliseconds(cell.latency[k]) for k in ("p50", "p90", "p99", "p999")] +
            [milliseconds(cpu[k]) for k in ("all", "workers", "middle", "database")] +
            [f"{cell.switches:.2f}", "–" if cell.backends is None else f"{cell.backends:.0f}",
             megabytes(memory.get("database")), str(cell.errors)])


def rows_of(context, name):
    return [row(c) for (series, _, _), c in context.table.items() if series == name]


def present(context):
    return [s for n, s in context.series.items() if any(k[0] == n for k in context.table)]


# -- text ------------------------------------------------------------------------------------------


def text_tables(context):
    out = []
    for s in present(context):
        table = [HEADINGS] + rows_of(context, s.name)
        widths = [max(len(r[i]) for r in table) for i in range(len(HEADINGS))]
        out.append(f"\n{s.title} [{s.name}]")
        for r in table:
            out.append("  ".join(v.ljust(w) if i == 1 else v.rjust(w)
                                 for i, (v, w) in enumerate(zip(r, widths))))
    out.append("")
    for name, what, least, got in figures.verdicts(context.ratios):
        if got is not None:
            state = "reached" if got >= least else "MISSED "
            out.append(f"{state} {name}: {got:.2f}, wanted {least:g} ({what})")
    return "\n".join(out)


# -- the page --------------------------------------------------------------------------------------


def markdown(headings, rows, right=()):
    line = "|" + "|".join(headings) + "|"
    rule = "|" + "|".join("---:" if i in right else "---" for i in range(len(headings))) + "|"
    return "\n".join([line, rule] + ["|" + "|".join(r) + "|" for r in rows])


def verdict_table(context):
    rows = []
    for name, what, least, got in figures.verdicts(context.ratios):
        if got is None:
            verdict = "not measured"
        elif got >= least:
            verdict = "reached"
        else:
            verdict = f"missed by {(1 - got / least) * 100:.0f} %"
        rows.append([f"`{name}`", what, f"{least:g}", "–" if got is None else f"{got:.2f}", verdict])
    return markdown(("ratio", "of what", "at least", "measured", ""), rows, (2, 3))


def _first_line(argv, cwd=None):
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError:
        return "not found"
    return (done.stdout or done.stderr).strip().split("\n")[0]


def _cpu_model():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory_gib():
    with open("/proc/meminfo") as f:
        return int(f.readline().split()[1]) / 1024 / 1024


def _program(name):
    import servers

    try:
        return _first_line([servers.find(name), "--version"])
    except servers.Failure:
        return "not installed"


def _broker_version(context):
    a = context.arguments
    commit = _first_line(["git", "describe", "--always", "--dirty"], cwd=context.root)
    version = _first_line([os.path.join(a.build, "broker", "broker"), "--version"])
    return f"{version}, commit {commit}"


def _build_type(directory):
    try:
        with open(os.path.join(directory, "meson-info", "intro-buildoptions.json")) as f:
            return next(o["value"] for o in json.load(f) if o["name"] == "buildtype")
    except FileNotFoundError:
        return "unknown"


def machine_list(context):
    a, pg = context.arguments, context.postgres
    cpus = len(os.sched_getaffinity(0))
    settings = ", ".join(f"{k}={v}" for k, v in pg.settings.items())
    ours = ", ".join([f"pool main.max_size={a.pool} (where nothing else is said)"] + a.set)
    others = [r["others_cpus"] for r in context.results if r["others_cpus"] is not None]
    noise = figures.median(others) or 0
    lines = [
        f"Machine: {cpus} CPUs ({_cpu_model()}), {_memory_gib():.0f} GiB, Linux "
        f"{platform.release()}; files on "
        f"{_first_line(['stat', '-f', '-c', '%T', '/var/tmp'])}. Workers, broker and database share "
        "the CPUs.",
        f"shmbroker: {_broker_version(context)}, buildtype {_build_type(a.build)}, {ours}, otherwise "
        "defaults.",
        f"PostgreSQL: {pg.version}; {settings}, otherwise defaults (fsync and synchronous_commit "
        f"on); pgbench's tables at scale {a.scale}.",
        f"PgBouncer: {_program('pgbouncer')}; transaction mode, default_pool_size as the broker's max_size; it "
        "cannot keep named prepared statements, so the better of unnamed and simple statements is "
        "taken in each case.",
        f"Pgpool-II: {_program('pgpool')}; one child for each worker, connection cache on.",
        "SQLite: WAL, synchronous=FULL everywhere; scale 1.",
        f"Each figure is the median of {a.rounds} rounds of {a.seconds:g} s after {a.warmup:g} s "
        "warm-up; in a round the contenders take turns. Everything on Unix sockets.",
        f"Other processes kept {noise:.2f} CPUs busy meanwhile (median)." +
        (" **The machine was not quiet; read the figures with that in mind.**"
         if noise > NOISE_LIMIT else ""),
    ]
    return "\n".join("* " + line for line in lines)


def without_pool(name):
    """The name of a metric without the label that every one of them has."""
    return re.sub(r',pool="[^"]*"', "", re.sub(r'\{pool="[^"]*"\}', "", name))


def counters_table(context):
    """What the broker did for each statement of the point reads."""
    cells = [c for c in context.table.values() if c.series == "point" and c.contender == "broker"]
    names = sorted({n for c in cells for n, v in c.metrics.items() if COUNTERS.match(n) and v})
    rows = [[f"`{without_pool(n)}`"] + [f"{c.metrics.get(n, 0):.3f}" for c in cells] for n in names]
    return markdown(["counter"] + [f"{c.workers} workers" for c in cells], rows,
                    range(1, len(cells) + 1))


def commands_list(context):
    out = []
    for (series, contender), argv in context.commands.items():
        out.append(f"# {series}, {contender}\n{argv}")
    return "\n".join(out)


def notes_of(path):
    """What people wrote into the page that is there, or nothing."""
    try:
        with open(path) as f:
            text = f.read()
    except FileNotFoundError:
        return NO_NOTES
    found = re.search(re.escape(NOTES[0]) + r"\n(.*?)\n" + re.escape(NOTES[1]), text, re.S)
    return found.group(1).strip() if found else NO_NOTES


def command_line(a):
    words = ["tests/bench/compare"]
    for option, value, default in (("--pool", a.pool, 8), ("--rounds", a.rounds, 3),
                                   ("--seconds", a.seconds, 2), ("--scale", a.scale, 10)):
        if value != default:
            words.append(f"{option} {value:g}")
    words += [f"--set '{s}'" for s in a.set]
    return " ".join(words)


def page_text(context, notes):
    right = [i for i in range(len(HEADINGS)) if i != 1]
    parts = [
        "# Benchmarks\n",
        f"Made by `{command_line(context.arguments)}`, which says how each figure comes about; "
        "the text under *Notes* is written by people. `docs/man/brokerbench.1` explains the tool "
        "that drives all contenders.\n",
        "## Conditions\n", machine_list(context) + "\n",
        "## Ratios and targets\n",
        "Throughput: ours divided by theirs. Times: theirs divided by ours. Above 1 is better.\n",
        verdict_table(context) + "\n",
        f"![throughput and p99 of point reads]({PLOT})\n",
        "## Notes\n", f"{NOTES[0]}\n{notes}\n{NOTES[1]}\n",
        "## Figures\n",
        "*CPU ms*: CPU time for 1,000 statements, all together and split into workers, what stands "
        "in the middle (broker or proxy; SQLite runs in the broker), and the database server. "
        "*switches*: context switches per statement, everywhere. *MB*: proportional memory (PSS) of "
        "the database server's processes.\n",
    ]
    for s in present(context):
        own = f", with {s.pool} connections of the broker and of PgBouncer" if s.pool else ""
        parts += [f"### {s.title}\n", f"Series `{s.name}`{own}.\n",
                  markdown(HEADINGS, rows_of(context, s.name), right) + "\n"]
    parts += [
        "## What the broker did for a point read\n",
        "Growth of its counters (`brokerstat`), per statement.\n", counters_table(context) + "\n",
        "## Commands\n",
        "`compare` starts the servers in `$DIR` and then runs, for each number of workers N and with "
        "`-j -o` and the server's address added:\n",
        "```sh", commands_list(context), "```",
    ]
    return "\n".join(parts) + "\n"


def write(context, directory):
    path = os.path.join(directory, PAGE)
    text = page_text(context, notes_of(path))
    with open(path, "w") as f:
        f.write(text)
    plot = os.path.join(directory, PLOT)
    with open(plot, "w") as f:
        f.write(svg.plot(context.table))
    return [path, plot]

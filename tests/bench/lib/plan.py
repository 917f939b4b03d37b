# SPDX-License-Identifier: MIT
"""What compare measures, and what it has to reach.

A series is one workload with several contenders at several numbers of workers; contenders are listed
in the order in which they take turns.  Names of contenders:

    broker       through the broker, reads declared as reads
    libpq        a connection of PostgreSQL for every worker, statements prepared
    pgbouncer    PgBouncer in transaction mode, with as many server connections as the broker
    pgpool       Pgpool-II, which has a server connection for every worker as well
    sqlite       the file opened by every worker

What stands behind a dash is a variant: "-1by1" sends the statements of a page one after the other,
"-together" in one go, "-undeclared" does not say which statements only read.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Series:
    name: str
    title: str
    workload: str
    workers: tuple
    contenders: tuple
    short: tuple = ()  # workers of a short run, which leaves variants out; none: not in there
    options: tuple = ()  # for brokerbench
    database: str = "postgresql"
    pool: int = 0  # connections, if others than everywhere
    once: tuple = ()  # contenders that are measured at one number of workers only: (name, workers)

    def runs(self, short):
        """(workers, contender) in the order of a round."""
        for n in self.short if short else self.workers:
            for c in self.contenders:
                if not short or c in PG or c == "sqlite":  # no variants
                    yield n, c
            for c, at in self.once:
                if at == n and not short:
                    yield n, c


PG = ("broker", "libpq", "pgbouncer")
# A commit waits for the disk together with those of other connections, so more connections than
# processors are of use: half as many as there are workers.
WRITE_POOL = 16
PAGES = ("broker", "broker-1by1", "libpq", "libpq-together", "pgbouncer", "pgbouncer-together")


def all_series(pool):
    """pool: connections of the broker and of PgBouncer."""
    series = [
        Series("point", "One row by its key (`pgbench -S`)", "point", (1, 2, 8, 32, 64, 256), PG,
               (1, 8, 64), once=(("pgpool", 32), ("broker-undeclared", 64))),
        Series("pages", "A page: 20 point reads", "pages", (8,), PAGES, (8,)),
        Series("write", "One row changed by its key, committed at once", "write", (8, 32), PG, (32,),
               pool=WRITE_POOL),
        Series("tpcb", "pgbench's transaction", "tpcb", (8, 32), PG, (32,), pool=WRITE_POOL),
        Series("rows1", "Results of 1 row", "rows", (8,), ("broker", "libpq"), (), ("--rows", "1")),
        Series("rows100", "Results of 100 rows", "rows", (8,), ("broker", "libpq"), (),
               ("--rows", "100")),
        Series("rows10000", "Results of 10,000 rows", "rows", (8,), ("broker", "libpq"), (8,),
               ("--rows", "10000")),
        Series("blob", "Values of 1 MB read", "blob", (4,), PG),
        Series("put", "Values of 1 MB written", "put", (4,), PG),
        Series("mix", "Point reads, 1 % statements of 200 ms among them (times of the point reads)",
               "mix", (8, 32), PG, (32,)),
        Series("attach", "Attach or connect, one point read, detach", "attach", (8,), PG),
        Series("lease", "A connection of the pool taken and given back unused", "lease", (1,),
               ("broker",), (1,)),
    ]
    if pool != WRITE_POOL:
        for name in ("write", "tpcb"):
            series.append(Series(f"{name}-pool{pool}", f"The workload {name} with {pool} connections",
                                 name, (32,), ("broker", "pgbouncer"), pool=pool))
    for n in (2, 4, 16):
        if n != pool:
            series.append(Series(f"point-pool{n}", f"Point reads with {n} connections", "point",
                                 (64,), ("broker", "pgbouncer"), pool=n))
    sqlite = ("broker", "sqlite")
    series += [
        Series("sqlite-write", "SQLite: one row changed by its key, committed at once", "write",
               (1, 8, 32), sqlite, (8,), database="sqlite"),
        Series("sqlite-tpcb", "SQLite: pgbench's transaction", "tpcb", (8,), sqlite,
               database="sqlite"),
        Series("sqlite-point", "SQLite: one row by its key", "point", (1, 8), sqlite, (8,),
               database="sqlite"),
        Series("sqlite-rows100", "SQLite: results of 100 rows", "rows", (8,), sqlite, (),
               ("--rows", "100"), database="sqlite"),
    ]
    return series


# Ratio, at least.  The names are those of figures.ratios().
TARGETS = (
    ("point.64.libpq", 2.5, "throughput of point reads, 64 workers, against direct libpq"),
    ("point.32.libpq", 1.6, "the same, 32 workers"),
    ("point.8.libpq", 1.1, "the same, 8 workers"),
    ("point.64.pgbouncer", 4.0, "the same, 64 workers, against PgBouncer"),
    ("point.256.pgbouncer", 4.0, "the same, 256 workers"),
    ("point.1.latency.libpq", 0.8, "median time of a point read, 1 worker, against direct libpq"),
    ("point.2.latency.libpq", 0.8, "the same, 2 workers"),
    ("point.64.p99.libpq", 2.0, "p99 of point reads, 64 workers, against direct libpq"),
    ("point.64.p99.pgbouncer", 2.0, "the same, against PgBouncer"),
    ("pages.8.libpq", 2.0, "pages by submit and collect, 8 workers, against libpq one by one"),
    ("write.32.libpq", 1.0, "writes, 32 workers, against direct libpq"),
    ("write.32.pgbouncer", 1.5, "the same, against PgBouncer"),
    ("tpcb.32.libpq", 1.0, "transactions, 32 workers, against direct libpq"),
    ("tpcb.32.pgbouncer", 1.5, "the same, against PgBouncer"),
    ("rows10000.8.libpq", 0.8, "results of 10,000 rows, against direct libpq"),
    ("mix.32.p99.pgbouncer", 1.0, "p99 of point reads with slow statements among them"),
    ("sqlite-write.8.sqlite", 8.0, "SQLite writes, 8 workers, against SQLite in every process"),
    ("sqlite-write.32.sqlite", 8.0, "the same, 32 workers"),
    ("sqlite-point.8.sqlite", 0.4, "SQLite point reads, 8 workers"),
    ("lease.1.budget", 1.0, "2 us of the worker's CPU, divided by what lease and release take"),
)
LEASE_BUDGET_SECONDS = 2e-6

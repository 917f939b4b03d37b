/* SPDX-License-Identifier: MIT */
/* bench_sql.c - see bench_sql.h.  The statements of point, write and tpcb are those of pgbench(1).
 */
#include "bench_sql.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const struct bench_stmt statements[SQL_COUNT] = {
	[SQL_POINT] = {SQL_POINT, "SELECT abalance FROM pgbench_accounts WHERE aid = $1", 1, "i",
		true},
	[SQL_UPDATE] = {SQL_UPDATE,
		"UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2", 2, "",
		false},
	[SQL_TELLER] = {SQL_TELLER,
		"UPDATE pgbench_tellers SET tbalance = tbalance + $1 WHERE tid = $2", 2, "", false},
	[SQL_BRANCH] = {SQL_BRANCH,
		"UPDATE pgbench_branches SET bbalance = bbalance + $1 WHERE bid = $2", 2, "",
		false},
	[SQL_HISTORY] = {SQL_HISTORY,
		"INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) "
		"VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)",
		4, "", false},
	[SQL_ROWS] = {SQL_ROWS, "SELECT id, grp, note FROM bench_row WHERE id >= $1 AND id < $2", 2,
		"iit", true},
	[SQL_BLOB] = {SQL_BLOB, "SELECT data FROM bench_blob WHERE id = $1", 1, "b", true},
	[SQL_PUT] = {SQL_PUT, "UPDATE bench_blob SET data = $1 WHERE id = $2", 2, "", false},
	/* Sleeps: what is looked for is what others suffer when they stand behind it, not its cost.
	 */
	[SQL_SLOW] = {SQL_SLOW, "SELECT 1 FROM pg_sleep($1::bigint / 1000.0)", 1, "i", true},
	[SQL_SCALE] = {SQL_SCALE, "SELECT bid FROM pgbench_branches", 0, "i", true},
	[SQL_PROBE] = {SQL_PROBE, "SELECT sqlite_version()", 0, "t", true},
};

/* SQLite cannot sleep: it counts. */
static const struct bench_stmt sqlite_slow = {SQL_SLOW,
	"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < $1) "
	"SELECT max(i) FROM c",
	1, "i", true};

const struct bench_stmt *bench_stmt(enum bench_sql id, bool sqlite)
{
	return id == SQL_SLOW && sqlite ? &sqlite_slow : &statements[id];
}

int bench_literal(char *buf, size_t size, const char *text, const int64_t *args, unsigned nargs)
{
	size_t len = 0;

	while (*text != '\0') {
		int n = 1;

		if (len + 1 >= size) {
			return -1;
		}
		if (text[0] == '$' && text[1] >= '1' && text[1] <= '9') {
			char *end;
			unsigned long i = strtoul(text + 1, &end, 10);

			if (i > nargs) {
				return -1;
			}
			n = snprintf(buf + len, size - len, "%" PRId64, args[i - 1]);
			text = end;
		} else {
			buf[len] = *text++;
		}
		len += (size_t)n;
		if (len >= size) {
			return -1;
		}
	}
	buf[len] = '\0';
	return (int)len;
}

/* SPDX-License-Identifier: MIT */
/* bank.c - see bank.h. */
#include "bank.h"

#include "crew.h"
#include "ledger.h"
#include "tap.h"
#include "wait.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define ACCOUNTS 8
#define SUM (ACCOUNTS * 1000)
#define CALL_MS 3000

struct bank {
	struct ledger *ledger;
	struct crew *crew;
};

/* -- workers ----------------------------------------------------------------------------------- */

struct transfer {
	uint32_t number;
	int64_t from, to, amount;
};

static int move(struct crew_worker *w, struct broker_lease *l, int64_t account, int64_t amount)
{
	struct broker_call call = {.timeout_ms = CALL_MS, .lease = l};
	struct broker_value v[2] = {broker_int64(amount), broker_int64(account)};

	return crew_exec(
		w, "UPDATE account SET balance = balance + $1 WHERE id = $2", 2, v, &call, NULL);
}

static int record(struct crew_worker *w, struct broker_lease *l, const struct transfer *t)
{
	struct broker_call call = {.timeout_ms = CALL_MS, .lease = l};
	struct broker_value v[4] = {broker_int64(t->number), broker_int64(t->from),
		broker_int64(t->to), broker_int64(t->amount)};

	return crew_exec(w,
		"INSERT INTO history (n, source, target, amount) VALUES ($1, $2, $3, $4)", 4, v,
		&call, NULL);
}

static int move_both(struct crew_worker *w, struct broker_lease *l, const struct transfer *t)
{
	bool source_first = t->from < t->to;
	int rc;

	if (rand_r(&w->seed) % 16 == 0) {
		source_first = !source_first; /* meet somebody in a deadlock */
	}
	rc = move(w, l, source_first ? t->from : t->to, source_first ? -t->amount : t->amount);
	return rc < 0 ? rc
		      : move(w, l, source_first ? t->to : t->from,
				source_first ? t->amount : -t->amount);
}

static void transfer(struct crew_worker *w)
{
	struct transfer t = {
		.from = rand_r(&w->seed) % ACCOUNTS, .amount = 1 + rand_r(&w->seed) % 50};
	struct broker_call call = {.timeout_ms = CALL_MS, .tag = "/transfer"};
	struct broker_lease *l;
	int rc;

	t.to = (t.from + 1 + rand_r(&w->seed) % (ACCOUNTS - 1)) % ACCOUNTS;
	t.number = ledger_begin(w->ledger);
	rc = crew_begin(w, &call, &l);
	rc = rc < 0 ? rc : move_both(w, l, &t);
	rc = rc < 0 ? rc : record(w, l, &t);
	if (rc == 0 && rand_r(&w->seed) % 16 != 0) {
		rc = crew_commit(w, &l, CALL_MS);
		ledger_end(w->ledger, t.number, w->b, rc);
	} else {
		broker_rollback(&l);
		ledger_failed(w->ledger, t.number);
	}
}

static void audit(struct crew_worker *w)
{
	struct broker_call call = {
		.timeout_ms = CALL_MS, .flags = BROKER_READONLY, .tag = "/audit"};
	struct broker_result *r;
	int64_t sum = -1;
	int rc;

	if (crew_exec(w, "SELECT sum(balance)::bigint FROM account", 0, NULL, &call, &r) < 0) {
		return;
	}
	rc = broker_next(r);
	rc = rc == 1 ? broker_get_int64(r, 0, &sum) : rc;
	if (rc != 0 || sum != SUM) {
		crew_surprise(w, "the sum is %lld (%d)", (long long)sum, rc);
	}
	broker_result_free(&r);
}

static void job(struct crew_worker *w)
{
	if (rand_r(&w->seed) % 4 == 0) {
		audit(w);
	} else {
		transfer(w);
	}
	crew_breathe(1 + w->id % 3);
}

/* -- the test's side --------------------------------------------------------------------------- */

void bank_found(struct pg_cluster *primary)
{
	pg_do(primary, "CREATE TABLE account(id bigint PRIMARY KEY, balance bigint NOT NULL)");
	pg_do(primary,
		"CREATE TABLE history(n bigint, source bigint, target bigint, amount bigint)");
	pg_do(primary, "INSERT INTO account SELECT g, %d FROM generate_series(0, %d) g",
		SUM / ACCOUNTS, ACCOUNTS - 1);
}

struct bank *bank_open(const char *socket, unsigned workers)
{
	struct bank *b = calloc(1, sizeof(*b));

	if (b == NULL) {
		bail_out("out of memory");
	}
	b->ledger = ledger_create(2000000);
	b->crew = crew_start(socket, workers, job, b->ledger, NULL);
	return b;
}

bool bank_moves(struct bank *b, unsigned transfers, int64_t timeout_ms)
{
	uint32_t before = ledger_count(b->ledger).acked;

	return wait_until(ledger_count(b->ledger).acked >= before + transfers, timeout_ms);
}

/* Accounts whose balance is not what the history says. */
static int64_t unexplained(struct pg_cluster *pg)
{
	return pg_int(pg,
		"SELECT count(*) FROM account a WHERE balance <> %d "
		"+ (SELECT coalesce(sum(amount), 0) FROM history WHERE target = a.id) "
		"- (SELECT coalesce(sum(amount), 0) FROM history WHERE source = a.id)",
		SUM / ACCOUNTS);
}

static void check_time(struct crew_board *board)
{
	int64_t worst = atomic_load(&board->worst_us);

	diag("MEASURE bank_worst_lateness %.1f ms", (double)worst / 1000);
	diag("MEASURE bank_calls_over_100ms_late %llu calls",
		(unsigned long long)atomic_load(&board->late));
	if (!ok(worst < WAIT_NOISE_MS * 1000, "no call outlives its deadline")) {
		diag("%s", board->late_call);
	}
}

void bank_close(struct bank **bp, struct pg_cluster *primary)
{
	struct bank *b = *bp;

	check_time(crew_board(b->crew));
	crew_stop(&b->crew, "bank");
	is_int(pg_int(primary, "SELECT sum(balance) FROM account"), SUM, "the sum is what it was");
	is_int(unexplained(primary), 0, "the history explains every balance");
	(void)ledger_check(
		b->ledger, primary, "SELECT n, count(*) FROM history GROUP BY n", "history");
	ok(ledger_count(b->ledger).acked > 100, "there were transfers");
	ledger_destroy(&b->ledger);
	free(b);
	*bp = NULL;
}

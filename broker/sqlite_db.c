/* SPDX-License-Identifier: MIT */
/*
 * sqlite_db.c - see sqlite_db.h.
 *
 * Sources: sqlite.org/c3ref (open, set_authorizer, progress_handler, busy_handler, stmt_readonly),
 * sqlite.org/pragma.html, sqlite.org/security.html.
 */
#include "sqlite_db.h"

#include "doorbell.h"
#include "journal.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define BUCKETS 256u

struct sqlite_db_private {
	struct sqlite_db_options opt;
	sqlite3_stmt *control[SQLITE_CONTROL_COUNT];
	bool controlling; /* one of them runs: nothing stops it */
	uint64_t busy_since_ns;
	/* the authorizer's notes on what is being prepared or runs */
	bool readonly; /* asked for */
	bool rollback_to;
	bool dirties;
	bool pragma;
	bool vacuuming;
	const char *refusal; /* journal: of what it uses */
	char denied[160]; /* why it refused, or "" */
	/* cache of prepared statements */
	unsigned ncached;
	struct cds_list_head lru; /* least recently used first */
	struct sqlite_prepared *bucket[BUCKETS];
};

/* -- words ------------------------------------------------------------------------------------- */

/* Skip space, comments and empty statements. */
static const char *skip_blank(const char *p)
{
	for (;;) {
		if (isspace((unsigned char)*p) || *p == ';') {
			p++;
		} else if (p[0] == '-' && p[1] == '-') {
			p += strcspn(p, "\n");
		} else if (p[0] == '/' && p[1] == '*') {
			const char *end = strstr(p + 2, "*/");

			p = end != NULL ? end + 2 : p + strlen(p);
		} else {
			return p;
		}
	}
}

enum sqlite_verb sqlite_verb(const char *text, char word[SQLITE_WORD_MAX])
{
	static const struct {
		const char *word;
		enum sqlite_verb verb;
	} map[] = {
		{"SELECT", SQLITE_VERB_READ},
		{"INSERT", SQLITE_VERB_WRITE},
		{"UPDATE", SQLITE_VERB_WRITE},
		{"DELETE", SQLITE_VERB_WRITE},
		{"REPLACE", SQLITE_VERB_WRITE},
		{"WITH", SQLITE_VERB_WITH},
		{"VALUES", SQLITE_VERB_READ},
		{"EXPLAIN", SQLITE_VERB_EXPLAIN},
		{"PRAGMA", SQLITE_VERB_PRAGMA},
		{"VACUUM", SQLITE_VERB_VACUUM},
		{"BEGIN", SQLITE_VERB_BEGIN},
		{"COMMIT", SQLITE_VERB_COMMIT},
		{"END", SQLITE_VERB_COMMIT},
		{"ROLLBACK", SQLITE_VERB_ROLLBACK},
		{"SAVEPOINT", SQLITE_VERB_SAVEPOINT},
		{"RELEASE", SQLITE_VERB_RELEASE},
	};
	char buf[SQLITE_WORD_MAX];
	size_t n = 0;

	text = skip_blank(text);
	while (n + 1 < sizeof(buf) && isalpha((unsigned char)text[n])) {
		buf[n] = (char)toupper((unsigned char)text[n]);
		n++;
	}
	buf[n] = '\0';
	if (word != NULL) {
		memcpy(word, buf, n + 1);
	}
	for (size_t i = 0; i < array_size(map); i++) {
		if (strcmp(buf, map[i].word) == 0) {
			return map[i].verb;
		}
	}
	return *text == '\0' ? SQLITE_VERB_NONE : SQLITE_VERB_OTHER;
}

/* -- the authorizer ---------------------------------------------------------------------------- */

enum pragma_rule {
	PRAGMA_SHOW, /* only without an argument */
	PRAGMA_ASK, /* the argument names what to look at */
	PRAGMA_SESSION, /* with an argument: changes this session */
	PRAGMA_FILE, /* with an argument: writes the database */
	PRAGMA_RUN, /* does something to the database that hurts nobody */
};

/*
 * What is not here is refused: a list of the harmful ones would be wrong with the next release of
 * SQLite.
 */
static const struct pragma {
	const char *name;
	enum pragma_rule rule;
} pragmas[] = {
	{"analysis_limit", PRAGMA_SESSION},
	{"application_id", PRAGMA_FILE},
	{"auto_vacuum", PRAGMA_SHOW},
	{"automatic_index", PRAGMA_SESSION},
	{"busy_timeout", PRAGMA_SHOW},
	{"cache_size", PRAGMA_SESSION},
	{"cache_spill", PRAGMA_SESSION},
	{"case_sensitive_like", PRAGMA_SESSION},
	{"collation_list", PRAGMA_SHOW},
	{"compile_options", PRAGMA_SHOW},
	{"data_version", PRAGMA_SHOW},
	{"database_list", PRAGMA_SHOW},
	{"defer_foreign_keys", PRAGMA_SESSION},
	{"encoding", PRAGMA_SHOW},
	{"foreign_key_check", PRAGMA_ASK},
	{"foreign_key_list", PRAGMA_ASK},
	{"foreign_keys", PRAGMA_SESSION},
	{"freelist_count", PRAGMA_SHOW},
	{"function_list", PRAGMA_SHOW},
	{"ignore_check_constraints", PRAGMA_SESSION},
	{"incremental_vacuum", PRAGMA_RUN},
	{"index_info", PRAGMA_ASK},
	{"index_list", PRAGMA_ASK},
	{"index_xinfo", PRAGMA_ASK},
	{"integrity_check", PRAGMA_ASK},
	{"journal_mode", PRAGMA_SHOW},
	{"journal_size_limit", PRAGMA_SHOW},
	{"locking_mode", PRAGMA_SHOW},
	{"max_page_count", PRAGMA_SHOW},
	{"mmap_size", PRAGMA_SHOW},
	{"module_list", PRAGMA_SHOW},
	{"optimize", PRAGMA_RUN},
	{"page_count", PRAGMA_SHOW},
	{"page_size", PRAGMA_SHOW},
	{"pragma_list", PRAGMA_SHOW},
	{"query_only", PRAGMA_SHOW},
	{"quick_check", PRAGMA_ASK},
	{"read_uncommitted", PRAGMA_SHOW},
	{"recursive_triggers", PRAGMA_SESSION},
	{"reverse_unordered_selects", PRAGMA_SESSION},
	{"schema_version", PRAGMA_SHOW},
	{"secure_delete", PRAGMA_SHOW},
	{"synchronous", PRAGMA_SHOW},
	{"table_info", PRAGMA_ASK},
	{"table_list", PRAGMA_ASK},
	{"table_xinfo", PRAGMA_ASK},
	{"temp_store", PRAGMA_SHOW},
	{"threads", PRAGMA_SESSION},
	{"trusted_schema", PRAGMA_SHOW},
	{"user_version", PRAGMA_FILE},
	{"wal_autocheckpoint", PRAGMA_SHOW},
	{"wal_checkpoint", PRAGMA_RUN},
	{"writable_schema", PRAGMA_SHOW},
};

static int deny(struct sqlite_db_private *p, const char *fmt, const char *what)
{
	snprintf(p->denied, sizeof(p->denied), fmt, what);
	return SQLITE_DENY;
}

static int authorize_pragma(struct sqlite_db_private *p, const char *name, const char *arg)
{
	p->pragma = true;
	for (size_t i = 0; i < array_size(pragmas); i++) {
		enum pragma_rule rule = pragmas[i].rule;

		if (strcasecmp(name, pragmas[i].name) != 0) {
			continue;
		}
		if (rule == PRAGMA_SHOW && arg != NULL) {
			return deny(p, "the broker sets PRAGMA %s, it can only be read", name);
		}
		if (p->readonly && (rule == PRAGMA_RUN || (rule == PRAGMA_FILE && arg != NULL))) {
			return deny(p, "cannot execute PRAGMA %s in a read-only transaction", name);
		}
		p->dirties |= rule == PRAGMA_SESSION && arg != NULL;
		return SQLITE_OK;
	}
	return deny(p, "PRAGMA %s is not allowed through the broker", name);
}

static int authorize_attach(struct sqlite_db_private *p, const char *file)
{
	/* VACUUM attaches a nameless temporary database, VACUUM INTO the file it writes. */
	if (p->vacuuming && file != NULL && *file == '\0') {
		return SQLITE_OK;
	}
	return deny(
		p, "%s is not allowed through the broker", p->vacuuming ? "VACUUM INTO" : "ATTACH");
}

/* Tables of the broker's own are not for workers; a temporary one cannot be repeated elsewhere. */
static int authorize_write(struct sqlite_db_private *p, const char *table, const char *database)
{
	if (!p->opt.journal || table == NULL || p->vacuuming) {
		return SQLITE_OK;
	}
	if (journal_owns_table(table)) {
		return deny(p, "table %s belongs to the broker, it can only be read", table);
	}
	if (database != NULL && strcasecmp(database, "temp") == 0) {
		p->refusal = "temporary tables end with the session they belong to";
	}
	return SQLITE_OK;
}

static int authorize_function(
	struct sqlite_db_private *p, const char *function, const char *trigger)
{
	if (function == NULL) {
		return SQLITE_OK;
	}
	if (strcasecmp(function, "load_extension") == 0) {
		return deny(p, "%s is not allowed through the broker", "load_extension()");
	}
	/* What a trigger does here is its own affair: in PostgreSQL other ones fire. */
	if (p->opt.journal && trigger == NULL && p->refusal == NULL) {
		p->refusal = journal_function_refusal(function);
	}
	return SQLITE_OK;
}

static int authorize(void *arg, int action, const char *a, const char *b, const char *database,
	const char *trigger)
{
	struct sqlite_db_private *p = arg;

	if (p->controlling) {
		return SQLITE_OK;
	}
	switch (action) {
	case SQLITE_ATTACH:
		return authorize_attach(p, a);
	case SQLITE_DETACH:
		return p->vacuuming ? SQLITE_OK
				    : deny(p, "%s is not allowed through the broker", "DETACH");
	case SQLITE_PRAGMA:
		return authorize_pragma(p, a, b);
	case SQLITE_FUNCTION:
		return authorize_function(p, b, trigger);
	case SQLITE_INSERT:
	case SQLITE_UPDATE:
	case SQLITE_DELETE:
	case SQLITE_DROP_TABLE:
		return authorize_write(p, a, database);
	case SQLITE_ALTER_TABLE:
		return authorize_write(p, b, a);
	case SQLITE_SAVEPOINT:
		p->rollback_to = a != NULL && strcasecmp(a, "ROLLBACK") == 0;
		return SQLITE_OK;
	case SQLITE_CREATE_TEMP_TABLE:
	case SQLITE_CREATE_TEMP_INDEX:
	case SQLITE_CREATE_TEMP_TRIGGER:
	case SQLITE_CREATE_TEMP_VIEW:
		p->dirties = true;
		return SQLITE_OK;
	case SQLITE_CREATE_VTABLE:
		p->dirties |= database != NULL && strcasecmp(database, "temp") == 0;
		return SQLITE_OK;
	default:
		return SQLITE_OK;
	}
}

/* -- stopping and waiting ---------------------------------------------------------------------- */

static int on_progress(void *arg)
{
	struct sqlite_db_private *p = arg;

	return !p->controlling && p->opt.stop(p->opt.stop_arg);
}

/*
 * A lock is held by another process (within the broker there is one writer per file).  Waiting is
 * ended by whatever ends the job: here a control statement may be stopped, it has not begun.
 */
static int on_busy(void *arg, int count)
{
	static const unsigned char delay_ms[] = {1, 1, 2, 5, 10, 15, 20, 25};
	struct sqlite_db_private *p = arg;
	uint64_t now = doorbell_now();
	struct timespec ts = {0};

	if (count == 0) {
		p->busy_since_ns = now;
	}
	if (now - p->busy_since_ns >= (uint64_t)p->opt.busy_ms * 1000000u ||
		p->opt.stop(p->opt.stop_arg)) {
		return 0;
	}
	ts.tv_nsec = 1000000L * delay_ms[count < (int)array_size(delay_ms) ? count : 7];
	nanosleep(&ts, NULL);
	return 1;
}

/* -- opening ----------------------------------------------------------------------------------- */

static int run_text(struct sqlite_db *db, const char *sql, struct sqlite_failure *f)
{
	int rc = sqlite3_exec(db->db, sql, NULL, NULL, NULL);

	if (rc != SQLITE_OK) {
		sqlite_failure_from(f, db->db, rc);
	}
	return rc == SQLITE_OK ? 0 : -1;
}

static int set_wal(struct sqlite_db *db, struct sqlite_failure *f)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(db->db, "PRAGMA journal_mode=WAL", -1, &stmt, NULL);
	int result = 0;

	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
	}
	if (rc != SQLITE_ROW) {
		sqlite_failure_from(f, db->db, rc);
		result = -1;
	} else if (sqlite3_stricmp((const char *)sqlite3_column_text(stmt, 0), "wal") != 0) {
		sqlite_failure_set(f, FAIL_UNAVAILABLE, "",
			"%s cannot be used in WAL mode: its file system has no shared memory; put "
			"the "
			"database on a local file system",
			db->priv->opt.path);
		result = -1;
	}
	sqlite3_finalize(stmt);
	return result;
}

/* KiB of pages, taken as they are needed.  SQLite's 2 MiB are meant for one of many processes; here
 * a few connections read for all. */
#define SQLITE_DB_CACHE "PRAGMA cache_size=-16384"

static int configure(struct sqlite_db *db, struct sqlite_failure *f)
{
	static const struct {
		int op, value;
	} flags[] = {
		{SQLITE_DBCONFIG_ENABLE_FKEY, 1},
		{SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
		{SQLITE_DBCONFIG_DEFENSIVE, 1},
		{SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
		{SQLITE_DBCONFIG_DQS_DML, 0},
		{SQLITE_DBCONFIG_DQS_DDL, 0},
	};
	const struct sqlite_db_options *opt = &db->priv->opt;

	for (size_t i = 0; i < array_size(flags); i++) {
		(void)sqlite3_db_config(db->db, flags[i].op, flags[i].value, NULL);
	}
	if (opt->writer && !opt->memory && set_wal(db, f) < 0) {
		return -1;
	}
	if (run_text(db, "PRAGMA synchronous=FULL", f) < 0 ||
		run_text(db, SQLITE_DB_CACHE, f) < 0) {
		return -1;
	}
	if (!opt->writer && run_text(db, "PRAGMA query_only=ON", f) < 0) {
		return -1;
	}
	/* Reads the schema: a file that is no database is found now. */
	return run_text(db, "SELECT 1 FROM sqlite_schema LIMIT 1", f);
}

static int prepare_controls(struct sqlite_db *db, struct sqlite_failure *f)
{
	static const char *const text[] = {
		[SQLITE_CONTROL_BEGIN] = "BEGIN",
		[SQLITE_CONTROL_BEGIN_WRITE] = "BEGIN IMMEDIATE",
		[SQLITE_CONTROL_COMMIT] = "COMMIT",
		[SQLITE_CONTROL_ROLLBACK] = "ROLLBACK",
		[SQLITE_CONTROL_SAVEPOINT] = "SAVEPOINT shmbroker_member",
		[SQLITE_CONTROL_ROLLBACK_TO] = "ROLLBACK TO shmbroker_member",
		[SQLITE_CONTROL_RELEASE] = "RELEASE shmbroker_member",
	};

	for (unsigned i = 0; i < SQLITE_CONTROL_COUNT; i++) {
		int rc = sqlite3_prepare_v3(db->db, text[i], -1, SQLITE_PREPARE_PERSISTENT,
			&db->priv->control[i], NULL);

		if (rc != SQLITE_OK) {
			sqlite_failure_from(f, db->db, rc);
			return -1;
		}
	}
	return 0;
}

static struct sqlite_db *allocate(const struct sqlite_db_options *opt)
{
	struct sqlite_db *db = calloc(1, sizeof(*db));

	if (db == NULL) {
		return NULL;
	}
	db->priv = calloc(1, sizeof(*db->priv));
	if (db->priv == NULL) {
		free(db);
		return NULL;
	}
	db->priv->opt = *opt;
	CDS_INIT_LIST_HEAD(&db->priv->lru);
	return db;
}

int sqlite_db_open(
	const struct sqlite_db_options *opt, struct sqlite_db **out, struct sqlite_failure *f)
{
	/* Readers create the file as well: whoever comes first. */
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
		    SQLITE_OPEN_EXRESCODE | (opt->memory ? SQLITE_OPEN_URI : 0);
	struct sqlite_db *db = allocate(opt);
	int rc;

	if (db == NULL) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		return -1;
	}
	rc = sqlite3_open_v2(opt->path, &db->db, flags, NULL);
	if (rc != SQLITE_OK) {
		sqlite_failure_from(f, db->db, rc);
		goto err_close;
	}
	sqlite3_busy_handler(db->db, on_busy, db->priv);
	if (configure(db, f) < 0) {
		goto err_close;
	}
	sqlite3_set_authorizer(db->db, authorize, db->priv);
	if (prepare_controls(db, f) < 0) {
		goto err_close;
	}
	sqlite3_progress_handler(db->db, SQLITE_DB_STEPS, on_progress, db->priv);
	*out = db;
	return 0;
err_close:
	sqlite_db_close(&db);
	return -1;
}

/* -- the cache --------------------------------------------------------------------------------- */

static void free_prepared(struct sqlite_prepared *p)
{
	sqlite3_finalize(p->stmt);
	free(p->bind);
	free(p->classes);
	free(p->head);
	free(p);
}

static void uncache(struct sqlite_db_private *d, struct sqlite_prepared *p)
{
	struct sqlite_prepared **at = &d->bucket[p->id % BUCKETS];

	while (*at != p) {
		at = &(*at)->chain;
	}
	*at = p->chain;
	cds_list_del(&p->lru);
	d->ncached--;
	p->id = 0;
}

static struct sqlite_prepared *find(struct sqlite_db_private *d, uint32_t id)
{
	struct sqlite_prepared *p = d->bucket[id % BUCKETS];

	while (p != NULL && p->id != id) {
		p = p->chain;
	}
	return p;
}

static void cache(struct sqlite_db *db, struct sqlite_prepared *p, uint32_t id)
{
	struct sqlite_db_private *d = db->priv;

	if (d->opt.max_prepared == 0) {
		return;
	}
	if (d->ncached >= d->opt.max_prepared) {
		struct sqlite_prepared *old =
			cds_list_first_entry(&d->lru, struct sqlite_prepared, lru);

		uncache(d, old);
		free_prepared(old);
		db->evictions++;
	}
	p->id = id;
	p->chain = d->bucket[id % BUCKETS];
	d->bucket[id % BUCKETS] = p;
	cds_list_add_tail(&p->lru, &d->lru);
	d->ncached++;
}

void sqlite_db_close(struct sqlite_db **db)
{
	struct sqlite_db_private *d;

	if (*db == NULL) {
		return;
	}
	d = (*db)->priv;
	while (!cds_list_empty(&d->lru)) {
		struct sqlite_prepared *p =
			cds_list_first_entry(&d->lru, struct sqlite_prepared, lru);

		uncache(d, p);
		free_prepared(p);
	}
	for (unsigned i = 0; i < SQLITE_CONTROL_COUNT; i++) {
		sqlite3_finalize(d->control[i]);
	}
	/* An open transaction is rolled back; busy would mean a statement that nobody finalized. */
	check(sqlite3_close((*db)->db) == SQLITE_OK);
	free(d);
	free(*db);
	*db = NULL;
}

/* -- preparing --------------------------------------------------------------------------------- */

/* Number of "$7"; 0 if it is something else. */
static unsigned placeholder_number(const char *name)
{
	unsigned n = 0;

	if (name == NULL || name[0] != '$' || name[1] == '0') {
		return 0;
	}
	for (name++; *name != '\0'; name++) {
		if (!isdigit((unsigned char)*name) || n > CHAN_MAX_PARAMS) {
			return 0;
		}
		n = n * 10 + (unsigned)(*name - '0');
	}
	return n <= CHAN_MAX_PARAMS ? n : 0;
}

static int refuse_placeholder(const char *name, struct sqlite_failure *f)
{
	sqlite_failure_set(f, FAIL_DATABASE, "42601",
		"placeholder %s is not understood: placeholders are $1, $2, …",
		name != NULL ? name : "?");
	if (name != NULL && strstr(name, "::") != NULL) {
		sqlite_failure_hint(f, "SQLite has no ::type; write CAST($1 AS type).");
	}
	return -1;
}

static int map_placeholders(struct sqlite_prepared *p, struct sqlite_failure *f)
{
	int n = sqlite3_bind_parameter_count(p->stmt);

	if (n == 0) {
		return 0;
	}
	p->bind = calloc((size_t)n, sizeof(*p->bind));
	if (p->bind == NULL) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		return -1;
	}
	p->nbind = (unsigned)n;
	for (int i = 0; i < n; i++) {
		const char *name = sqlite3_bind_parameter_name(p->stmt, i + 1);

		p->bind[i] = placeholder_number(name);
		if (p->bind[i] == 0) {
			return refuse_placeholder(name, f);
		}
		if (p->bind[i] > p->nparams) {
			p->nparams = p->bind[i];
		}
	}
	return 0;
}

void sqlite_db_failure(struct sqlite_db *db, int rc, struct sqlite_failure *f)
{
	const char *denied = db->priv->denied;

	if (denied[0] != '\0') {
		bool readonly = strstr(denied, "read-only") != NULL;

		sqlite_failure_set(f, FAIL_DATABASE, readonly ? "25006" : "42501", "%s", denied);
		return;
	}
	sqlite_failure_from(f, db->db, rc);
}

/* Clear the authorizer's notes for a statement that is about to be prepared or to run. */
static void take_notes(struct sqlite_db_private *d, enum sqlite_verb verb, bool readonly)
{
	d->readonly = readonly;
	d->rollback_to = d->dirties = d->pragma = false;
	d->vacuuming = verb == SQLITE_VERB_VACUUM;
	d->refusal = NULL;
	d->denied[0] = '\0';
}

/* Fill p.  On failure the caller frees it. */
static int prepare(struct sqlite_db *db, struct sqlite_prepared *p, const char *text, size_t len,
	bool keep, struct sqlite_failure *f)
{
	const char *tail = NULL;
	/* The NUL is part of what SQLite is given, so that it need not copy the text. */
	int rc = sqlite3_prepare_v3(
		db->db, text, (int)len + 1, keep ? SQLITE_PREPARE_PERSISTENT : 0, &p->stmt, &tail);

	if (rc != SQLITE_OK) {
		sqlite_db_failure(db, rc, f);
		return -1;
	}
	if (tail != NULL && skip_blank(tail) < text + len) {
		sqlite_failure_set(f, FAIL_DATABASE, "42601",
			"cannot run several statements in one call: text after the first "
			"statement");
		return -1;
	}
	if (p->stmt == NULL) {
		p->readonly = true;
		return 0;
	}
	p->readonly = sqlite3_stmt_readonly(p->stmt) != 0;
	p->rollback_to = db->priv->rollback_to;
	p->dirties = db->priv->dirties;
	p->seen = -1;
	return map_placeholders(p, f);
}

/* -1: out of memory. */
static int judge(struct sqlite_db *db, struct sqlite_prepared *p, const char *text, size_t len)
{
	enum journal_rule rule;
	const char *why;

	if (!db->priv->opt.journal || p->readonly || sqlite_verb_is_tx(p->verb)) {
		return 0;
	}
	if (journal_judge(text, len, p->verb, &rule, &why) < 0) {
		return -1;
	}
	p->kept = rule == JOURNAL_KEEP;
	p->refusal = rule == JOURNAL_REFUSE ? why : db->priv->refusal;
	return 0;
}

/*
 * A PRAGMA may act when it is prepared, and is judged by the authorizer then: it is prepared for
 * each run.
 */
static bool may_cache(const struct sqlite_db *db, const struct sqlite_prepared *p)
{
	return p->stmt != NULL && !db->priv->pragma && p->verb != SQLITE_VERB_VACUUM;
}

static struct sqlite_prepared *reuse(struct sqlite_db *db, uint32_t id, bool readonly)
{
	struct sqlite_prepared *p = id != 0 ? find(db->priv, id) : NULL;

	if (p == NULL) {
		db->misses++;
		return NULL;
	}
	db->hits++;
	cds_list_del(&p->lru);
	cds_list_add_tail(&p->lru, &db->priv->lru);
	take_notes(db->priv, p->verb, readonly);
	return p;
}

static struct sqlite_prepared *prepare_new(struct sqlite_db *db, uint32_t id, const char *text,
	size_t len, bool readonly, struct sqlite_failure *f)
{
	struct sqlite_prepared *p;

	if (len >= INT32_MAX) {
		sqlite_failure_set(
			f, FAIL_DATABASE, "54000", "statement text is too long for SQLite");
		return NULL;
	}
	p = calloc(1, sizeof(*p));
	if (p == NULL) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		return NULL;
	}
	p->verb = sqlite_verb(text, NULL);
	take_notes(db->priv, p->verb, readonly);
	if (prepare(db, p, text, len, id != 0, f) < 0) {
		free_prepared(p);
		return NULL;
	}
	if (judge(db, p, text, len) < 0) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		free_prepared(p);
		return NULL;
	}
	if (id != 0 && may_cache(db, p)) {
		cache(db, p, id);
	}
	return p;
}

int sqlite_db_get(struct sqlite_db *db, uint32_t id, const char *text, size_t len, bool readonly,
	struct sqlite_prepared **out, struct sqlite_failure *f)
{
	struct sqlite_prepared *p;

	if (len > CHAN_STMT_TEXT_MAX) { /* few of these would fill the memory */
		id = 0;
	}
	p = reuse(db, id, readonly);
	if (p == NULL) {
		p = prepare_new(db, id, text, len, readonly, f);
	}
	if (p == NULL) {
		return -1;
	}
	if (readonly && !p->readonly && !sqlite_verb_is_tx(p->verb)) {
		char word[SQLITE_WORD_MAX];

		(void)sqlite_verb(text, word);
		sqlite_failure_set(f, FAIL_DATABASE, "25006",
			"cannot execute %s in a read-only transaction", word);
		sqlite_db_put(db, &p);
		return -1;
	}
	db->dirty |= p->dirties;
	*out = p;
	return 0;
}

void sqlite_db_put(struct sqlite_db *db, struct sqlite_prepared **p)
{
	if (*p == NULL) {
		return;
	}
	if ((*p)->id == 0) {
		free_prepared(*p);
	} else {
		sqlite3_reset((*p)->stmt); /* its result repeats that of the last step */
		sqlite3_clear_bindings((*p)->stmt); /* they point into the request */
	}
	(void)db;
	*p = NULL;
}

int sqlite_db_bind(struct sqlite_db *db, struct sqlite_prepared *p, unsigned nparams,
	const struct request_param *params, struct sqlite_failure *f)
{
	if (nparams != p->nparams) {
		sqlite_failure_set(f, FAIL_DATABASE, "08P01",
			"%u parameter%s given, but the statement's placeholders ask for %u",
			nparams, nparams == 1 ? " was" : "s were", p->nparams);
		return -1;
	}
	for (unsigned i = 0; i < p->nbind; i++) {
		int rc = sqlite_bind(p->stmt, (int)i + 1, &params[p->bind[i] - 1]);

		if (rc == SQLITE_MISMATCH) {
			sqlite_failure_set(f, FAIL_DATABASE, "22008",
				"timestamp of parameter $%u is outside the years 0000 to 9999",
				p->bind[i]);
			return -1;
		}
		if (rc != SQLITE_OK) {
			sqlite_failure_from(f, db->db, rc);
			return -1;
		}
	}
	return 0;
}

/* -- running ----------------------------------------------------------------------------------- */

static int encode_head(struct sqlite_prepared *p, struct stream_column *cols)
{
	for (int i = 0; i < p->ncols; i++) {
		const char *decl = sqlite3_column_decltype(p->stmt, i);

		cols[i].name = sqlite3_column_name(p->stmt, i);
		cols[i].type = sqlite_column_type_of_decl(decl);
		p->classes[i] = (uint8_t)sqlite_column_class(decl);
		if (cols[i].name == NULL) {
			return -1;
		}
	}
	p->head_len = stream_encode_head(NULL, 0, (unsigned)p->ncols, cols);
	free(p->head);
	p->head = malloc(p->head_len);
	if (p->head == NULL) {
		return -1;
	}
	(void)stream_encode_head(p->head, p->head_len, (unsigned)p->ncols, cols);
	return 0;
}

int sqlite_db_describe(struct sqlite_prepared *p)
{
	int seen = sqlite3_stmt_status(p->stmt, SQLITE_STMTSTATUS_REPREPARE, 0);
	struct stream_column *cols;
	int err;

	if (p->seen == seen) {
		return 0;
	}
	p->ncols = sqlite3_column_count(p->stmt);
	if (p->ncols > 0) {
		free(p->classes);
		p->classes = malloc((size_t)p->ncols);
		cols = calloc((size_t)p->ncols, sizeof(*cols));
		err = p->classes != NULL && cols != NULL ? encode_head(p, cols) : -1;
		free(cols);
		if (err < 0) {
			return -1;
		}
	}
	p->seen = seen;
	return 0;
}

void sqlite_db_own(struct sqlite_db *db, bool own)
{
	db->priv->controlling = own;
}

int sqlite_db_control(struct sqlite_db *db, enum sqlite_control what)
{
	sqlite3_stmt *stmt = db->priv->control[what];
	int rc;

	db->priv->controlling = true;
	rc = sqlite3_step(stmt);
	(void)sqlite3_reset(stmt); /* repeats rc */
	db->priv->controlling = false;
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

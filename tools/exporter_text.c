/* SPDX-License-Identifier: MIT */
/* exporter_text.c - see exporter_text.h. */
#include "exporter_text.h"

#include "brokerstat.h"
#include "exporter_ready.h"
#include "text.h"

#include <string.h>
#include <strings.h>

#define FIRST_BOUND 10u /* 2^10 ns */
#define LAST_BOUND 36u
#define TOTAL "_total"

enum own_metric {
#define EXPORTER_METRIC(id, name, unit, help) OWN_##id,
#include "exporter.def"
#undef EXPORTER_METRIC
};

static const struct {
	const char *name, *unit, *help;
} own[] = {
#define EXPORTER_METRIC(id, name, unit, help) [OWN_##id] = {name, unit, help},
#include "exporter.def"
#undef EXPORTER_METRIC
};

struct out {
	FILE *f;
	bool openmetrics;
	const struct sample *s;
};

const char *exporter_content_type(enum exporter_format format)
{
	return format == EXPORTER_OPENMETRICS
		       ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
		       : "text/plain; version=0.0.4; charset=utf-8";
}

/* The classic text unless OpenMetrics is named: people and promtool do not name it. */
enum exporter_format exporter_accepts(const char *accept)
{
	const char *found =
		accept == NULL ? NULL : strcasestr(accept, "application/openmetrics-text");
	size_t len = found == NULL ? 0 : strcspn(found, ",");
	const char *q = found == NULL ? NULL : memmem(found, len, "q=0", 3);

	if (found == NULL || (q != NULL && strspn(q + 2, "0.") == strcspn(q + 2, ",; "))) {
		return EXPORTER_CLASSIC;
	}
	return EXPORTER_OPENMETRICS;
}

/* ------------------------------------------------------------------------------------------------
 * Foreign texts
 */

static bool name_start(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static size_t name_span(const char *s)
{
	size_t n = 0;

	while (name_start(s[n]) || (n > 0 && s[n] >= '0' && s[n] <= '9')) {
		n++;
	}
	return n;
}

/* A label of a description: empty, or key="value" whose value needs no escape. */
static bool label_ok(const char *label)
{
	size_t key = name_span(label), value;

	if (label[0] == '\0') {
		return true;
	}
	if (key == 0 || strncmp(label + key, "=\"", 2) != 0) {
		return false;
	}
	for (value = key + 2; label[value] >= 0x20 && label[value] < 0x7f; value++) {
		if (label[value] == '"' || label[value] == '\\') {
			break;
		}
	}
	return strcmp(label + value, "\"") == 0;
}

static bool usable(const struct sample *s, const struct metric_desc *d)
{
	size_t n = name_span(d->name);
	unsigned limit = d->scope == METRIC_SCOPE_BROKER    ? s->nvalues
			 : d->kind == METRIC_KIND_HISTOGRAM ? s->hist_per_pool
							    : s->pool_words;

	if (n == 0 || d->name[n] != '\0' || !label_ok(d->label) || d->index >= limit) {
		return false;
	}
	if (d->kind == METRIC_KIND_HISTOGRAM) {
		return d->scope == METRIC_SCOPE_POOL && d->label[0] == '\0';
	}
	return (d->kind == METRIC_KIND_COUNTER || d->kind == METRIC_KIND_GAUGE) &&
	       (d->scope == METRIC_SCOPE_BROKER || d->scope == METRIC_SCOPE_POOL);
}

/* Valid UTF-8 without a character that would end the line or the quotes. */
static void put_escaped(FILE *f, const char *text, bool quotes)
{
	char clean[1024];

	for (const char *c = text_utf8(clean, sizeof(clean), text, SIZE_MAX); *c != '\0'; c++) {
		if (*c == '\\' || (*c == '"' && quotes)) {
			fprintf(f, "\\%c", *c);
		} else if (*c == '\n') {
			fputs("\\n", f);
		} else {
			fputc(*c, f);
		}
	}
}

/* ------------------------------------------------------------------------------------------------
 * Lines
 */

static bool ends_with(const char *s, size_t len, const char *end)
{
	size_t n = strlen(end);

	return len > n && memcmp(s + len - n, end, n) == 0;
}

/* TYPE and UNIT; the help follows.  In OpenMetrics a family of counters has no _total. */
static void begin_family(struct out *o, const char *name, const char *type, const char *unit)
{
	size_t len = strlen(name);
	bool counter = strcmp(type, "counter") == 0, total = ends_with(name, len, TOTAL);
	char suffix[32];

	if (o->openmetrics && counter && total) {
		len -= strlen(TOTAL);
	} else if (o->openmetrics && counter) {
		type = "unknown"; /* the format wants _total, the name is the broker's */
	}
	fprintf(o->f, "# TYPE %.*s %s\n", (int)len, name, type);
	snprintf(suffix, sizeof(suffix), "_%s", unit);
	if (o->openmetrics && unit[0] != '\0' && ends_with(name, len, suffix)) {
		fprintf(o->f, "# UNIT %.*s %s\n", (int)len, name, unit);
	}
	fprintf(o->f, "# HELP %.*s ", (int)len, name);
}

static void help(struct out *o, const char *text)
{
	put_escaped(o->f, text, o->openmetrics);
}

static void end_family(struct out *o)
{
	fputc('\n', o->f);
}

/* name{label,key="value",extra}; label and extra are ready-made, key NULL: no such label. */
static void put_series(struct out *o, const char *name, const char *suffix, const char *label,
	const char *key, const char *value, const char *extra)
{
	char sep = '{';

	fprintf(o->f, "%s%s", name, suffix);
	if (label != NULL && label[0] != '\0') {
		fprintf(o->f, "%c%s", sep, label);
		sep = ',';
	}
	if (key != NULL) {
		fprintf(o->f, "%c%s=\"", sep, key);
		put_escaped(o->f, value, true);
		fputc('"', o->f);
		sep = ',';
	}
	if (extra != NULL) {
		fprintf(o->f, "%c%s", sep, extra);
		sep = ',';
	}
	fputs(sep == ',' ? "} " : " ", o->f);
}

/* Nanoseconds as seconds, exactly, without needless zeros. */
static void put_seconds(FILE *f, uint64_t ns)
{
	char digits[16];
	size_t n = 9;

	snprintf(digits, sizeof(digits), "%09u", (unsigned)(ns % 1000000000u));
	while (n > 1 && digits[n - 1] == '0') {
		n--;
	}
	fprintf(f, "%llu.%.*s", (unsigned long long)(ns / 1000000000u), (int)n, digits);
}

static void put_value(struct out *o, const struct metric_desc *d, uint64_t raw)
{
	if (d->unit == METRIC_UNIT_SINCE) {
		put_seconds(o->f, raw != 0 && raw < o->s->mono_ns ? o->s->mono_ns - raw : 0);
	} else if (d->unit == METRIC_UNIT_NS) {
		put_seconds(o->f, raw);
	} else if (d->kind == METRIC_KIND_GAUGE) {
		fprintf(o->f, "%lld", (long long)raw);
	} else {
		fprintf(o->f, "%llu", (unsigned long long)raw);
	}
	fputc('\n', o->f);
}

/* ------------------------------------------------------------------------------------------------
 * What the board describes
 */

static void put_histogram(struct out *o, const struct metric_desc *d, unsigned pool)
{
	const struct histogram_copy *h = &o->s->hist[pool * o->s->hist_per_pool + d->index];
	const char *name = o->s->pools[pool].info.name;
	uint64_t seen = 0;
	uint32_t next = 0;
	char le[48];

	if (h->bucket == NULL) {
		return;
	}
	for (unsigned k = FIRST_BOUND; k <= LAST_BOUND; k++) {
		uint64_t end = UINT64_C(1) << k;

		if (k < h->unit_shift || end > histogram_bucket_low(h, h->nbuckets - 1)) {
			continue; /* no edge there; what is longest counts in the last bucket */
		}
		for (; histogram_bucket_low(h, next) < end; next++) {
			seen += h->bucket[next];
		}
		snprintf(le, sizeof(le), "le=\"%.9f\"", (double)end / 1e9);
		put_series(o, d->name, "_bucket", NULL, "pool", name, le);
		fprintf(o->f, "%llu\n", (unsigned long long)seen);
	}
	put_series(o, d->name, "_bucket", NULL, "pool", name, "le=\"+Inf\"");
	fprintf(o->f, "%llu\n", (unsigned long long)h->count);
	put_series(o, d->name, "_sum", NULL, "pool", name, NULL);
	put_seconds(o->f, h->sum_ns);
	fputc('\n', o->f);
	put_series(o, d->name, "_count", NULL, "pool", name, NULL);
	fprintf(o->f, "%llu\n", (unsigned long long)h->count);
}

static void put_metric(struct out *o, const struct metric_desc *d)
{
	const struct sample *s = o->s;

	if (d->scope == METRIC_SCOPE_BROKER) {
		put_series(o, d->name, "", d->label, NULL, NULL, NULL);
		put_value(o, d, s->values[d->index]);
		return;
	}
	for (unsigned i = 0; i < s->npools; i++) {
		if (!s->pools[i].used) {
			continue;
		}
		if (d->kind == METRIC_KIND_HISTOGRAM) {
			put_histogram(o, d, i);
			continue;
		}
		put_series(o, d->name, "", d->label, "pool", s->pools[i].info.name, NULL);
		put_value(o, d, s->pool_values[(size_t)i * s->pool_words + d->index]);
	}
}

/* One of a family: the same name and kind, told apart by their labels. */
static bool same_family(const struct metric_desc *a, const struct metric_desc *b)
{
	return a->kind == b->kind && a->unit == b->unit && a->scope == b->scope &&
	       strcmp(a->name, b->name) == 0;
}

static bool own_name(const char *name)
{
	for (unsigned i = 0; i < array_size(own); i++) {
		if (strcmp(own[i].name, name) == 0) {
			return true;
		}
	}
	return false;
}

/* A name appears once in the text: with the first description that bears it, and its like. */
static bool leads_family(const struct sample *s, unsigned i)
{
	if (!usable(s, &s->desc[i]) || own_name(s->desc[i].name)) {
		return false;
	}
	for (unsigned k = 0; k < i; k++) {
		if (strcmp(s->desc[k].name, s->desc[i].name) == 0 && usable(s, &s->desc[k])) {
			return false;
		}
	}
	return true;
}

/* The help of a family: that of its metric, or of each, named by its label's value. */
static void put_help(struct out *o, unsigned first)
{
	const struct metric_desc *d = &o->s->desc[first];
	const char *value, *sep = "";

	for (unsigned i = first; i < o->s->ndesc; i++) {
		const struct metric_desc *e = &o->s->desc[i];

		if (!same_family(d, e) || !usable(o->s, e)) {
			continue;
		}
		fputs(sep, o->f);
		value = strchr(e->label, '"');
		if (value != NULL) {
			fprintf(o->f, "%.*s: ", (int)strlen(value + 1) - 1, value + 1);
		}
		help(o, e->help);
		sep = "; ";
	}
}

static void put_described(struct out *o)
{
	static const char *const types[] = {
		[METRIC_KIND_COUNTER] = "counter",
		[METRIC_KIND_GAUGE] = "gauge",
		[METRIC_KIND_HISTOGRAM] = "histogram",
	};

	for (unsigned i = 0; i < o->s->ndesc; i++) {
		const struct metric_desc *d = &o->s->desc[i];

		if (!leads_family(o->s, i)) {
			continue;
		}
		begin_family(o, d->name, types[d->kind],
			d->unit == METRIC_UNIT_COUNT   ? ""
			: d->unit == METRIC_UNIT_BYTES ? "bytes"
						       : "seconds");
		put_help(o, i);
		end_family(o);
		for (unsigned k = i; k < o->s->ndesc; k++) {
			const struct metric_desc *e = &o->s->desc[k];

			if (same_family(d, e) && usable(o->s, e)) {
				put_metric(o, e);
			}
		}
	}
}

/* ------------------------------------------------------------------------------------------------
 * What stands in exporter.def
 */

static void begin_own(struct out *o, enum own_metric m)
{
	begin_family(o, own[m].name, "gauge", own[m].unit);
	help(o, own[m].help);
	end_family(o);
}

static void put_own(struct out *o, enum own_metric m, uint64_t value)
{
	begin_own(o, m);
	put_series(o, own[m].name, "", NULL, NULL, NULL, NULL);
	fprintf(o->f, "%llu\n", (unsigned long long)value);
}

static void put_own_seconds(struct out *o, enum own_metric m, uint64_t ns)
{
	begin_own(o, m);
	put_series(o, own[m].name, "", NULL, NULL, NULL, NULL);
	put_seconds(o->f, ns);
	fputc('\n', o->f);
}

static void put_broker(struct out *o)
{
	char version[48];

	put_own(o, OWN_UP, o->s->life != READER_DEAD);
	put_own(o, OWN_RUNNING, broker_healthy(o->s));
	put_own_seconds(o, OWN_UPTIME, o->s->uptime_ns);
	put_own_seconds(o, OWN_HEARTBEAT_AGE, o->s->beat_age_ns);
	begin_own(o, OWN_BOARD_INFO);
	snprintf(version, sizeof(version), "version=\"%u.%u\"", o->s->major, o->s->minor);
	put_series(o, own[OWN_BOARD_INFO].name, "", version, NULL, NULL, NULL);
	fputs("1\n", o->f);
}

/* One line per state: 1 for the row's, 0 for the others, so that a series does not end. */
static void put_states(struct out *o, enum own_metric m, const char *key, const char *name,
	const char *label, const char *(*state_name)(uint32_t, char[16]), uint32_t count,
	uint32_t state)
{
	char buf[16], extra[64];

	for (uint32_t i = 0; i < count; i++) {
		snprintf(extra, sizeof(extra), "%s=\"%s\"", label, state_name(i, buf));
		put_series(o, own[m].name, "", NULL, key, name, extra);
		fprintf(o->f, "%d\n", i == state);
	}
	if (state >= count) { /* of a newer broker */
		snprintf(extra, sizeof(extra), "%s=\"%s\"", label, state_name(state, buf));
		put_series(o, own[m].name, "", NULL, key, name, extra);
		fputs("1\n", o->f);
	}
}

static uint64_t oldest_lease(const struct sample *s, unsigned pool)
{
	uint64_t since = s->mono_ns;

	for (unsigned i = 0; i < s->nconns; i++) {
		const struct conn_row *c = &s->conns[i];

		if (c->used && c->info.pool == pool && c->info.lease_ns != 0 &&
			c->info.lease_ns < since) {
			since = c->info.lease_ns;
		}
	}
	return s->mono_ns - since;
}

static void put_pool_line(struct out *o, enum own_metric m, unsigned i)
{
	const struct board_pool_info *p = &o->s->pools[i].info;
	struct readiness ready = pool_readiness(o->s, i);
	uint64_t value;

	if (m == OWN_POOL_STATE) {
		put_states(o, m, "pool", p->name, "state", pool_state_name, BOARD_POOL_PAUSED + 1,
			p->state);
		return;
	}
	put_series(o, own[m].name, "", NULL, "pool", p->name, NULL);
	if (m == OWN_POOL_OLDEST_LEASE) {
		put_seconds(o->f, oldest_lease(o->s, i));
		fputc('\n', o->f);
		return;
	}
	value = m == OWN_POOL_WRITABLE   ? ready.writable
		: m == OWN_POOL_READABLE ? ready.readable
		: m == OWN_POOL_DEGRADED ? ready.degraded
		: m == OWN_POOL_MAX      ? p->max_size
					 : p->min_idle;
	fprintf(o->f, "%llu\n", (unsigned long long)value);
}

static void put_server_line(struct out *o, enum own_metric m, unsigned i)
{
	const struct board_server_info *v = &o->s->servers[i].info;

	if (m == OWN_SERVER_STATE) {
		put_states(o, m, "server", v->name, "state", server_state_name,
			BOARD_SERVER_RECOVERING + 1, v->state);
		return;
	}
	if (m == OWN_SERVER_ROLE) {
		put_states(o, m, "server", v->name, "role", server_role_name, BOARD_ROLE_LOCAL + 1,
			v->role);
		return;
	}
	put_series(o, own[m].name, "", NULL, "server", v->name, NULL);
	if (m == OWN_SERVER_LAG || m == OWN_SERVER_PROBE) {
		put_seconds(o->f, m == OWN_SERVER_LAG ? v->lag_ns : v->latency_ns);
		fputc('\n', o->f);
		return;
	}
	fprintf(o->f, "%llu\n",
		(unsigned long long)(m == OWN_SERVER_UP                ? v->state == BOARD_SERVER_UP
				     : m == OWN_SERVER_CONNECTIONS     ? v->connections
				     : m == OWN_SERVER_CONNECTIONS_MAX ? v->max_connections
								       : v->lag_bytes));
}

static void put_rows(struct out *o)
{
	for (enum own_metric m = OWN_POOL_STATE; m <= OWN_POOL_OLDEST_LEASE; m++) {
		begin_own(o, m);
		for (unsigned i = 0; i < o->s->npools; i++) {
			if (o->s->pools[i].used) {
				put_pool_line(o, m, i);
			}
		}
	}
	for (enum own_metric m = OWN_SERVER_UP; m <= OWN_SERVER_PROBE; m++) {
		begin_own(o, m);
		for (unsigned i = 0; i < o->s->nservers; i++) {
			if (o->s->servers[i].used) {
				put_server_line(o, m, i);
			}
		}
	}
}

void exporter_text(FILE *f, const struct sample *s, enum exporter_format format)
{
	struct out o = {f, format == EXPORTER_OPENMETRICS, s};

	if (s == NULL) {
		put_own(&o, OWN_UP, 0);
		put_own(&o, OWN_RUNNING, 0);
	} else {
		put_broker(&o);
		put_described(&o);
		put_rows(&o);
	}
	if (o.openmetrics) {
		fputs("# EOF\n", f);
	}
}

/* SPDX-License-Identifier: MIT */
/*
 * test_log.c - log lines: levels, escapes, JSON that a JSON reader accepts, a reader that is slow.
 *
 * Standard error is replaced by a pipe that the test reads.
 */
#include "log.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int reader;
static char got[65536];

static void capture(void)
{
	int fds[2];

	if (pipe(fds) < 0 || dup2(fds[1], STDERR_FILENO) < 0 ||
		fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0) {
		bail_out("cannot make a pipe");
	}
	close(fds[1]);
	reader = fds[0];
}

/* What was logged since the last call. */
static const char *logged(void)
{
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(got) - 1 && (n = read(reader, got + len, sizeof(got) - 1 - len)) > 0) {
		len += (size_t)n;
	}
	got[len] = '\0';
	return got;
}

/* The line without its time, newline cut. */
static const char *logged_text(void)
{
	char *line = (char *)logged();

	line[strcspn(line, "\n")] = '\0';
	return strlen(line) > 25 ? line + 25 : line;
}

static json_t *logged_json(const char *what)
{
	json_error_t e;
	const char *line = logged();
	json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, &e);

	if (!ok(o != NULL, "%s: valid JSON", what)) {
		diag("%s: %s", e.text, line);
	}
	return o;
}

static const char *member(json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static void test_levels(void)
{
	ok(!log_setup("loud", "text"), "an unknown level is refused");
	ok(!log_setup("info", "xml"), "an unknown format is refused");
	ok(log_setup("warning", "text"), "warning, text");
	ok(log_enabled(LOG_ERROR) && log_enabled(LOG_WARNING), "errors and warnings are on");
	ok(!log_enabled(LOG_INFO) && !log_enabled(LOG_DEBUG), "info and debug are off");
	log_info("quiet");
	log_debug("quiet");
	is_str(logged(), "", "what is off is not written");
	log_warning("heard");
	is_str(logged_text(), "warning heard", "what is on is written");
	ok(log_setup("debug", "text"), "debug, text");
	log_debug("n=%d", 7);
	is_str(logged_text(), "debug   n=7", "debug");
}

static void test_text(void)
{
	const char *line;

	log_setup("info", "text");
	log_error("pool main: gone conn=3");
	line = logged();
	ok(strlen(line) > 24 && line[4] == '-' && line[10] == 'T' && line[19] == '.' &&
			line[23] == 'Z',
		"a line begins with the time");
	is_str(line + 25, "error   pool main: gone conn=3\n", "text keeps the message as it is");
	log_info("a\nb\tc\rd\x1b[31m\x7f\\");
	is_str(logged_text(), "info    a\\nb\\tc\\rd\\x1b[31m\\x7f\\\\", "controls are escaped");
	log_info("caf\xc3\xa9 \xe2\x82\xac");
	is_str(logged_text(), "info    caf\xc3\xa9 \xe2\x82\xac", "UTF-8 passes");
	log_info("\xc2\x9b"
		 "31m \xff \xc0\xaf \xed\xa0\x80 \xe2\x82");
	is_str(logged_text(), "info    \\x9b31m \\xff \\xc0\\xaf \\xed\\xa0\\x80 \\xe2\\x82",
		"C1 controls and broken UTF-8 are escaped");
	errno = ENOENT;
	log_info("x");
	is_int(errno, ENOENT, "errno survives");
	logged();
}

static void test_json(void)
{
	json_t *o;

	log_setup("info", "json");
	log_info("pool main: connection ready conn=3 pid=4711 host=db.example ms=-12 zip=007");
	o = logged_json("fields");
	is_str(member(o, "level"), "info", "level");
	is_str(member(o, "msg"), "connection ready", "message without subject and fields");
	is_str(member(o, "pool"), "main", "subject");
	is_int(json_integer_value(json_object_get(o, "conn")), 3, "number");
	is_int(json_integer_value(json_object_get(o, "ms")), -12, "negative number");
	is_str(member(o, "host"), "db.example", "text");
	is_str(member(o, "zip"), "007", "a leading zero is no number");
	ok(member(o, "ts") != NULL && strlen(member(o, "ts")) == 24, "time");
	json_decref(o);

	log_info("say \"hi\"\n\x01\\ \xff \xc2\x9b value=\"x");
	o = logged_json("escapes");
	is_str(member(o, "msg"), "say \"hi\"\n\x01\\ \xef\xbf\xbd \xc2\x9b", "message");
	is_str(member(o, "value"), "\"x", "field");
	json_decref(o);

	log_info("forged level=error msg=no ts=0 pool=x a=1 a=2");
	o = logged_json("names that are taken");
	is_str(member(o, "level"), "info", "a field cannot replace the level");
	json_decref(o);

	log_info("a=1");
	o = logged_json("fields only");
	is_str(member(o, "msg"), "a=1", "the first word is the message");
	json_decref(o);
	log_info("%s", "");
	json_decref(logged_json("an empty message"));
}

static void test_long(void)
{
	static const char *const fills[] = {
		"a", "\x01", "\xff", "\"", "\xe2\x82\xac", "x=1 ", "k=\x01"};
	static const char *const formats[] = {"json", "text"};
	static char text[9000];
	bool good = true;

	for (unsigned k = 0; k < 2; k++) {
		log_setup("info", formats[k]);
		for (unsigned i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
			const char *line;
			size_t len = 0;

			while (len + 8 < sizeof(text)) {
				len += (size_t)snprintf(text + len, 8, "%s", fills[i]);
			}
			log_info("%s tail=1", text);
			line = logged();
			good = good && strlen(line) <= 4096 &&
			       strchr(line, '\n') == strrchr(line, '\n') &&
			       line[strlen(line) - 1] == '\n';
			if (k == 0) {
				json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

				good = good && o != NULL;
				json_decref(o);
			}
		}
	}
	ok(good, "long messages are cut to one valid line of at most PIPE_BUF bytes");
	log_setup("info", "text");
	memset(text, 'a', sizeof(text) - 1);
	log_info("%s", text);
	ok(strstr(logged(), "aaa [cut]\n") != NULL, "and say so");
}

static void test_slow_reader(void)
{
	unsigned sent = 0, lines = 0, lost = 0;
	const char *p;

	log_setup("info", "text");
	for (; sent < 5000; sent++) {
		log_info("line %u", sent);
	}
	for (p = logged(); (p = strchr(p, '\n')) != NULL; p++) {
		lines++;
	}
	ok(lines > 100 && lines < sent, "a full pipe drops lines instead of blocking");
	log_info("after");
	p = strstr(logged(), "lines=");
	lost = p != NULL ? (unsigned)atoi(p + 6) : 0;
	is_int(lost + lines, sent, "the next line tells how many");
	ok(strstr(got, "after\n") != NULL, "and is written itself");
}

static void *chatter(void *unused)
{
	for (int i = 0; i < 50; i++) {
		log_info("thread 0123456789012345678901234567890123456789 end");
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t t[4];
	unsigned whole = 0;
	char *save = NULL;

	for (unsigned i = 0; i < 4; i++) {
		if (pthread_create(&t[i], NULL, chatter, NULL) != 0) {
			bail_out("cannot start a thread");
		}
	}
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
	}
	for (char *l = strtok_r((char *)logged(), "\n", &save); l != NULL;
		l = strtok_r(NULL, "\n", &save)) {
		whole +=
			strcmp(l + 25,
				"info    thread 0123456789012345678901234567890123456789 end") == 0;
	}
	is_int(whole, 200, "lines of several threads stay whole");
}

int main(void)
{
	capture();
	test_levels();
	test_text();
	test_json();
	test_long();
	test_slow_reader();
	test_threads();
	return done_testing();
}

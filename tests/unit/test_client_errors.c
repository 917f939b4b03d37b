/* SPDX-License-Identifier: MIT */
/* test_client_errors.c - codes, texts, and error records from the broker, also malformed ones. */
#include "errstate.h"
#include "tap.h"

#include <stdio.h>
#include <string.h>

static void test_codes(void)
{
	unsigned n = 0;

#define BROKER_ERROR(name, number, text, advice)                                                   \
	is_str(broker_strerror(BROKER_E_##name), text, #name " has its text");                     \
	is_str(broker_advice(BROKER_E_##name), advice, #name " has its advice");                   \
	n++;
#include "errors.def"
#undef BROKER_ERROR
	is_int(n, BROKER_E_ARGUMENT - BROKER_E_INTERNAL + 1, "no number is left out");
	is_str(broker_strerror(-1), "unknown error code", "a code of nobody");
	is_str(broker_strerror(0), "no error", "no error");
}

/* A record as the broker writes it. */
static size_t record(unsigned char *out, const char *message, const char *detail, const char *hint)
{
	struct shm_error e = {
		.sqlstate = "23505",
		.message_len = (uint32_t)strlen(message),
		.detail_len = (uint32_t)strlen(detail),
		.hint_len = (uint32_t)strlen(hint),
		.retry_safe = 1,
	};

	memcpy(out, &e, sizeof(e));
	return sizeof(e) +
	       (size_t)sprintf((char *)out + sizeof(e), "%s%s%s", message, detail, hint);
}

static void test_report(void)
{
	unsigned char buf[512];
	size_t len = record(buf, "duplicate key", "Key (id)=(1)", "use another");
	struct errstate e;

	errstate_init(&e);
	is_int(errstate_report(&e, BROKER_E_DATABASE, BROKER_NOT_DONE, buf, len), BROKER_E_DATABASE,
		"a report returns its code");
	is_str(e.pub.message, "duplicate key", "message");
	is_str(e.pub.detail, "Key (id)=(1)", "detail");
	is_str(e.pub.hint, "use another", "hint");
	is_str(e.pub.sqlstate, "23505", "SQLSTATE");
	ok(e.pub.retry_safe && e.pub.outcome == BROKER_NOT_DONE, "verdict");
	for (size_t cut = 0; cut < len; cut++) {
		errstate_report(&e, BROKER_E_DATABASE, BROKER_UNKNOWN, buf, cut);
		if (strcmp(e.pub.message, broker_strerror(BROKER_E_DATABASE)) != 0 ||
			e.pub.outcome != BROKER_UNKNOWN) {
			ok(false, "a record cut at %zu is not believed", cut);
		}
	}
	ok(true, "records that are cut are not believed");
	memset(buf + offsetof(struct shm_error, message_len), 0xff, 12);
	errstate_report(&e, BROKER_E_DATABASE, BROKER_NOT_DONE, buf, len);
	is_str(e.pub.message, broker_strerror(BROKER_E_DATABASE), "impossible lengths neither");
}

static void test_long_texts(void)
{
	static unsigned char buf[8192];
	static char message[SHM_ERROR_TEXT_MAX + 500];
	struct errstate e;
	size_t len;

	memset(message, 'm', sizeof(message) - 1);
	len = record(buf, message, "detail", "hint");
	errstate_report(&e, BROKER_E_DATABASE, BROKER_NOT_DONE, buf, len);
	ok(strlen(e.pub.message) + strlen(e.pub.detail) + strlen(e.pub.hint) <= sizeof(e.text),
		"longer texts are cut to the buffer");
	is_int(errstate_set(&e, BROKER_E_USAGE, "%s", message), BROKER_E_USAGE,
		"a long own message");
	is_int((int64_t)strlen(e.pub.message), (int64_t)sizeof(e.text) - 1, "is cut as well");
	is_str(e.pub.sqlstate, "", "and leaves no SQLSTATE behind");
}

int main(void)
{
	test_codes();
	test_report();
	test_long_texts();
	return done_testing();
}

/* SPDX-License-Identifier: MIT */
/* errstate.c - see errstate.h. */
#include "errstate.h"

#include <stdio.h>
#include <string.h>

void errstate_init(struct errstate *e)
{
	e->pub = (struct broker_error){.message = "", .detail = "", .hint = ""};
	e->text[0] = '\0';
}

static int set_v(struct errstate *e, int code, enum broker_outcome outcome, bool retry_safe,
	const char *fmt, va_list ap)
{
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	e->pub = (struct broker_error){
		.code = code,
		.outcome = outcome,
		.retry_safe = retry_safe,
		.message = e->text,
		.detail = "",
		.hint = "",
	};
	return code;
}

int errstate_set(struct errstate *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_v(e, code, BROKER_NOT_DONE, false, fmt, ap);
	va_end(ap);
	return code;
}

int errstate_verdict(struct errstate *e, int code, enum broker_outcome outcome, bool retry_safe,
	const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_v(e, code, outcome, retry_safe, fmt, ap);
	va_end(ap);
	return code;
}

/* Append one text to the buffer; what does not fit is cut.  Returns where it stands. */
static const char *keep(struct errstate *e, size_t *at, const unsigned char *src, size_t len)
{
	char *dst = e->text + *at;
	size_t room = sizeof(e->text) - *at - 1;

	len = len < room ? len : room;
	memcpy(dst, src, len);
	dst[len] = '\0';
	*at += len + (len < room);
	return dst;
}

int errstate_report(
	struct errstate *e, int code, enum broker_outcome outcome, const void *record, size_t len)
{
	const unsigned char *p = (const unsigned char *)record + sizeof(struct shm_error);
	struct shm_error head;
	size_t at = 0;

	if (record == NULL || len < sizeof(head)) {
		return errstate_verdict(e, code, outcome, false, "%s", broker_strerror(code));
	}
	memcpy(&head, record, sizeof(head));
	len -= sizeof(head);
	if (!span_ok(head.message_len, head.detail_len, len) ||
		!span_ok((uint64_t)head.message_len + head.detail_len, head.hint_len, len)) {
		return errstate_verdict(e, code, outcome, false, "%s", broker_strerror(code));
	}
	e->pub = (struct broker_error){
		.code = code,
		.outcome = outcome,
		.retry_safe = head.retry_safe == 1,
	};
	memcpy(e->pub.sqlstate, head.sqlstate, sizeof(e->pub.sqlstate) - 1);
	e->pub.message = keep(e, &at, p, head.message_len);
	e->pub.detail = keep(e, &at, p + head.message_len, head.detail_len);
	e->pub.hint = keep(e, &at, p + head.message_len + head.detail_len, head.hint_len);
	if (e->pub.message[0] == '\0') {
		e->pub.message = broker_strerror(code);
	}
	return code;
}

/* SPDX-License-Identifier: MIT */
/*
 * log.h - structured log lines on standard error, one write(2) each.
 *
 *   text  2026-01-31T23:59:59.123Z info  pool main: connection ready conn=3 pid=4711 ms=12
 *   json  {"ts":"…","level":"info","msg":"…","pool":"main","conn":3}
 *
 * Thread-safe.  Secrets never reach a log: callers pass urls through config_mask_url.
 */
#ifndef BROKER_LOG_H
#define BROKER_LOG_H

#include <stdarg.h>
#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* Level and format ("text" or "json") for the process; false if a name is unknown. */
bool log_setup(const char *level, const char *format);
bool log_enabled(enum log_level level);

/* printf-style message; newline is added; control characters are escaped. */
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_vwrite(enum log_level level, const char *fmt, va_list ap);
/* Every line of text is a message of its own. */
void log_lines(enum log_level level, const char *text);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_enabled(LOG_DEBUG)) {                                                      \
			log_write(LOG_DEBUG, __VA_ARGS__);                                         \
		}                                                                                  \
	} while (0)

#endif

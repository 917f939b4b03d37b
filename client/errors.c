/* SPDX-License-Identifier: MIT */
/* errors.c - texts of the error codes, from errors.def, and the version of the library. */
#include "shmbroker.h"

#define BROKER_ERROR(name, number, text, advice)                                                   \
	_Static_assert(BROKER_E_##name == -(number), "errors.def and shmbroker.h agree");
#include "errors.def"
#undef BROKER_ERROR

const char *broker_version(void)
{
	return SHMBROKER_VERSION;
}

const char *broker_strerror(int code)
{
	switch (code) {
	case BROKER_OK:
		return "no error";
#define BROKER_ERROR(name, number, text, advice)                                                   \
	case -(number):                                                                            \
		return text;
#include "errors.def"
#undef BROKER_ERROR
	default:
		return "unknown error code";
	}
}

const char *broker_advice(int code)
{
	switch (code) {
#define BROKER_ERROR(name, number, text, advice)                                                   \
	case -(number):                                                                            \
		return advice;
#include "errors.def"
#undef BROKER_ERROR
	default:
		return "";
	}
}

/* SPDX-License-Identifier: MIT */
/* hash.h - FNV-1a, 64 bit (Fowler, Noll, Vo): short keys, compared in full where it matters. */
#ifndef BROKER_HASH_H
#define BROKER_HASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t hash_bytes(const char *bytes, size_t len)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++) {
		h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
	}
	return h;
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * exporter_text.h - a sample as the text that Prometheus and its kin scrape.
 *
 * Names, kinds, units and help are the board's own descriptions, so any broker's metrics come out,
 * also those that this build does not know.  A description whose name or label would break the
 * format is left out.  What the broker cannot count itself is listed in exporter.def.
 *
 * Times are seconds.  Histograms have one bucket for each power of two of nanoseconds from 2^10
 * (1 us) to 2^36 (69 s): these are edges of the board's own buckets, so the counts are exact, and
 * they are the same for all brokers, so they can be added up.
 */
#ifndef TOOLS_EXPORTER_TEXT_H
#define TOOLS_EXPORTER_TEXT_H

#include "reader.h"

#include <stdio.h>

enum exporter_format {
	EXPORTER_CLASSIC, /* Prometheus text format 0.0.4 */
	EXPORTER_OPENMETRICS, /* OpenMetrics 1.0.0 */
};

/* Value of the Content-Type header. */
const char *exporter_content_type(enum exporter_format format);

/* What a client wants that sent this Accept header; NULL is none. */
enum exporter_format exporter_accepts(const char *accept);

/* s NULL: there is no board; broker_up is 0 and nothing else is known. */
void exporter_text(FILE *f, const struct sample *s, enum exporter_format format);

#endif

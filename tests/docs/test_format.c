/* SPDX-License-Identifier: MIT */
/*
 * test_format.c - docs/shm-format.md tells the truth: every field of every shared struct stands in
 * the section of its struct, at its real offset.  With an argument the sections are printed.
 */
#include "layout.h"
#include "board.h"
#include "histogram.h"
#include "shape.h"
#include "slowring.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct field {
	const char *name;
	size_t off;
};

#define F(s, m) {#m, offsetof(struct s, m)}
#define CHECK(s, ...)                                                                              \
	do {                                                                                       \
		static const struct field fields[] = {__VA_ARGS__};                                \
		check_struct(#s, sizeof(struct s), fields, sizeof(fields) / sizeof(fields[0]));    \
	} while (0)

static char *doc;
static bool print_only;

static void check_struct(const char *name, size_t size, const struct field *f, size_t n)
{
	char head[128];
	char *section, *end;

	if (print_only) {
		printf("### struct %s, %zu bytes\n\n| offset | field |\n|---|---|\n", name, size);
		for (size_t i = 0; i < n; i++) {
			printf("| %zu | `%s` |\n", f[i].off, f[i].name);
		}
		printf("\n");
		return;
	}
	snprintf(head, sizeof(head), "### struct %s, %zu bytes\n", name, size);
	section = strstr(doc, head);
	if (!ok(section != NULL, "struct %s is described, with %zu bytes", name, size)) {
		return;
	}
	end = strstr(section + 4, "\n### ");
	for (size_t i = 0; i < n; i++) {
		char line[128];
		const char *p;

		snprintf(line, sizeof(line), "| %zu | `%s` |", f[i].off, f[i].name);
		p = strstr(section, line);
		ok(p != NULL && (end == NULL || p < end), "%s.%s at %zu", name, f[i].name,
			f[i].off);
	}
}

static void read_doc(void)
{
	const char *root = getenv("SOURCE_ROOT");
	char path[512];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "%s/docs/shm-format.md", root != NULL ? root : ".");
	file = fopen(path, "r");
	doc = calloc(1, 1 << 20);
	if (file == NULL || doc == NULL) {
		bail_out("cannot read %s", path);
	}
	n = fread(doc, 1, (1 << 20) - 1, file);
	doc[n] = '\0';
	fclose(file);
}

int main(int argc, char **argv)
{
	(void)argv;
	print_only = argc > 1;
	if (!print_only) {
		read_doc();
	}
	CHECK(shm_header, F(shm_header, magic), F(shm_header, major), F(shm_header, minor),
		F(shm_header, header_len), F(shm_header, endian), F(shm_header, role),
		F(shm_header, total_len), F(shm_header, boot_id), F(shm_header, broker_start_ns),
		F(shm_header, broker_start_ticks), F(shm_header, broker_pid),
		F(shm_header, nsections), F(shm_header, incarnation), F(shm_header, heartbeat_ns),
		F(shm_header, section));
	CHECK(shm_section, F(shm_section, type), F(shm_section, version), F(shm_section, off),
		F(shm_section, len), F(shm_section, stride), F(shm_section, count));
	CHECK(chan_worker, F(chan_worker, sub_tail), F(chan_worker, comp_head),
		F(chan_worker, sleeping));
	CHECK(chan_broker, F(chan_broker, comp_tail), F(chan_broker, sub_head),
		F(chan_broker, need_wake), F(chan_broker, bell), F(chan_broker, closed));
	CHECK(shm_request, F(shm_request, id), F(shm_request, op), F(shm_request, flags),
		F(shm_request, pool), F(shm_request, stmt), F(shm_request, lease),
		F(shm_request, off), F(shm_request, len), F(shm_request, free_chunk),
		F(shm_request, deadline_ns), F(shm_request, target), F(shm_request, reserved));
	CHECK(shm_body, F(shm_body, tag_len), F(shm_body, sql_len), F(shm_body, nparams),
		F(shm_body, reserved));
	CHECK(shm_param, F(shm_param, len), F(shm_param, type));
	CHECK(shm_completion, F(shm_completion, id), F(shm_completion, kind),
		F(shm_completion, flags), F(shm_completion, server), F(shm_completion, code),
		F(shm_completion, chunk), F(shm_completion, len), F(shm_completion, rows),
		F(shm_completion, wait_ns), F(shm_completion, run_ns), F(shm_completion, outcome));
	CHECK(shm_result_head, F(shm_result_head, ncols), F(shm_result_head, head_len));
	CHECK(shm_column, F(shm_column, name_len), F(shm_column, type));
	CHECK(shm_row, F(shm_row, len));
	CHECK(shm_cell, F(shm_cell, len), F(shm_cell, type), F(shm_cell, encoding));
	CHECK(shm_error, F(shm_error, sqlstate), F(shm_error, message_len),
		F(shm_error, detail_len), F(shm_error, hint_len), F(shm_error, retry_safe));
	CHECK(attach_hello, F(attach_hello, magic), F(attach_hello, major), F(attach_hello, minor),
		F(attach_hello, kind), F(attach_hello, result_kib), F(attach_hello, name),
		F(attach_hello, pool));
	CHECK(attach_reply, F(attach_reply, magic), F(attach_reply, major), F(attach_reply, minor),
		F(attach_reply, code), F(attach_reply, npools), F(attach_reply, pool),
		F(attach_reply, worker_slot), F(attach_reply, incarnation),
		F(attach_reply, max_request), F(attach_reply, default_timeout_ms),
		F(attach_reply, text));
	CHECK(attach_ready, F(attach_ready, magic));
	CHECK(metric_desc, F(metric_desc, name), F(metric_desc, kind), F(metric_desc, unit),
		F(metric_desc, scope), F(metric_desc, index));
	CHECK(board_pool_info, F(board_pool_info, name), F(board_pool_info, database),
		F(board_pool_info, user), F(board_pool_info, mode), F(board_pool_info, state),
		F(board_pool_info, nservers), F(board_pool_info, max_size),
		F(board_pool_info, min_idle), F(board_pool_info, server),
		F(board_pool_info, since_ns));
	CHECK(board_server_info, F(board_server_info, name), F(board_server_info, kind),
		F(board_server_info, address), F(board_server_info, last_error),
		F(board_server_info, state), F(board_server_info, role),
		F(board_server_info, connections), F(board_server_info, max_connections),
		F(board_server_info, lag_bytes), F(board_server_info, lag_ns),
		F(board_server_info, latency_ns), F(board_server_info, since_ns),
		F(board_server_info, probed_ns));
	CHECK(board_conn_info, F(board_conn_info, pool), F(board_conn_info, server),
		F(board_conn_info, state), F(board_conn_info, backend_pid),
		F(board_conn_info, worker_slot), F(board_conn_info, in_flight),
		F(board_conn_info, generation), F(board_conn_info, connected_ns),
		F(board_conn_info, since_ns), F(board_conn_info, lease_ns),
		F(board_conn_info, statements), F(board_conn_info, fingerprint),
		F(board_conn_info, statement_ns));
	CHECK(board_worker_info, F(board_worker_info, pid), F(board_worker_info, uid),
		F(board_worker_info, name), F(board_worker_info, tag), F(board_worker_info, state),
		F(board_worker_info, in_flight), F(board_worker_info, leases),
		F(board_worker_info, pool), F(board_worker_info, incarnation),
		F(board_worker_info, attached_ns), F(board_worker_info, active_ns),
		F(board_worker_info, statements), F(board_worker_info, errors));
	CHECK(board_event_slot, F(board_event_slot, seq), F(board_event_slot, when_ns),
		F(board_event_slot, kind), F(board_event_slot, text_len), F(board_event_slot, name),
		F(board_event_slot, text));
	CHECK(histogram, F(histogram, unit_shift), F(histogram, sub_bits), F(histogram, nbuckets),
		F(histogram, sum_ns), F(histogram, max_ns), F(histogram, bucket));
	CHECK(slow_slot, F(slow_slot, seq), F(slow_slot, when_ns), F(slow_slot, wait_ns),
		F(slow_slot, run_ns), F(slow_slot, rows), F(slow_slot, fingerprint),
		F(slow_slot, pool), F(slow_slot, server), F(slow_slot, worker_pid),
		F(slow_slot, code), F(slow_slot, flags), F(slow_slot, sql_len),
		F(slow_slot, sql_full_len), F(slow_slot, sqlstate), F(slow_slot, tag),
		F(slow_slot, params_len), F(slow_slot, sql));
	CHECK(shape_row, F(shape_row, seq), F(shape_row, fingerprint), F(shape_row, first_ns),
		F(shape_row, last_ns), F(shape_row, calls), F(shape_row, errors),
		F(shape_row, rows), F(shape_row, wait_ns), F(shape_row, pool), F(shape_row, flags),
		F(shape_row, text_len), F(shape_row, ntags), F(shape_row, tags), F(shape_row, run),
		F(shape_row, text));
	return print_only ? 0 : done_testing();
}

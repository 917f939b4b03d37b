/* SPDX-License-Identifier: MIT */
/*
 * test_recording.c - what is recorded is what is shown later: every frame equals the board it was
 * taken of, forwards and backwards; files that are cut, damaged or none are told.
 */
#include "board.h"
#include "reader.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define FRAMES 150u /* more than two key frames */

static char dir[] = "/tmp/recording-XXXXXX";
static char mem[64], sock[64], board_path[80], slow_path[80], file[64];

static struct board *board;

static uint64_t boottime(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void start_board(unsigned nworkers)
{
	struct board_geometry g = {.npools = 2,
		.nservers = 2,
		.nconns = 8,
		.nworkers = nworkers,
		.nslow = 16,
		.nsamples = 8,
		.nshapes = 8};
	struct board_place s = {board_path, mem, 0644, (gid_t)-1};
	struct board_place q = {slow_path, mem, 0640, (gid_t)-1};
	struct segment_identity id;

	segment_identity_self(&id);
	if (board_create(&id, &g, &s, &q, &board) < 0) {
		bail_out("board_create");
	}
	board_pool_row(board, 0, &(struct board_pool_info){.name = "main", .state = BOARD_POOL_UP});
}

/* What happens between frame n - 1 and frame n: every kind of thing, in some of them nothing. */
static void happen(unsigned n)
{
	char name[32];

	board_heartbeat(board, boottime());
	if (n % 7 == 3) {
		return;
	}
	snprintf(name, sizeof(name), "worker %u", n);
	board_count(board, METRIC_ATTACHES, n);
	board_pool_count(board, 0, POOL_METRIC_ROWS, 1000 + n);
	board_time(board, 0, POOL_HIST_RUN, 1000000u * (n + 1));
	board_worker_row(board, n % 4,
		n % 5 == 4 ? NULL
			   : &(struct board_worker_info){.pid = (int)n + 1, .statements = n});
	board_event(board, BOARD_EVENT_ROLE, "event %u", n);
	board_slow(board,
		&(struct slow_record){.sql = name, .sql_len = strlen(name), .run_ns = n + 1});
}

static struct sample *kept[FRAMES];
static struct numbered_slow *kept_slow[FRAMES];
static int kept_nslow[FRAMES];

static bool same_rows(const struct sample *a, const struct sample *b)
{
	if (a->nworkers != b->nworkers || a->nevents != b->nevents || a->npools != b->npools) {
		return false;
	}
	return memcmp(a->workers, b->workers, a->nworkers * sizeof(*a->workers)) == 0 &&
	       memcmp(a->pools, b->pools, a->npools * sizeof(*a->pools)) == 0 &&
	       memcmp(a->events, b->events, a->nevents * sizeof(*a->events)) == 0;
}

static bool same_values(const struct sample *a, const struct sample *b)
{
	bool same = a->nvalues == b->nvalues && a->nhist == b->nhist &&
		    memcmp(a->values, b->values, a->nvalues * sizeof(*a->values)) == 0 &&
		    memcmp(a->pool_values, b->pool_values,
			    (size_t)a->npools * a->pool_words * sizeof(*a->pool_values)) == 0;

	for (unsigned i = 0; same && i < a->nhist; i++) {
		same = a->hist[i].count == b->hist[i].count &&
		       a->hist[i].sum_ns == b->hist[i].sum_ns &&
		       memcmp(a->hist[i].bucket, b->hist[i].bucket, a->hist[i].nbuckets * 8u) == 0;
	}
	return same;
}

/* The recorder stands still between sample and frame, so clocks may differ a little. */
static bool same_time(const struct sample *a, const struct sample *b)
{
	return a->life == b->life && a->pid == b->pid && b->real_ns >= a->real_ns &&
	       b->real_ns - a->real_ns < 5000000000u && b->mono_ns >= a->mono_ns;
}

static bool frame_is(struct reader *r, unsigned n)
{
	struct numbered_slow *slow = NULL;
	struct sample *s = NULL;
	uint64_t lost;
	bool same;
	int nslow;

	if (reader_seek(r, n) < 0 || reader_sample(r, &s) < 0) {
		return false;
	}
	nslow = reader_slow(r, 0, &slow, &lost);
	same = same_rows(kept[n], s) && same_values(kept[n], s) && same_time(kept[n], s) &&
	       nslow == kept_nslow[n] &&
	       memcmp(slow, kept_slow[n], (unsigned)nslow * sizeof(*slow)) == 0;
	free(slow);
	sample_free(&s);
	return same;
}

static void keep(struct reader *r, unsigned n)
{
	uint64_t lost;

	if (reader_sample(r, &kept[n]) < 0) {
		bail_out("reader_sample");
	}
	kept_nslow[n] = reader_slow(r, 0, &kept_slow[n], &lost);
}

static void add_frame(struct reader *r, struct recorder *w)
{
	struct snapshot s;

	if (reader_snapshot(r, true, &s) < 0 || recorder_add(w, &s) < 0) {
		bail_out("cannot record");
	}
}

/* Half way through a new broker with another geometry takes the board over. */
static void record(void)
{
	struct recorder *w;
	struct reader *r;
	struct stat st;
	char err[256];

	if (reader_open(sock, 0, &r, err, sizeof(err)) < 0) {
		bail_out("%s", err);
	}
	is_int(recorder_create(file, "somewhere", &w), 0, "a recording begins");
	for (unsigned n = 0; n < FRAMES; n++) {
		if (n == FRAMES / 2) {
			board_destroy(&board);
			start_board(6);
			ok(reader_follow(r), "another broker is followed");
		}
		happen(n);
		keep(r, n);
		add_frame(r, w);
	}
	is_int(recorder_finish(&w), 0, "and ends");
	is_int(recorder_create(file, "x", &w), -EEXIST, "it is not overwritten");
	ok(stat(file, &st) == 0 && (st.st_mode & 07777) == 0600, "it is its owner's only");
	diag("%u frames take %lld KiB", FRAMES, (long long)st.st_size / 1024);
	reader_close(&r);
}

static void replay(void)
{
	struct reader *r;
	unsigned forwards = 0, backwards = 0, anywhere = 0;
	char err[256];

	is_int(reader_open_recording(file, &r, err, sizeof(err)), 0, "it can be opened");
	is_int(reader_frames(r), FRAMES, "with all its frames");
	is_str(reader_path(r), "somewhere", "and where it was recorded");
	ok(!reader_is_cut(r), "it is whole");
	ok(!reader_follow(r), "nothing in it is followed");
	for (unsigned n = 0; n < FRAMES; n++) {
		forwards += frame_is(r, n);
	}
	is_int(forwards, FRAMES, "forwards, every frame is what the board was");
	for (unsigned n = FRAMES; n-- > 0;) {
		backwards += frame_is(r, n);
	}
	is_int(backwards, FRAMES, "backwards, too");
	srand(3);
	for (unsigned n = 0; n < 100; n++) {
		anywhere += frame_is(r, (unsigned)rand() % FRAMES);
	}
	is_int(anywhere, 100, "and in any order");
	ok(reader_seek(r, FRAMES) < 0, "behind the end is nothing");
	reader_close(&r);
}

/* A recording without texts has none. */
static void test_no_texts(void)
{
	struct numbered_slow *slow = NULL;
	struct recorder *w;
	struct reader *r;
	struct snapshot s;
	char err[256];
	uint64_t lost;

	unlink(file);
	if (reader_open(sock, 0, &r, err, sizeof(err)) < 0 || recorder_create(file, "x", &w) < 0 ||
		reader_snapshot(r, false, &s) < 0 || recorder_add(w, &s) < 0 ||
		recorder_finish(&w) < 0) {
		bail_out("cannot record");
	}
	reader_close(&r);
	is_int(reader_open_recording(file, &r, err, sizeof(err)), 0, "one without texts");
	is_int(reader_slow(r, 0, &slow, &lost), -EACCES, "has none, and says why");
	free(slow);
	reader_close(&r);
}

static unsigned char *bytes;
static size_t nbytes;

static void load_bytes(void)
{
	FILE *f = fopen(file, "rb");

	bytes = malloc(1 << 24);
	nbytes = f != NULL && bytes != NULL ? fread(bytes, 1, 1 << 24, f) : 0;
	if (nbytes == 0) {
		bail_out("%s", file);
	}
	fclose(f);
}

static void store_bytes(const unsigned char *src, size_t n)
{
	FILE *f = fopen(file, "wb");

	if (f == NULL || fwrite(src, 1, n, f) != n) {
		bail_out("%s", file);
	}
	fclose(f);
}

static int try_open(char *text, size_t len)
{
	struct reader *r;
	int err = reader_open_recording(file, &r, text, len);

	if (err == 0) {
		err = (int)reader_frames(r);
		reader_close(&r);
	}
	return err;
}

static void test_cut(void)
{
	struct reader *r;
	char text[256];
	int frames;

	store_bytes(bytes, nbytes - 1);
	is_int(reader_open_recording(file, &r, text, sizeof(text)), 0,
		"one that was cut can be read");
	is_int(reader_frames(r), FRAMES - 1, "but for the frame that is not whole");
	ok(reader_is_cut(r) && frame_is(r, FRAMES - 2), "which is said");
	reader_close(&r);
	store_bytes(bytes, 512);
	is_int(try_open(text, sizeof(text)), -ENODATA, "one without frames");
	ok(strstr(text, "single whole frame") != NULL, "is called that");
	store_bytes(bytes, 100);
	is_int(try_open(text, sizeof(text)), -EPROTO, "one without its head is none");
	store_bytes((const unsigned char *)"#!/bin/sh\n", 10);
	is_int(try_open(text, sizeof(text)), -EPROTO, "nor is anything else");
	bytes[8]++;
	store_bytes(bytes, nbytes);
	is_int(try_open(text, sizeof(text)), -EPROTONOSUPPORT, "another version is refused");
	bytes[8]--;
	unlink(file);
	frames = try_open(text, sizeof(text));
	is_int(frames, -ENOENT, "no file");
}

/* Any bytes: frames are refused or shown, nothing breaks. */
static void test_damage(void)
{
	unsigned rounds = getenv("TEST_QUICK") != NULL ? 60 : 400, opened = 0, shown = 0,
		 refused = 0;
	unsigned char *copy = malloc(nbytes);

	srand(11);
	for (unsigned i = 0; i < rounds; i++) {
		struct sample *s;
		struct reader *r;
		char text[256];

		memcpy(copy, bytes, nbytes);
		for (int n = rand() % 3; n >= 0; n--) {
			copy[512 + (unsigned)rand() % (nbytes - 512)] ^=
				(unsigned char)(1u << rand() % 8);
		}
		store_bytes(copy, nbytes);
		if (reader_open_recording(file, &r, text, sizeof(text)) < 0) {
			continue;
		}
		opened++;
		for (unsigned n = 0; n < reader_frames(r); n += 1 + (unsigned)rand() % 40) {
			if (reader_seek(r, n) < 0 || reader_sample(r, &s) < 0) {
				refused++;
				continue;
			}
			shown++;
			sample_free(&s);
		}
		reader_close(&r);
	}
	diag("%u damaged files: %u opened, %u frames shown, %u refused", rounds, opened, shown,
		refused);
	ok(opened > 0 && shown > 0 && refused > 0,
		"damaged files are shown as far as they are whole");
	free(copy);
}

/* Frames whose segments are not what they say, checksums and all. */
static void test_hostile_segments(void)
{
	unsigned refused = 0, shown = 0;

	for (unsigned i = 0; i < 200; i++) {
		struct recorder *w;
		struct reader *r;
		struct snapshot s;
		struct sample *sample;
		char text[256];

		unlink(file);
		if (reader_open(sock, 0, &r, text, sizeof(text)) < 0 ||
			recorder_create(file, "x", &w) < 0 || reader_snapshot(r, true, &s) < 0) {
			bail_out("cannot record");
		}
		for (unsigned n = 0; n < 4; n++) { /* the header, or rows and descriptions */
			size_t most = i % 2 == 0 ? 1024 : s.len[RECORDING_S];

			s.bytes[RECORDING_S][8 + (unsigned)rand() % (most - 8)] =
				(unsigned char)rand();
		}
		if (recorder_add(w, &s) < 0 || recorder_finish(&w) < 0) {
			bail_out("cannot record");
		}
		reader_close(&r);
		if (reader_open_recording(file, &r, text, sizeof(text)) < 0) {
			refused++;
			continue;
		}
		if (reader_sample(r, &sample) == 0) {
			shown++;
			sample_free(&sample);
		}
		reader_close(&r);
	}
	ok(refused > 0 && shown > 0, "of 200 lying boards %u are shown, %u refused", shown,
		refused);
}

/* A frame of one span for a segment of 4096 bytes. */
static int try_span(uint32_t segment, uint64_t off, uint32_t len, size_t given)
{
	struct recording_head head = {
		RECORDING_MAGIC, RECORDING_VERSION, sizeof(struct recording_frame), "x"};
	struct recording_frame f = {
		.magic = RECORDING_FRAME_MAGIC, .flags = RECORDING_F_KEY, .len = {4096, 0}};
	struct recording_span span = {segment, len, off};
	unsigned char raw[256] = {0}, all[2048];
	uLongf packed = sizeof(all) - sizeof(head) - sizeof(f);
	char text[256];

	memcpy(raw, &span, sizeof(span));
	f.raw_len = given;
	if (compress(all + sizeof(head) + sizeof(f), &packed, raw, given) != Z_OK) {
		bail_out("compress");
	}
	f.payload_len = packed;
	f.payload_crc = (uint32_t)crc32_z(0, all + sizeof(head) + sizeof(f), packed);
	f.head_crc =
		(uint32_t)crc32_z(0, (const void *)&f, offsetof(struct recording_frame, head_crc));
	memcpy(all, &head, sizeof(head));
	memcpy(all + sizeof(head), &f, sizeof(f));
	store_bytes(all, sizeof(head) + sizeof(f) + packed);
	return try_open(text, sizeof(text));
}

static void test_hostile_spans(void)
{
	is_int(try_span(0, 0, 8, 24), -EPROTO, "zeroes are no board");
	is_int(try_span(0, 4096, 8, 24), -EPROTO, "a span behind the end");
	is_int(try_span(0, UINT64_MAX - 4, 8, 24), -EPROTO, "or around it");
	is_int(try_span(0, 0, 200, 24), -EPROTO, "a span longer than what is given");
	is_int(try_span(0, 0, UINT32_MAX, 24), -EPROTO, "much longer");
	is_int(try_span(1, 0, 8, 24), -EPROTO, "a span of a segment that is not there");
	is_int(try_span(7, 0, 8, 24), -EPROTO, "or never was");
	is_int(try_span(0, 0, 0, 9), -EPROTO, "half a span");
}

static void forget(void)
{
	for (unsigned n = 0; n < FRAMES; n++) {
		sample_free(&kept[n]);
		free(kept_slow[n]);
	}
	free(bytes);
	board_destroy(&board);
	unlink(file);
	rmdir(mem);
	ok(rmdir(dir) == 0, "nothing is left");
}

int main(void)
{
	if (mkdtemp(dir) == NULL) {
		bail_out("mkdtemp");
	}
	snprintf(mem, sizeof(mem), "%s/mem", dir);
	snprintf(sock, sizeof(sock), "%s/s", dir);
	snprintf(board_path, sizeof(board_path), "%s.board", sock);
	snprintf(slow_path, sizeof(slow_path), "%s.slow", sock);
	snprintf(file, sizeof(file), "%s/rec", dir);
	if (mkdir(mem, 0700) < 0) {
		bail_out("mkdir");
	}
	start_board(4);
	record();
	load_bytes();
	replay();
	test_cut();
	test_damage();
	test_no_texts();
	test_hostile_segments();
	test_hostile_spans();
	forget();
	return done_testing();
}

/* SPDX-License-Identifier: MIT */
/*
 * sqllex.h - cut a statement into tokens, as PostgreSQL's own scanner does.
 *
 * The rules are chapter 4.1 of PostgreSQL's manual, in sqllex.l, from which flex makes the code
 * (docs/decisions/0006).  Tests compare its tokens with those of PostgreSQL's scanner.  What SQLite
 * writes differently (`names`) is understood, too.  There are no errors: a literal that does not
 * end, ends with the text.
 *
 * Needs no memory but its own struct, so nothing can fail.  Any thread, one at a time per struct.
 */
#ifndef BROKER_SQLLEX_H
#define BROKER_SQLLEX_H

#include <stdalign.h>
#include <stddef.h>

enum sql_token {
	SQL_END = 0,
	SQL_WORD, /* key word or identifier without quotes */
	SQL_QUOTED, /* identifier in quotes, with them */
	SQL_STRING, /* literal of any kind: '', E'', B'', X'', U&'', N'', $$ $$; adjoining ones are
		       one */
	SQL_NUMBER, /* without sign */
	SQL_PARAM, /* $1 */
	SQL_OPERATOR, /* of one or more characters; also ::, :=, =>, .. */
	SQL_PUNCTUATION, /* , ( ) [ ] . ; : and whatever else stands alone */
};

#define SQLLEX_ARENA 512u

struct sqllex {
	/* the token that sqllex_next returned, inside the text */
	const char *at;
	size_t len;

	/* private */
	void *scanner;
	enum sql_token literal; /* kind of the literal or name that is being read */
	unsigned depth; /* of comments inside each other */
	const char *tag; /* of a dollar-quoted string */
	size_t tag_len;
	size_t used; /* of arena */
	alignas(max_align_t) char arena[SQLLEX_ARENA]; /* the scanner's state */
};

/*
 * Begin with the text of len bytes at buf.  buf has two more bytes, which are set to NUL; the
 * scanner also writes to the others, and puts back what stood there.
 */
void sqllex_begin(struct sqllex *lx, char *buf, size_t len);
/* The next token; SQL_END again and again at the end. */
enum sql_token sqllex_next(struct sqllex *lx);

#endif

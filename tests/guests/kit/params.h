/*
 * The command line, as words NAME or NAME=VALUE. Words that nobody asks for are passed over, as
 * Linux does; the value of a word that somebody asks for must be good, or the guest ends and says
 * why.
 */
#ifndef KIT_PARAMS_H
#define KIT_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#define PARAMS_WORDS_MAX 128

enum param_type {
	PARAM_FLAG,   /* bool: the word is there */
	PARAM_NUMBER, /* uint64_t: decimal or 0x; K, M and G multiply by powers of 1024 */
	PARAM_TEXT,   /* const char * */
	PARAM_CHOICE, /* unsigned int: the index among `choices` */
};

struct param {
	const char *name;
	enum param_type type;
	void *value;		    /* left alone when the word is not there */
	const char *const *choices; /* NULL-terminated */
	uint64_t minimum, maximum;  /* of a number; a maximum of 0 is none */
};

/* Splits the command line. Called before the program. */
void params_init(void);

/* Fills in all values; of words that come twice, the last. */
void params_read(const struct param *params, size_t count);

/* The value of the index-th word of this name; NULL when there are fewer. */
const char *params_nth(const char *name, unsigned int index);

#endif

/*
 * What every command line of this project does with its arguments: numbers, and sentences for what
 * getopt_long(3) refuses.
 *
 * For the main thread, like getopt_long itself. Errors are sentences that say what to type instead.
 */
#ifndef MAYFLY_ARGUMENTS_H
#define MAYFLY_ARGUMENTS_H

#include <getopt.h>

#include "mayfly/error.h"

/* getopt_long codes from here on are those of long options; below are letters. */
#define ARGUMENTS_FIRST_LONG 256

/* A decimal number from `least` to `most`, without sign or space. `name` is the option's. */
int arguments_number(const char *name, const char *text, uint64_t least, uint64_t most,
		     uint64_t *value, struct error *err);

/* What getopt_long's '?' or ':' means, as a sentence. `help` is the command that lists the options.
 */
int arguments_refuse(int code, char **argv, const struct option *known, const char *help,
		     struct error *err);

#endif

/* Which protections a jail lacks, in words for the one who started it. */
#ifndef MAYFLY_JAIL_MISSING_H
#define MAYFLY_JAIL_MISSING_H

#include "jail.h"

/* Says on standard error what is missing; with --strict that is an error. */
int missing_report(const struct jail *jail, struct error *err);

#endif

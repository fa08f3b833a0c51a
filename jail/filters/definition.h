/*
 * The definition of system-call filters: a text of one rule for each line. docs/seccomp.md
 * describes it; mayfly.filter is the monitor's own.
 *
 * This is for the compiler (mayfly-seccomp), which runs when Mayfly is built and on the machine of
 * whoever writes a filter of his own. The monitor has none of it.
 */
#ifndef JAIL_FILTERS_DEFINITION_H
#define JAIL_FILTERS_DEFINITION_H

#include <stdbool.h>
#include <stdint.h>

#define DEFINITION_MAX_RULES	  512
#define DEFINITION_MAX_CONDITIONS 4

enum filter_thread {
	FILTER_VMM,
	FILTER_VCPU,
	FILTER_UFFD,
	FILTER_FORK,
	FILTER_THREADS
};

enum rule_action {
	RULE_ALLOW,
	RULE_REFUSE, /* with an error */
	RULE_KILL
};

/* Of the lower 32 bits of an argument: (argument & mask) == value. */
struct condition {
	unsigned int argument;
	uint32_t mask, value;
};

struct rule {
	enum rule_action action;
	unsigned int threads; /* a bit for each */
	unsigned int line;
	int number; /* of the call */
	int error;  /* of RULE_REFUSE */
	char *call;
	char *conditions_text; /* as written, "" without any */
	char *error_text;      /* as written, NULL without */
	char *why;
	struct condition conditions[DEFINITION_MAX_CONDITIONS];
	unsigned int condition_count;
};

struct definition {
	const char *path; /* borrowed; for messages */
	struct rule rules[DEFINITION_MAX_RULES];
	unsigned int rule_count;
};

/* Reads the file. False, and a message with the line on standard error, when something is wrong
 * with it. */
bool definition_read(struct definition *definition, const char *path);
void definition_clear(struct definition *definition);

/* Whether any rule is for this thread. */
bool definition_names(const struct definition *definition, enum filter_thread thread);

const char *filter_thread_name(enum filter_thread thread);

/* The value of a name of the kernel's headers. False: not known. */
bool symbol_value(const char *name, uint32_t *value);

#endif

/*
 * A forker that makes no processes, for a fuzzer: it keeps the order that the monitor sent, and
 * answers what the fuzzer says. A monitor that comes next in the same process can be the fork.
 */
#ifndef TESTS_FUZZ_MONITOR_FAKE_FORKER_H
#define TESTS_FUZZ_MONITOR_FAKE_FORKER_H

#include "fake.h"
#include "mayfly/forker.h"

struct fake_forker {
	struct forker forker; /* the monitor's */
	int fd;		      /* the other end */
	char *words;	      /* of the last order; NULL: there is none */
	int descriptors[FORKER_MAX_DESCRIPTORS];
};

void fake_forker_open(struct fake_forker *fake);
/* The order stays until fake_forker_forget(). */
void fake_forker_close(struct fake_forker *fake);
void fake_forker_forget(struct fake_forker *fake);

/* Takes an order, if there is one, and answers as the input says. */
void fake_forker_answer(struct fake_forker *fake, struct fuzz_input *input);

/* A copy of the order, as a new monitor gets it. False: there is none. */
bool fake_forker_order(const struct fake_forker *fake, struct forker_order *order);

/* Changes bytes of a file as the input says; `mend`: and the checksums of a state file. */
void fake_damage(int fd, struct fuzz_input *input, bool mend);

#endif

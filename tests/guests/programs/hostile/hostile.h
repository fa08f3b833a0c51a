/*
 * hostile: a guest that does to the devices whatever a driver must not do. See ../../README.md.
 *
 * A case does its worst and says by expect() and its relatives what the standard lets a guest
 * expect. The first expectation that does not hold is the case's verdict. hostile.c runs the cases
 * and judges, after each, whether the other device goes on and the victim works again after a
 * reset.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "rig.h"

/* What a case is about, and what it needs to run. */
enum hostile_need {
	NEED_NOTHING,
	NEED_BLOCK, /* the victim: the first drive, writable. The witness: the second, read-only */
	NEED_NET,   /* the victim: the first network device */
	NEED_TWO_CPUS, /* a victim drive, and a second CPU */
	NEED_NET_AND_TWO_CPUS,
};

struct hostile_case {
	const char *name;
	void (*run)(struct rig *rig);
	uint64_t features; /* the device is ready with these when the case begins */
};

struct hostile_suite {
	const char *name;
	enum hostile_need need;
	bool raw; /* the device is only reset when a case begins */
	const struct hostile_case *cases;
	size_t count;
};

#define SUITE(name, need, raw, cases)                                      \
	{                                                                  \
		name, need, raw, cases, sizeof(cases) / sizeof((cases)[0]) \
	}

extern const struct hostile_suite suite_chains, suite_indirect, suite_rings, suite_registers,
	suite_queue_registers, suite_requests, suite_ranges, suite_legacy, suite_nowhere,
	suite_race, suite_net, suite_race_net, suite_ends;

/* The command line. */
extern uint64_t rounds;	  /* of what is done many times */
extern uint64_t patience; /* in ticks, for what must come */

/* From here on `what` (without spaces) is the verdict, unless there is one already. */
bool expect(bool holds, const char *what, uint64_t value);

/* A device was seen to ask for a reset: the metrics must have counted as many. */
void count_broken(void);

/* The other drive answers. */
void expect_witness(void);

/* For a case that wants something of it, or has disturbed it: then it must start it again. */
struct rig *witness_rig(void);

/* Whether there is a second CPU. */
bool race_is_possible(void);

/* The second CPU does `step` again and again, in ring 3, until the race ends. */
void race_start(struct rig *rig, void (*step)(struct rig *rig, uint64_t numbers));
void race_end(void);

/* Such a step. */
void race_rewrite_descriptors(struct rig *rig, uint64_t numbers);

/* net.c: false when there is no network device; its transmit queue; a start of both queues. */
bool net_init(void);
struct rig *net_rig(void);
void net_start(uint64_t features);

/* After a reset, a question to the host is answered. */
void expect_net_works(void);

/* The end of RAM below 4 GiB. */
uint64_t end_of_memory(void);

/* The next of a sequence of numbers, the same in each run. */
uint64_t random_next(uint64_t *state);

#endif

/*
 * The forker: a process that makes monitors, for one that may not make processes any more.
 *
 * A monitor whose guest runs has given up fork(2), new virtual machines, sockets and much else. So
 * a monitor that is to be forked (--enable-fork) starts by forking a small process, before it has
 * opened or read anything, which sleeps until it is sent an order: words (JSON) and descriptors. It
 * forks itself for it, and the new process is a monitor at its beginning, which goes through the
 * ordinary start. The forker shares no memory with the monitor, looks at nothing in an order but
 * its length, and has one answer for each: that of the new monitor, or why there is none. It ends
 * with its monitor; those that it made go on.
 *
 * System calls: socketpair, fork, sendmsg, recvmsg, poll, read, write, pipe2, setsid, kill, prctl.
 */
#ifndef MAYFLY_FORKER_H
#define MAYFLY_FORKER_H

#include <sys/types.h>
#include "mayfly/error.h"

#define FORKER_MAX_DESCRIPTORS 3
#define FORKER_MAX_WORDS_BYTES (128 * KIB)
/* How long a new monitor may take until it says that its guest is there, as a rule. */
#define FORKER_WAIT_MS 20000

/* The monitor's end. */
struct forker {
	int fd; /* readable: forker_take_answer(); -1: there is none (any more) */
};

/* What a new monitor was made for. */
struct forker_order {
	bool given; /* false: this process was started by somebody else */
	int descriptors[FORKER_MAX_DESCRIPTORS];
	char *words;   /* ends with a 0 */
	int answer_fd; /* -1: the answer is given */
};

struct forker_answer {
	int32_t code; /* 0, or the errno of `message` */
	int32_t process_id;
	char message[ERROR_MESSAGE_BYTES];
};

/*
 * Makes a forker for this process. Returns here in the monitor, and again in every new one, where
 * `order` is what it is for and which has a forker of its own. A process without an order gives one
 * that is zeroed. Once, while the process has one thread and nothing open but the standard
 * descriptors and what `order` holds. After a failure forker_report() is still due.
 *
 * A new monitor that says nothing for `wait_ms` gets a SIGABRT, whose handler takes its API socket
 * away (signals.h), and where it does not end by that, SIGKILL.
 */
int forker_start(struct forker *forker, struct forker_order *order, int wait_ms, struct error *err);

/* The monitor: closes its end, which ends the forker. */
void forker_close(struct forker *forker);

/* -EPIPE when it is known to have ended. */
int forker_check(const struct forker *forker, struct error *err);

/* Sends an order. One at a time: the next when the answer was taken. -EPIPE: the forker is gone. */
int forker_send(struct forker *forker, const char *words,
		const int descriptors[FORKER_MAX_DESCRIPTORS], struct error *err);

/*
 * Takes the answer, when forker->fd is readable. What the order failed of, or that the forker has
 * died (-EPIPE), is the error.
 */
int forker_take_answer(struct forker *forker, pid_t *process_id, struct error *err);

/* The new monitor: says that it runs, or why it does not, once. Without an order: nothing. */
void forker_report(struct forker_order *order, const struct error *err);

/* Closes and frees what is left of an order. */
void forker_order_clear(struct forker_order *order);

#endif

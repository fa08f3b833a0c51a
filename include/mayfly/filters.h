/*
 * System-call filters (seccomp(2)): one for the main thread, another for it where the monitor can
 * be forked (forker.h), one for vCPU threads, one for the thread that watches who brings memory
 * (uffd.h). They are classic BPF programs that mayfly-seccomp
 * compiles from jail/filters/mayfly.filter when Mayfly is built; the monitor holds them as data, or
 * reads such a program from a file (--seccomp-filter).
 *
 * A call that is not allowed ends the process with exit code 148: the kernel sends SIGSYS, and the
 * handler of signals.h logs the call's number.
 */
#ifndef MAYFLY_FILTERS_H
#define MAYFLY_FILTERS_H

#include <linux/filter.h>

#include "mayfly/error.h"

enum filters_thread {
	FILTERS_VMM,  /* the main thread */
	FILTERS_VCPU, /* each vCPU's */
	FILTERS_UFFD, /* the one that a monitor has whose memory a handler brings */
	FILTERS_FORK, /* the main thread of a monitor that has a forker */
	FILTERS_THREADS
};

struct filters_program {
	const struct sock_filter *instructions;
	unsigned short count; /* 0: the thread is not filtered */
};

struct filters {
	struct filters_program programs[FILTERS_THREADS];
	struct sock_filter *owned; /* what a file said; NULL: nothing */
};

/*
 * The file of --seccomp-filter, little-endian: this head, then for each of `program_count` programs
 * a struct filters_file_program and its instructions (struct sock_filter, 8 bytes each), and
 * nothing behind the last.
 */
#define FILTERS_FILE_MAGIC   "MAYFLYBP"
#define FILTERS_FILE_VERSION 1

struct filters_file_head {
	char magic[8];
	uint32_t version;
	uint32_t architecture;	/* AUDIT_ARCH_X86_64 */
	uint32_t program_count; /* each thread's, once, in any order; uffd's and fork's may be
				   missing */
	uint32_t reserved;	/* 0 */
};

struct filters_file_program {
	char thread[8]; /* "vmm", "vcpu", "uffd" or "fork", then zeros */
	uint32_t instruction_count;
	uint32_t reserved; /* 0 */
};

/* Whether a guest runs with the built-in filters when nobody says otherwise. Not in builds with
 * sanitizers or for coverage: their run-time libraries make calls of their own, at any time. */
bool filters_are_default(void);

/* Those of the build. */
void filters_use_built_in(struct filters *filters);

/* Those of a file, which is checked whole: vmm's stands in for uffd's and fork's that it has not.
 * The message names it and, for what is wrong in it, the offset in bytes. */
int filters_load(struct filters *filters, const char *path, struct error *err);

/* The same of a file's content; `name` is for messages. */
int filters_parse(struct filters *filters, const void *data, size_t bytes, const char *name,
		  struct error *err);

void filters_clear(struct filters *filters);

/*
 * Installs a thread's filter for the calling thread, for good, and takes away its right to gain any
 * by execve (no_new_privs). `filters` NULL, or without a program for it: nothing is done.
 */
int filters_enter(const struct filters *filters, enum filters_thread thread, struct error *err);

/* "read" for 0; "?" for what x86-64 had not when Mayfly was built. Safe in a signal's handler. */
const char *filters_call_name(unsigned int number);

#endif

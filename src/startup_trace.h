/*
 * The startup trace (`--startup-trace FILE`): when the process reached each stage of its life, for
 * those who measure where the time of a start and of an end goes.
 *
 * A mark is one reading of CLOCK_MONOTONIC, and nothing at all where nobody asked for the trace
 * (NULL). Each stage has one thread that marks it: vCPU 0's thread the two of KVM_RUN, the main
 * thread all others; the trace is written when the vCPU threads are gone.
 */
#ifndef MAYFLY_SRC_STARTUP_TRACE_H
#define MAYFLY_SRC_STARTUP_TRACE_H

#include "mayfly/error.h"

enum startup_stage {
	STARTUP_MAIN, /* main() begins: the kernel's exec and the C library's own start are over */
	STARTUP_OPTIONS, /* the command line is read */
	STARTUP_API, /* signals, loop, and the API socket, if any, are there: clients can connect */
	STARTUP_CONFIG,	 /* the microVM is configured, and its start or a load is asked for */
	STARTUP_MEMORY,	 /* from here to THREADS: machine_prepare(), with --prepare before CONFIG.
			    Guest memory has its address space */
	STARTUP_VM,	 /* the VM with its memory slots and interrupt controllers */
	STARTUP_VCPUS,	 /* its vCPUs */
	STARTUP_THREADS, /* the vCPU threads have been asked for */
	STARTUP_KERNEL,	 /* kernel, tables and command line are in guest memory; in a load, its file
			    is */
	STARTUP_DISKS,	 /* the drives' files are open, and TAPs */
	STARTUP_STATE,	 /* a load: vCPUs and interrupt controllers are as they were */
	STARTUP_DEVICES, /* devices, wired to KVM */
	STARTUP_FILTERS, /* the main thread has its filter; the vCPUs are woken */
	STARTUP_RUN,	 /* vCPU 0's first KVM_RUN begins */
	STARTUP_EXIT,	 /* and returns: the guest has executed instructions */
	STARTUP_END,	 /* the main thread sees the guest's end */
	STARTUP_STOPPED, /* the vCPU threads are gone */
	STARTUP_FLUSHED, /* devices drained, flushed and gone */
	STARTUP_CLOSED,	 /* the VM's descriptors are closed */
	STARTUP_TORN_DOWN, /* guest memory, API and everything else: what is left is the exit */
	STARTUP_STAGES
};

struct startup_trace {
	int fd;				/* where it goes; -1: nobody asked */
	uint64_t at_ns[STARTUP_STAGES]; /* 0: not reached */
};

void startup_trace_init(struct startup_trace *trace);

/* Makes or empties `path` (mode 0600), or opens the FIFO that it is. The message names it. */
int startup_trace_open(struct startup_trace *trace, const char *path, struct error *err);

/*
 * Writes a line "STAGE NANOSECONDS" for each stage that was reached, in the order of enum
 * startup_stage, and closes the file. Without a file it does nothing.
 */
int startup_trace_finish(struct startup_trace *trace, struct error *err);

/* The first mark of a stage counts. `trace` may be NULL. */
static inline void startup_mark(struct startup_trace *trace, enum startup_stage stage)
{
	if (trace && !trace->at_ns[stage])
		trace->at_ns[stage] = clock_ns(CLOCK_MONOTONIC);
}

#endif

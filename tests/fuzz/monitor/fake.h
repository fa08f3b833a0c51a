/*
 * A host for a whole monitor inside a fuzzer: what its system calls would reach beyond this process
 * is played here, the rest is real. The linker sends the calls here (--wrap, see meson.build).
 *
 *   fake_kvm.c    /dev/kvm: a virtual machine that executes nothing. Its vCPUs' exits are what the
 *                 fuzzer posted; writes that an ioeventfd watches become its event, as in the
 * kernel. fake_host.c   files (in memory, by a few names), TAPs (socket pairs), standard input and
 * output, the API's socket, the clock, timers, and the end of a turn of the event loop.
 *   fake_snapshots.c   the files that the monitor itself makes: a snapshot's.
 *
 * The vCPUs' threads are the monitor's own. They stand in KVM_RUN until something is posted, so a
 * fuzzer that settles after each step sees the same every time.
 */
#ifndef TESTS_FUZZ_MONITOR_FAKE_H
#define TESTS_FUZZ_MONITOR_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mayfly/loop.h"
#include "tests/fuzz/fuzz_input.h"

#define FAKE_TAPS     8
#define FAKE_FDS_FROM 256 /* ours; those below are counted as the monitor's */

enum fake_exit_kind {
	FAKE_PIO,
	FAKE_MMIO,
	FAKE_OTHER, /* exit reason `address`, the first words of its data `value` */
	FAKE_ERROR, /* KVM_RUN fails with error number `address` */
};

struct fake_exit {
	enum fake_exit_kind kind;
	bool write;
	uint8_t size;
	uint32_t count; /* PIO: string instructions */
	uint64_t address;
	uint64_t value;
};

/* Once. Standard input and output become the guest's serial line. */
void fake_host_init(void);

/*
 * Before each execution: files as they were, time at its beginning, no TAP. The KVM call number
 * `fail_at` (from 1; 0: none) fails with `fail_errno`.
 */
void fake_host_begin(unsigned int fail_at, int fail_errno);
/* Between these two (NULL: the end) calls are the monitor's, whose loop this is. */
void fake_host_enter(struct loop *loop);
/* After each execution, when the monitor has been torn down: nothing may be left open. */
void fake_host_end(void);

bool fake_host_is_entered(void);

/* The file of a snapshot by its name, not the caller's to close; -1: there is none. */
int fake_snapshot_fd(const char *name);
void fake_snapshots_clear(void);

/* Runs the real loop until it rests. Returns true when the monitor has ended it: `*result`. */
bool fake_host_turn(struct loop *loop, int *result);
void fake_clock_advance(uint64_t ns);
uint64_t fake_clock_ns(void);

/* A new connection to the API, or -1. */
int fake_host_connect(void);
/* The wire behind the TAP opened last but `index`; -1 when there is none. */
int fake_host_wire(unsigned int index);
/* The other end of standard input and output. */
int fake_host_terminal(void);

/* Hands an exit to a vCPU, which takes it when it runs. Without such a vCPU, nothing. */
void fake_kvm_post(unsigned int vcpu, const struct fake_exit *exit);
/* Until every vCPU has served what was posted and stands in KVM_RUN, or its thread has ended. */
void fake_kvm_settle(void);
/* What the last access that read on this vCPU got. */
uint64_t fake_kvm_last_read(unsigned int vcpu);
/* Guest memory as KVM was told, or NULL. */
void *fake_kvm_memory(uint64_t gpa, uint64_t length);

/* Between fake_kvm.c and fake_host.c. */
void fake_kvm_begin(unsigned int fail_at, int fail_errno);
int fake_kvm_open(void);
int fake_tap_ioctl(int fd, unsigned long request, void *argument, bool *mine);

#endif

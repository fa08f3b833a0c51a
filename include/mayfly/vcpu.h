/*
 * The vCPUs of a machine: one thread each, which runs KVM_RUN and serves what comes out of it.
 *
 * The group ends when a guest resets the machine (vcpus_request_reset(), by the i8042) or when a
 * vCPU fails; the first to say so counts, and exit_fd becomes readable for the main thread. Unless
 * said otherwise, functions are for the main thread.
 */
#ifndef MAYFLY_VCPU_H
#define MAYFLY_VCPU_H

#include "mayfly/boot.h"
#include "mayfly/bus.h"
#include "mayfly/vm.h"

enum vcpus_exit {
	VCPUS_RUNNING,
	VCPUS_RESET,	/* the guest asked for it: a clean end */
	VCPUS_SHUTDOWN, /* triple fault */
	VCPUS_FAILED,	/* KVM could not go on, or returned what is not expected */
};

struct vcpus;
struct startup_trace;
struct filters;

struct vcpus_config {
	unsigned int count;
	bool smt;
	const struct bus *pio, *mmio; /* borrowed */
	struct vm *vm;		      /* borrowed */
	struct log *log;	      /* borrowed */
	uint64_t start_time_us; /* CLOCK_MONOTONIC when the machine was asked for; 0: unknown */
	struct startup_trace *startup_trace; /* borrowed; NULL: nobody wants it */
	const struct filters *filters;	     /* of system calls; borrowed; NULL: none */
};

/* Makes the vCPUs as after power-on, with their CPUID, MSRs and local APICs. */
int vcpus_create(struct vcpus **vcpus, const struct vcpus_config *config, struct error *err);

/* Puts the boot vCPU where the kernel starts. */
int vcpus_set_entry(struct vcpus *vcpus, const struct boot_entry *entry, struct error *err);

/* What the first vcpus_save() otherwise takes 2 ms more for, unless it is known from
 * vcpus_restore(). Before vcpus_start(), or while the group is paused. */
int vcpus_prepare_save(struct vcpus *vcpus, struct error *err);

/* The sections `vcpu`. While the group is paused. */
int vcpus_save(struct vcpus *vcpus, struct state_writer *writer, struct error *err);

/*
 * Puts vCPUs that have never run into the state that vcpus_save() found, but for their time. A
 * processor feature which the guest was shown and this host lacks is -ENOTSUP, by name.
 * `same_host`: the state was saved by another process of this host just now, so that vcpus_save()
 * need not find out again which MSRs there are.
 */
int vcpus_restore(struct vcpus *vcpus, struct state_file *file, bool same_host, struct error *err);

/*
 * Makes the time of restored vCPUs go on from `saved`, which the VM's clock, as it is `now`, has
 * been set to or beyond.
 */
int vcpus_restore_time(struct vcpus *vcpus, const struct vm_clock *saved,
		       const struct vm_clock *now, struct error *err);

/*
 * Starts the threads, each with its system-call filter. They sleep: the guest's first instruction
 * waits for vcpus_resume(), and what the vCPUs are to be may still be set until then. After a
 * failure some may be there: vcpus_destroy() ends them. A thread that cannot be filtered ends the
 * group as VCPUS_FAILED, and never enters the guest.
 */
int vcpus_start(struct vcpus *vcpus, struct error *err);

/* Returns when no vCPU is in the guest and no access of theirs is half done. Twice does no harm. */
void vcpus_pause(struct vcpus *vcpus);
void vcpus_resume(struct vcpus *vcpus);

/* Ends the threads, waits for them and frees all. NULL is fine. */
void vcpus_destroy(struct vcpus *vcpus);

/* An eventfd which becomes readable when the group has ended; owned by the group. */
int vcpus_exit_fd(const struct vcpus *vcpus);
enum vcpus_exit vcpus_exit_reason(const struct vcpus *vcpus);

/* Any thread: the machine ends as VCPUS_RESET. A calling vCPU enters the guest no more. */
void vcpus_request_reset(struct vcpus *vcpus);

#endif

/* What vcpu.c (threads) and vcpu_setup.c (registers) share. */
#ifndef MAYFLY_SRC_VCPU_PRIVATE_H
#define MAYFLY_SRC_VCPU_PRIVATE_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "mayfly/cpuid.h"
#include "mayfly/signals.h"
#include "mayfly/vcpu.h"

struct vcpu {
	unsigned int index;
	int fd;
	struct kvm_run *run; /* shared with KVM */
	struct vcpus *group;
	pthread_t thread;
	bool thread_started;
	_Atomic pid_t thread_id; /* 0: it has not begun */
	struct signals_stack signal_stack;
	struct startup_trace *trace; /* of vCPU 0, where somebody wants it; else NULL */
};

struct vcpus {
	unsigned int count;
	const struct bus *pio, *mmio;
	struct vm *vm;
	struct log *log;
	int exit_fd;
	_Atomic int exit_reason;
	uint64_t start_time_us;
	const struct filters *filters;
	pid_t process_id;

	/* Guards what follows: who should run and who stands still. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool paused; /* wanted */
	bool ending; /* wanted, for good */
	unsigned int parked;

	struct vcpu vcpus[LAYOUT_MAX_VCPUS];
};

/* Creates the vCPU in KVM and sets what does not depend on the kernel: CPUID, MSRs, LAPIC. */
int vcpu_setup(struct vcpu *vcpu, struct cpuid_table *cpuid, struct error *err);
int vcpu_setup_entry(struct vcpu *vcpu, const struct boot_entry *entry, struct error *err);

/* Writes the vCPU's registers to the log, for a guest that failed. On its own thread. */
void vcpu_log_registers(struct vcpu *vcpu);

#endif

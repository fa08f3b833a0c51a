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
	/* Of a restored vCPU, until vcpus_restore_time(). */
	uint64_t saved_tsc, saved_tsc_offset, saved_tsc_deadline, saved_tsc_khz;
	bool tsc_scaled;
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
	uint32_t *msr_indices; /* what this host's KVM_GET_MSRS answers; NULL: not asked yet */
	uint32_t msr_count;

	/* Guards what follows: who should run and who stands still. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool paused; /* wanted */
	bool ending; /* wanted, for good */
	unsigned int parked;

	struct vcpu vcpus[LAYOUT_MAX_VCPUS];
};

/* False where KVM does not say (Linux before 5.16). */
bool vcpu_get_tsc_offset(const struct vcpu *vcpu, uint64_t *offset);

/* Creates the vCPU in KVM and sets what does not depend on the kernel: CPUID, MSRs, LAPIC. */
int vcpu_setup(struct vcpu *vcpu, struct cpuid_table *cpuid, struct error *err);
int vcpu_setup_entry(struct vcpu *vcpu, const struct boot_entry *entry, struct error *err);

/* Writes the vCPU's registers to the log, for a guest that failed. On its own thread. */
void vcpu_log_registers(struct vcpu *vcpu);

#endif

/*
 * The state of one vCPU, between KVM and a state file: what vcpu_state.c (the file's side),
 * vcpu_save.c and vcpu_restore.c (KVM's side) share.
 */
#ifndef MAYFLY_SRC_VCPU_STATE_H
#define MAYFLY_SRC_VCPU_STATE_H

#include <linux/kvm.h>

#include "mayfly/cpuid.h"
#include "mayfly/state.h"

#define VCPU_STATE_SECTION "vcpu"
#define VCPU_STATE_VERSION 1

#define VCPU_STATE_MAX_MSRS	   2048
#define VCPU_STATE_MAX_XSAVE_BYTES (64 * KIB)
#define VCPU_STATE_MIN_XSAVE_BYTES sizeof(struct kvm_xsave)

#define MSR_IA32_TSC	      0x10
#define MSR_IA32_TSC_DEADLINE 0x6e0

struct vcpu_msrs {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[VCPU_STATE_MAX_MSRS];
};

struct vcpu_state {
	struct cpuid_table cpuid; /* as the guest was shown it */
	struct kvm_mp_state mp;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	uint32_t tsc_khz; /* 0: the host did not say */
	/*
	 * What the guest read as its TSC is what the host's was plus this, unless the guest's was
	 * scaled; the host's at the time of the VM's clock is in the section `vm`.
	 */
	uint64_t tsc_offset;
	uint64_t tsc; /* the guest's, read when it was saved */
	uint32_t xsave_bytes;
	/* The last two are filled as far as there is something. */
	struct vcpu_msrs msrs;
	uint8_t xsave[VCPU_STATE_MAX_XSAVE_BYTES];
};

void vcpu_state_write(const struct vcpu_state *state, unsigned int index,
		      struct state_writer *writer);

/* Fills `state` and checks what KVM would not. */
int vcpu_state_read(struct vcpu_state *state, unsigned int index, struct state_file *file,
		    struct error *err);

#endif

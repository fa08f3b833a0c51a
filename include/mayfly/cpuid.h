/*
 * What CPU the guest sees: what KVM can give on this host, made consistent for one virtual socket
 * of N vCPUs.
 *
 * Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Linux
 * Documentation/virt/kvm/x86/cpuid.rst. Pure functions over struct kvm_cpuid2; any thread.
 */
#ifndef MAYFLY_CPUID_H
#define MAYFLY_CPUID_H

#include <linux/kvm.h>
#include "mayfly/error.h"

#define CPUID_MAX_ENTRIES 256

/* struct kvm_cpuid2 with room for its entries. */
struct cpuid_table {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[CPUID_MAX_ENTRIES];
};

struct cpuid_topology {
	unsigned int vcpu_count;
	bool smt;		 /* two vCPUs are the threads of one core */
	bool tsc_deadline_timer; /* the in-kernel LAPIC has it (KVM_CAP_TSC_DEADLINE_TIMER) */
};

/* All that KVM supports on this host. */
int cpuid_get_supported(int kvm_fd, struct cpuid_table *table, struct error *err);

/* What a vCPU was given, as KVM gives it back. */
int cpuid_get_shown(int vcpu_fd, struct cpuid_table *table, struct error *err);

/* Drops the entries at the end that nothing was written to: a table was all zeros before. */
void cpuid_drop_empty(struct cpuid_table *table);

/* The parts that are the same for all vCPUs of a machine. Once per machine. */
void cpuid_set_machine(struct cpuid_table *table, const struct cpuid_topology *topology);

/* The parts that name one vCPU: its APIC id, which is its index. Afterwards `table` suits that vCPU
 * only, until the next call. */
void cpuid_set_vcpu(struct cpuid_table *table, unsigned int index);

/* The entry of a leaf, or NULL. `subleaf` counts only where the leaf has subleaves. */
struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf);

/*
 * Whether a guest sees the same by both. What KVM itself keeps up with the guest's registers
 * (OSXSAVE, the size of the XSAVE area and the like) does not count.
 */
bool cpuid_is_same(const struct cpuid_table *one, const struct cpuid_table *other);

/*
 * Whether `host` (cpuid_get_supported(), cpuid_set_machine()) can run a guest that was shown
 * `guest`. -ENOTSUP names what it lacks: another vendor's processor, a feature, wider addresses.
 */
int cpuid_check_supported(struct cpuid_table *guest, struct cpuid_table *host, struct error *err);

#endif

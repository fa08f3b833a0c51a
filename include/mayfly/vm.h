/*
 * The KVM virtual machine: /dev/kvm, the VM descriptor, memory slots, the in-kernel interrupt
 * controllers and timer, and the descriptors that KVM signals (ioeventfd) or listens to (irqfd).
 *
 * Source: Linux Documentation/virt/kvm/api.rst. Main thread only.
 */
#ifndef MAYFLY_VM_H
#define MAYFLY_VM_H

#include "mayfly/error.h"
#include "mayfly/log.h"
#include "mayfly/memory.h"
#include "mayfly/state.h"

struct vm {
	int kvm_fd; /* /dev/kvm */
	int fd;
	size_t run_bytes; /* size of a vCPU's shared run area */
	struct log *log;  /* borrowed */
};

/*
 * Opens /dev/kvm and makes a VM. A device that is missing or not permitted is an error which says
 * how to get it; so is a kernel that lacks something Mayfly cannot do without.
 */
int vm_open(struct vm *vm, struct log *log, struct error *err);
void vm_close(struct vm *vm);

/*
 * Gives all of `memory` to the guest, and afterwards the interrupt controllers and the timer. In
 * this order: from the second change of a VM's memory slots on, KVM waits for a grace period which
 * gets long once the irqchip exists.
 */
int vm_set_memory(struct vm *vm, const struct memory *memory, bool track_dirty_pages,
		  struct error *err);
int vm_create_irqchip(struct vm *vm, struct error *err);

/* The most vCPUs this host gives one VM. */
unsigned int vm_max_vcpus(const struct vm *vm);

/* A 4-byte write of `value` to `gpa` signals the eventfd `fd` instead of returning to this process.
 */
int vm_add_ioeventfd(struct vm *vm, uint64_t gpa, uint32_t value, int fd, struct error *err);

/* Signalling the eventfd `fd` raises an edge on interrupt line `gsi`. */
int vm_add_irqfd(struct vm *vm, uint32_t gsi, int fd, struct error *err);

/*
 * Raises an edge on interrupt line `gsi` now: when this returns, the interrupt is pending. For what
 * happens once in a guest's life and is not worth a descriptor.
 */
int vm_raise_edge(const struct vm *vm, uint32_t gsi, struct error *err);

/* The guest's time (kvm-clock), with the host's TSC and wall clock at the same moment. */
struct vm_clock {
	uint64_t clock_ns;
	uint64_t host_tsc;
	uint64_t realtime_ns; /* since 1970 */
};

int vm_get_clock(const struct vm *vm, struct vm_clock *clock, struct error *err);
int vm_set_clock(const struct vm *vm, uint64_t clock_ns, struct error *err);

/*
 * The section `vm`: clock, interrupt controllers, timer. While no vCPU runs. vm_restore() puts all
 * back but the clock, which it gives to its caller as it was when the state was saved.
 */
int vm_save(const struct vm *vm, struct state_writer *writer, struct error *err);
int vm_restore(const struct vm *vm, struct state_file *file, struct vm_clock *clock,
	       struct error *err);

/* Moves KVM's record of the pages that vCPUs have written into memory's (memory_track_dirty()). */
int vm_collect_dirty(const struct vm *vm, struct memory *memory, struct error *err);

#endif

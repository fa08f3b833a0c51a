/*
 * The VM generation id: 16 random bytes in guest memory which differ after every load of a
 * snapshot, so that two guests which go on from the same moment notice it and do not go on with the
 * same random numbers.
 *
 * The guest finds them by ACPI (Microsoft, "Virtual Machine Generation ID", 2012; Linux
 * drivers/virt/vmgenid.c) and learns of a change by an interrupt of a Generic Event Device (ACPI
 * 6.5, 5.6.9). Both are words in the DSDT: there is no register and nothing that a guest could ask
 * the monitor for.
 *
 * Main thread, while no vCPU runs.
 */
#ifndef MAYFLY_VMGENID_H
#define MAYFLY_VMGENID_H

#include "mayfly/error.h"
#include "mayfly/memory.h"
#include "mayfly/state.h"
#include "mayfly/vm.h"

#define VMGENID_BYTES 16

/*
 * What the guest's tables say. They lie in guest memory and are read at its boot, so this belongs
 * to the guest's state: a snapshot of another version of Mayfly may have other numbers.
 */
struct vmgenid {
	uint64_t gpa;
	uint32_t gsi;
};

/* What the tables of a guest that boots here say (layout.h). */
void vmgenid_init(struct vmgenid *vmgenid);

/*
 * Writes a new id to guest memory, from getrandom(2), which waits on a host that has no randomness
 * yet. Before a guest's first instruction, and again at every load of a snapshot, when memory is
 * there. -EINVAL when the guest has no memory in the place.
 */
int vmgenid_renew(const struct vmgenid *vmgenid, const struct memory *memory, struct error *err);

/*
 * Interrupts a guest whose id was renewed: at a load, once the interrupt controllers have their
 * state, so that the interrupt is already pending when the first vCPU goes on.
 */
int vmgenid_announce(const struct vmgenid *vmgenid, const struct vm *vm, struct error *err);

/*
 * The section of a state file: where the id lies and which interrupt announces it, not the id,
 * since no two guests may have it. A place outside `memory` and an interrupt line that the machine
 * lacks are refused.
 */
#define VMGENID_SECTION "vmgenid"
#define VMGENID_VERSION 1
void vmgenid_save(const struct vmgenid *vmgenid, struct state_writer *writer);
int vmgenid_restore(struct vmgenid *vmgenid, const struct memory *memory,
		    struct state_section *section, struct error *err);

#endif

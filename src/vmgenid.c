/* The VM generation id: see include/mayfly/vmgenid.h. */
#include <sys/random.h>

#include "mayfly/layout.h"
#include "mayfly/vmgenid.h"

void vmgenid_init(struct vmgenid *vmgenid)
{
	*vmgenid = (struct vmgenid) { .gpa = LAYOUT_VMGENID, .gsi = LAYOUT_IRQ_VMGENID };
}

int vmgenid_renew(const struct vmgenid *vmgenid, const struct memory *memory, struct error *err)
{
	uint8_t id[VMGENID_BYTES];
	ssize_t got;

	/* So few bytes come whole or not at all. */
	do {
		got = getrandom(id, sizeof(id), 0);
	} while (got < 0 && errno == EINTR);
	if (got != (ssize_t)sizeof(id))
		return error_errno(err,
				   "the host gives no random numbers for the VM generation id");
	if (!memory_write(memory, vmgenid->gpa, id, sizeof(id)))
		return error_set(err, EINVAL,
				 "the guest has no memory at 0x%llx for its VM generation id",
				 (unsigned long long)vmgenid->gpa);
	return 0;
}

int vmgenid_announce(const struct vmgenid *vmgenid, const struct vm *vm, struct error *err)
{
	return vm_raise_edge(vm, vmgenid->gsi, err);
}

void vmgenid_save(const struct vmgenid *vmgenid, struct state_writer *writer)
{
	state_begin(writer, VMGENID_SECTION, "", VMGENID_VERSION);
	state_put_u64(writer, vmgenid->gpa);
	state_put_u32(writer, vmgenid->gsi);
	state_end(writer);
}

int vmgenid_restore(struct vmgenid *vmgenid, const struct memory *memory,
		    struct state_section *section, struct error *err)
{
	vmgenid->gpa = state_get_u64(section);
	vmgenid->gsi = state_get_u32(section);
	if (!memory_span(memory, vmgenid->gpa, VMGENID_BYTES))
		state_refuse(section, "gpa", "the guest has no memory at 0x%llx",
			     (unsigned long long)vmgenid->gpa);
	if (vmgenid->gsi >= LAYOUT_IO_APIC_PINS)
		state_refuse(section, "gsi", "%u is no interrupt line: there are %d", vmgenid->gsi,
			     LAYOUT_IO_APIC_PINS);
	return state_done(section, err);
}

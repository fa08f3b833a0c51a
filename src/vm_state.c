/*
 * The section `vm` of a state file: the VM's clock, the interrupt controllers and the timer that
 * KVM keeps; and KVM's record of the pages that vCPUs have written.
 *
 * Source: Linux Documentation/virt/kvm/api.rst, KVM_GET_CLOCK, KVM_GET_IRQCHIP, KVM_GET_PIT2,
 * KVM_GET_DIRTY_LOG.
 */
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "mayfly/vm.h"

#define SECTION "vm"
#define VERSION 1

static const uint32_t chips[] = { KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
				  KVM_IRQCHIP_IOAPIC };
static const uint32_t chip_bytes[] = { sizeof(struct kvm_pic_state), sizeof(struct kvm_pic_state),
				       sizeof(struct kvm_ioapic_state) };

int vm_get_clock(const struct vm *vm, struct vm_clock *clock, struct error *err)
{
	struct kvm_clock_data data = { 0 };

	if (ioctl(vm->fd, KVM_GET_CLOCK, &data) < 0)
		return error_errno(err, "KVM does not say the guest's time");
	*clock = (struct vm_clock) { .clock_ns = data.clock,
				     .host_tsc = data.host_tsc,
				     .realtime_ns = data.realtime };
	/* Where the host's time does not come from its TSC, the three cannot be read at once. */
	if (!(data.flags & KVM_CLOCK_HOST_TSC))
		clock->host_tsc = __rdtsc();
	if (!(data.flags & KVM_CLOCK_REALTIME))
		clock->realtime_ns = clock_ns(CLOCK_REALTIME);
	return 0;
}

int vm_set_clock(const struct vm *vm, uint64_t clock_ns, struct error *err)
{
	struct kvm_clock_data data = { .clock = clock_ns };

	if (ioctl(vm->fd, KVM_SET_CLOCK, &data) < 0)
		return error_errno(err, "KVM refuses the guest's time");
	return 0;
}

int vm_save(const struct vm *vm, struct state_writer *writer, struct error *err)
{
	struct kvm_pit_state2 pit;
	struct vm_clock clock = { 0 };
	int result = vm_get_clock(vm, &clock, err);

	if (result < 0)
		return result;
	state_begin(writer, SECTION, "", VERSION);
	state_put_u64(writer, clock.clock_ns);
	state_put_u64(writer, clock.host_tsc);
	state_put_u64(writer, clock.realtime_ns);
	for (size_t i = 0; i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = { .chip_id = chips[i] };

		if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip) < 0)
			return error_errno(err, "KVM does not give interrupt controller %u",
					   chips[i]);
		state_put_bytes(writer, &chip.chip, chip_bytes[i]);
	}
	if (ioctl(vm->fd, KVM_GET_PIT2, &pit) < 0)
		return error_errno(err, "KVM does not give the timer");
	state_put_bytes(writer, &pit, sizeof(pit));
	state_end(writer);
	return 0;
}

int vm_restore(const struct vm *vm, struct state_file *file, struct vm_clock *clock,
	       struct error *err)
{
	struct kvm_irqchip chip[ARRAY_SIZE(chips)] = { 0 };
	struct state_section section;
	struct kvm_pit_state2 pit;
	int result = state_find(file, SECTION, "", VERSION, &section, err);

	if (result < 0)
		return result;
	clock->clock_ns = state_get_u64(&section);
	clock->host_tsc = state_get_u64(&section);
	clock->realtime_ns = state_get_u64(&section);
	for (size_t i = 0; i < ARRAY_SIZE(chips); i++) {
		chip[i].chip_id = chips[i];
		state_get_bytes(&section, &chip[i].chip, chip_bytes[i]);
	}
	state_get_bytes(&section, &pit, sizeof(pit));
	/* A clock beyond this could not be advanced. */
	if (clock->clock_ns > INT64_MAX / 2)
		state_refuse(&section, "clock", "it is %llu ns",
			     (unsigned long long)clock->clock_ns);
	result = state_done(&section, err);
	if (result < 0)
		return result;
	for (size_t i = 0; i < ARRAY_SIZE(chips); i++) {
		if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip[i]) < 0)
			return error_errno(
				err, "section " SECTION ": KVM refuses interrupt controller %u",
				chips[i]);
	}
	if (ioctl(vm->fd, KVM_SET_PIT2, &pit) < 0)
		return error_errno(err, "section " SECTION ": KVM refuses the timer");
	return 0;
}

int vm_collect_dirty(const struct vm *vm, struct memory *memory, struct error *err)
{
	for (unsigned int i = 0; i < memory->region_count; i++) {
		/* A multiple of 64 bits, as KVM fills it. */
		size_t bytes = (memory->regions[i].size_bytes / PAGE_SIZE_BYTES + 63) / 64 * 8;
		cleanup_free uint64_t *bitmap = calloc(1, bytes);
		struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = bitmap };

		if (!bitmap)
			return error_set(err, ENOMEM, "no memory for the record of dirty pages");
		if (ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) < 0)
			return error_errno(err, "KVM does not say which pages are dirty");
		memory_add_dirty(memory, i, bitmap);
	}
	return 0;
}

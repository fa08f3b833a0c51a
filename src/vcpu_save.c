/*
 * Reading a vCPU's state out of KVM.
 *
 * Source: Linux Documentation/virt/kvm/api.rst. The order: MP state first, because asking for it
 * makes KVM take INIT and SIPI that wait at the local APIC, which changes registers; events last,
 * because what comes before may turn what is pending into what is injected.
 */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "vcpu_private.h"
#include "vcpu_state.h"

/*
 * MSRs that hold state and that KVM_GET_MSR_INDEX_LIST leaves out: memory types (SDM 3, 11.11),
 * machine check banks (SDM 3, 15.3.2), and KVM's own range, in which hosts that run guests
 * deprivileged keep some.
 */
static const struct {
	uint32_t first, last;
} unlisted[] = {
	{ 0x200, 0x20f }, { 0x250, 0x250 }, { 0x258, 0x259 },		{ 0x268, 0x26f },
	{ 0x2ff, 0x2ff }, { 0x400, 0x47f }, { 0x4b564d00, 0x4b564dff },
};

struct msr_list {
	struct kvm_msr_list head;
	uint32_t indices[VCPU_STATE_MAX_MSRS];
};

static bool listed(const struct msr_list *list, uint32_t count, uint32_t index)
{
	for (uint32_t i = 0; i < count; i++) {
		if (list->indices[i] == index)
			return true;
	}
	return false;
}

static bool answers(const struct vcpu *vcpu, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { .head.nmsrs = 1, .entry.index = index };

	return ioctl(vcpu->fd, KVM_GET_MSRS, &msr) == 1;
}

/* Which MSRs this host has: asked once a machine, of its first vCPU. */
static int find_msrs(struct vcpus *group, struct error *err)
{
	cleanup_free struct msr_list *list = calloc(1, sizeof(*list));
	const struct vcpu *vcpu = &group->vcpus[0];
	uint32_t count;

	if (group->msr_indices)
		return 0;
	group->msr_indices = calloc(VCPU_STATE_MAX_MSRS, sizeof(*group->msr_indices));
	if (!group->msr_indices || !list)
		return error_set(err, ENOMEM, "no memory for the list of MSRs");
	list->head.nmsrs = VCPU_STATE_MAX_MSRS;
	if (ioctl(group->vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
		return error_errno(err, "KVM does not say which MSRs it has");
	count = list->head.nmsrs;
	for (size_t i = 0; i < ARRAY_SIZE(unlisted); i++) {
		for (uint32_t index = unlisted[i].first; index <= unlisted[i].last; index++) {
			if (list->head.nmsrs < VCPU_STATE_MAX_MSRS && !listed(list, count, index))
				list->indices[list->head.nmsrs++] = index;
		}
	}
	group->msr_count = 0;
	for (uint32_t i = 0; i < list->head.nmsrs; i++) {
		if (answers(vcpu, list->indices[i]))
			group->msr_indices[group->msr_count++] = list->indices[i];
	}
	return 0;
}

static int get_msrs(struct vcpu *vcpu, struct vcpu_msrs *msrs, struct error *err)
{
	struct vcpus *group = vcpu->group;
	int got;

	msrs->head.nmsrs = group->msr_count;
	for (uint32_t i = 0; i < group->msr_count; i++)
		msrs->entries[i] = (struct kvm_msr_entry) { .index = group->msr_indices[i] };
	got = ioctl(vcpu->fd, KVM_GET_MSRS, msrs);
	if (got < 0)
		return error_errno(err, "vCPU %u: cannot read the MSRs", vcpu->index);
	if ((uint32_t)got != group->msr_count)
		return error_set(err, EIO, "vCPU %u: KVM does not give MSR 0x%x any more",
				 vcpu->index, msrs->entries[got].index);
	return 0;
}

static int get_xsave(struct vcpu *vcpu, struct vcpu_state *state, struct error *err)
{
	/* api.rst, KVM_GET_XSAVE2: 0 where the host has only what KVM_GET_XSAVE gives. */
	int size = ioctl(vcpu->group->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	unsigned long request = size > 0 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;

	if (size <= 0)
		size = (int)sizeof(struct kvm_xsave);
	if ((size_t)size > sizeof(state->xsave))
		return error_set(err, E2BIG,
				 "vCPU %u: the host's XSAVE area of %d bytes is larger than %zu",
				 vcpu->index, size, sizeof(state->xsave));
	state->xsave_bytes = (uint32_t)size;
	if (ioctl(vcpu->fd, request, state->xsave) < 0)
		return error_errno(err, "vCPU %u: cannot read the XSAVE area", vcpu->index);
	return 0;
}

static void get_tsc(struct vcpu *vcpu, struct vcpu_state *state)
{
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

	state->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	for (uint32_t i = 0; i < state->msrs.head.nmsrs; i++) {
		if (state->msrs.entries[i].index == MSR_IA32_TSC)
			state->tsc = state->msrs.entries[i].data;
	}
	/* Linux before 5.16: near enough. */
	if (!vcpu_get_tsc_offset(vcpu, &state->tsc_offset))
		state->tsc_offset = state->tsc - __rdtsc();
}

bool vcpu_get_tsc_offset(const struct vcpu *vcpu, uint64_t *offset)
{
	struct kvm_device_attr attribute = { .group = KVM_VCPU_TSC_CTRL,
					     .attr = KVM_VCPU_TSC_OFFSET,
					     .addr = (uintptr_t)offset };

	return ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attribute) == 0;
}

static int get_state(struct vcpu *vcpu, struct vcpu_state *state, struct error *err)
{
	const struct {
		unsigned long request;
		void *out;
		const char *name;
	} parts[] = {
		{ KVM_GET_MP_STATE, &state->mp, "MP state" },
		{ KVM_GET_REGS, &state->regs, "registers" },
		{ KVM_GET_SREGS2, &state->sregs, "system registers" },
		{ KVM_GET_XCRS, &state->xcrs, "extended control registers" },
		{ KVM_GET_DEBUGREGS, &state->debug, "debug registers" },
		{ KVM_GET_LAPIC, &state->lapic, "local APIC" },
	};
	int result;

	memset(state, 0, sizeof(*state));
	if (cpuid_get_shown(vcpu->fd, &state->cpuid, err) < 0)
		return error_prefix(err, "vCPU %u", vcpu->index);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		if (ioctl(vcpu->fd, parts[i].request, parts[i].out) < 0)
			return error_errno(err, "vCPU %u: cannot read its %s", vcpu->index,
					   parts[i].name);
	}
	result = get_xsave(vcpu, state, err);
	if (result == 0)
		result = get_msrs(vcpu, &state->msrs, err);
	if (result < 0)
		return result;
	get_tsc(vcpu, state);
	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &state->events) < 0)
		return error_errno(err, "vCPU %u: cannot read its events", vcpu->index);
	return 0;
}

int vcpus_prepare_save(struct vcpus *vcpus, struct error *err)
{
	return find_msrs(vcpus, err);
}

int vcpus_save(struct vcpus *vcpus, struct state_writer *writer, struct error *err)
{
	cleanup_free struct vcpu_state *state = malloc(sizeof(*state));
	int result;

	if (!state)
		return error_set(err, ENOMEM, "no memory for the state of a vCPU");
	result = find_msrs(vcpus, err);
	for (unsigned int i = 0; result == 0 && i < vcpus->count; i++) {
		result = get_state(&vcpus->vcpus[i], state, err);
		if (result == 0)
			vcpu_state_write(state, i, writer);
	}
	return result;
}

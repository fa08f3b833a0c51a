/*
 * Putting a vCPU's state back into KVM.
 *
 * The order, from what each call looks at: CPUID before all, since it says which bits of registers
 * and which MSRs there are; system registers (with the APIC's base and mode) before the local APIC;
 * XCR0 before the XSAVE area; the APIC before MSRs, since the TSC deadline is armed by one; the
 * deadline behind all other MSRs; events behind the registers that they refer to. The TSC goes by
 * its offset, as api.rst says at KVM_VCPU_TSC_OFFSET, once the VM's clock is set.
 */
#include <asm/kvm_para.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "vcpu_private.h"
#include "vcpu_state.h"

/* Clocks of one kind differ by less, as KVM itself counts (its tsc_tolerance_ppm). */
#define TSC_TOLERANCE_PPM 250

static int set_msr(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };

	return ioctl(vcpu->fd, KVM_SET_MSRS, &msr) == 1 ? 0 : -EINVAL;
}

/* Whether the guest loses nothing when this MSR is not set: it is already so, or was never used. */
static bool can_miss(const struct vcpu *vcpu, const struct kvm_msr_entry *entry)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { .head.nmsrs = 1, .entry.index = entry->index };

	if (entry->data == 0)
		return true;
	return ioctl(vcpu->fd, KVM_GET_MSRS, &msr) == 1 && msr.entry.data == entry->data;
}

/*
 * The TSC and its deadline have their own time. To set a wall clock's MSR is to ask KVM for the
 * time: it would write into guest memory where the guest once wanted it, though that may long be
 * used for something else, and a time that this VM's clock, not yet set, has nothing to do with.
 */
static bool is_set_here(uint32_t index)
{
	return index != MSR_IA32_TSC && index != MSR_IA32_TSC_DEADLINE &&
	       index != MSR_KVM_WALL_CLOCK && index != MSR_KVM_WALL_CLOCK_NEW;
}

/* KVM sets MSRs in order and stops at the first that it cannot set. */
static int set_msrs(struct vcpu *vcpu, struct vcpu_msrs *msrs, struct error *err)
{
	cleanup_free struct vcpu_msrs *batch = malloc(offsetof(struct vcpu_msrs, entries) +
						      sizeof(*batch->entries) * msrs->head.nmsrs);
	uint32_t count = 0, done = 0;

	if (!batch)
		return error_set(err, ENOMEM, "no memory for the MSRs");
	for (uint32_t i = 0; i < msrs->head.nmsrs; i++) {
		if (is_set_here(msrs->entries[i].index))
			msrs->entries[count++] = msrs->entries[i];
	}
	while (done < count) {
		int set;

		batch->head = (struct kvm_msrs) { .nmsrs = count - done };
		memcpy(batch->entries, msrs->entries + done,
		       sizeof(*batch->entries) * (count - done));
		set = ioctl(vcpu->fd, KVM_SET_MSRS, batch);
		if (set < 0)
			return error_errno(err, "vCPU %u: cannot set the MSRs", vcpu->index);
		done += (uint32_t)set;
		if (done == count)
			break;
		if (!can_miss(vcpu, &msrs->entries[done]))
			return error_set(
				err, EINVAL,
				"section " VCPU_STATE_SECTION
				" %u: this host cannot set MSR 0x%x to 0x%llx, which the guest uses",
				vcpu->index, msrs->entries[done].index,
				(unsigned long long)msrs->entries[done].data);
		done++;
	}
	return 0;
}

static int set_xsave(struct vcpu *vcpu, struct vcpu_state *state, struct error *err)
{
	int size = ioctl(vcpu->group->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	if (size > (int)sizeof(state->xsave))
		return error_set(err, E2BIG,
				 "vCPU %u: the host's XSAVE area of %d bytes is larger than %zu",
				 vcpu->index, size, sizeof(state->xsave));
	/* KVM reads as much as its own area has: what the state leaves out of it is zero. */
	if (size > (int)state->xsave_bytes)
		memset(state->xsave + state->xsave_bytes, 0, (size_t)size - state->xsave_bytes);
	if (ioctl(vcpu->fd, KVM_SET_XSAVE, state->xsave) < 0)
		return error_errno(err,
				   "section " VCPU_STATE_SECTION " %u: KVM refuses the XSAVE area",
				   vcpu->index);
	return 0;
}

/* The guest counts on the frequency that it has measured. */
static int set_tsc_khz(struct vcpu *vcpu, const struct vcpu_state *state, struct error *err)
{
	int host = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	uint64_t guest = state->tsc_khz, apart;

	if (guest == 0 || host <= 0)
		return 0;
	apart = guest > (uint64_t)host ? guest - (uint64_t)host : (uint64_t)host - guest;
	if (apart * 1000000 <= guest * TSC_TOLERANCE_PPM)
		return 0;
	if (ioctl(vcpu->group->vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0)
		return error_set(
			err, ENOTSUP,
			"section " VCPU_STATE_SECTION
			" %u: the guest's TSC runs at %llu kHz, this host's at %d, and it cannot scale it",
			vcpu->index, (unsigned long long)guest, host);
	if (ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)guest) < 0)
		return error_errno(
			err, "section " VCPU_STATE_SECTION " %u: KVM refuses a TSC of %llu kHz",
			vcpu->index, (unsigned long long)guest);
	vcpu->tsc_scaled = true;
	return 0;
}

static int set_state(struct vcpu *vcpu, struct vcpu_state *state, struct error *err)
{
	const struct {
		unsigned long request;
		void *in;
		const char *name;
	} parts[] = {
		{ KVM_SET_SREGS2, &state->sregs, "system registers" },
		{ KVM_SET_REGS, &state->regs, "registers" },
		{ KVM_SET_XCRS, &state->xcrs, "extended control registers" },
		{ KVM_SET_DEBUGREGS, &state->debug, "debug registers" },
		{ KVM_SET_LAPIC, &state->lapic, "local APIC" },
		{ KVM_SET_MP_STATE, &state->mp, "MP state" },
	};
	int result = set_tsc_khz(vcpu, state, err);

	for (size_t i = 0; result == 0 && i < ARRAY_SIZE(parts); i++) {
		/* A processor without XSAVE has none. */
		if (parts[i].request == KVM_SET_XCRS && state->xcrs.nr_xcrs == 0)
			continue;
		if (ioctl(vcpu->fd, parts[i].request, parts[i].in) < 0)
			return error_errno(err,
					   "section " VCPU_STATE_SECTION " %u: KVM refuses the %s",
					   vcpu->index, parts[i].name);
	}
	if (result == 0)
		result = set_xsave(vcpu, state, err);
	if (result == 0)
		result = set_msrs(vcpu, &state->msrs, err);
	if (result == 0 && ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &state->events) < 0)
		result = error_errno(err,
				     "section " VCPU_STATE_SECTION " %u: KVM refuses the events",
				     vcpu->index);
	return result;
}

/*
 * What this host has is what KVM gives back of a vCPU after power-on, which was given all that is
 * supported. Some hosts cannot hide features: their guests see more than KVM_GET_SUPPORTED_CPUID
 * says.
 */
static int set_cpuid(struct vcpu *vcpu, struct vcpu_state *state, struct cpuid_table *host,
		     struct error *err)
{
	if (cpuid_get_shown(vcpu->fd, host, err) < 0)
		return error_prefix(err, "vCPU %u", vcpu->index);
	if (cpuid_check_supported(&state->cpuid, host, err) < 0)
		return error_prefix(err, "section " VCPU_STATE_SECTION " %u", vcpu->index);
	/* The same host, as a rule: and the call is a slow one where CPUID is an exit. */
	if (!cpuid_is_same(&state->cpuid, host) &&
	    ioctl(vcpu->fd, KVM_SET_CPUID2, &state->cpuid) < 0)
		return error_errno(err,
				   "section " VCPU_STATE_SECTION " %u: KVM refuses the CPUID table",
				   vcpu->index);
	return 0;
}

/* What is left for vcpus_restore_time(). */
static void keep_time(struct vcpu *vcpu, const struct vcpu_state *state)
{
	vcpu->saved_tsc = state->tsc;
	vcpu->saved_tsc_offset = state->tsc_offset;
	vcpu->saved_tsc_khz = state->tsc_khz;
	for (uint32_t i = 0; i < state->msrs.head.nmsrs; i++) {
		if (state->msrs.entries[i].index == MSR_IA32_TSC_DEADLINE)
			vcpu->saved_tsc_deadline = state->msrs.entries[i].data;
	}
}

/*
 * KVM tells by trial only, which takes milliseconds. Where a parent that was taken over lies about
 * it, saves of its own forks fail or lack something.
 */
static int keep_msr_list(struct vcpus *group, const struct vcpu_msrs *msrs, struct error *err)
{
	group->msr_indices = calloc(VCPU_STATE_MAX_MSRS, sizeof(*group->msr_indices));
	if (!group->msr_indices)
		return error_set(err, ENOMEM, "no memory for the list of MSRs");
	for (uint32_t i = 0; i < msrs->head.nmsrs; i++)
		group->msr_indices[i] = msrs->entries[i].index;
	group->msr_count = msrs->head.nmsrs;
	return 0;
}

int vcpus_restore(struct vcpus *group, struct state_file *file, bool same_host, struct error *err)
{
	cleanup_free struct vcpu_state *state = malloc(sizeof(*state));
	cleanup_free struct cpuid_table *host = malloc(sizeof(*host));
	int result = 0;

	if (!state || !host)
		return error_set(err, ENOMEM, "no memory for the state of a vCPU");
	for (unsigned int i = 0; result == 0 && i < group->count; i++) {
		struct vcpu *vcpu = &group->vcpus[i];

		result = vcpu_state_read(state, i, file, err);
		if (result == 0)
			result = set_cpuid(vcpu, state, host, err);
		if (result == 0) {
			keep_time(vcpu, state);
			result = set_state(vcpu, state, err);
		}
		if (result == 0 && same_host && i == 0)
			result = keep_msr_list(group, &state->msrs, err);
	}
	return result;
}

static int set_tsc_offset(struct vcpu *vcpu, uint64_t offset)
{
	struct kvm_device_attr attribute = { .group = KVM_VCPU_TSC_CTRL,
					     .attr = KVM_VCPU_TSC_OFFSET,
					     .addr = (uintptr_t)&offset };

	return ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attribute);
}

static int set_tsc(struct vcpu *vcpu, const struct vm_clock *saved, const struct vm_clock *now,
		   struct error *err)
{
	uint64_t offset, khz = vcpu->saved_tsc_khz;
	uint64_t passed =
		(uint64_t)((__uint128_t)(now->clock_ns - saved->clock_ns) * khz / 1000000);
	bool has_offset = vcpu_get_tsc_offset(vcpu, &offset);

	/*
	 * A new vCPU's TSC begins at 0, by an offset. Where there is none, the guest reads the
	 * host's own, and what is set here would be believed by KVM's clock but not seen by the
	 * guest. Such a TSC goes on by itself, unless the host has started again since.
	 */
	if (has_offset && offset == 0) {
		if (__rdtsc() < vcpu->saved_tsc)
			return error_set(
				err, ENOTSUP,
				"section " VCPU_STATE_SECTION
				" %u: the guest's TSC would go back: this host cannot offset its own",
				vcpu->index);
		return 0;
	}
	if (!has_offset || vcpu->tsc_scaled)
		return set_msr(vcpu, MSR_IA32_TSC, vcpu->group->vcpus[0].saved_tsc + passed) < 0
			       ? error_set(err, EIO, "vCPU %u: the TSC cannot be set", vcpu->index)
			       : 0;
	offset = saved->host_tsc + vcpu->saved_tsc_offset + passed - now->host_tsc;
	if (set_tsc_offset(vcpu, offset) < 0)
		return error_errno(err, "vCPU %u: the TSC's offset cannot be set", vcpu->index);
	return 0;
}

int vcpus_restore_time(struct vcpus *vcpus, const struct vm_clock *saved,
		       const struct vm_clock *now, struct error *err)
{
	int result = 0;

	for (unsigned int i = 0; result == 0 && i < vcpus->count; i++)
		result = set_tsc(&vcpus->vcpus[i], saved, now, err);
	for (unsigned int i = 0; result == 0 && i < vcpus->count; i++) {
		struct vcpu *vcpu = &vcpus->vcpus[i];

		if (vcpu->saved_tsc_deadline &&
		    set_msr(vcpu, MSR_IA32_TSC_DEADLINE, vcpu->saved_tsc_deadline) < 0)
			result = error_set(err, EIO, "vCPU %u: its timer cannot be set", i);
		/* As after a pause: see vcpus_pause(). */
		(void)ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
	}
	return result;
}

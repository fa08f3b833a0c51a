/*
 * The section `vcpu` of a state file: one for each vCPU, its instance the vCPU's index. What is in
 * it is what KVM takes; KVM checks registers against each other and refuses what cannot be. Here
 * counts and lengths are held against the room there is.
 */
#include <stdio.h>
#include <string.h>

#include "vcpu_state.h"

_Static_assert(sizeof(struct kvm_regs) == 18 * sizeof(uint64_t), "kvm_regs is 18 registers");

static void put_segment(struct state_writer *writer, const struct kvm_segment *segment)
{
	state_put_u64(writer, segment->base);
	state_put_u32(writer, segment->limit);
	state_put_u16(writer, segment->selector);
	state_put_u8(writer, segment->type);
	state_put_u8(writer, segment->present);
	state_put_u8(writer, segment->dpl);
	state_put_u8(writer, segment->db);
	state_put_u8(writer, segment->s);
	state_put_u8(writer, segment->l);
	state_put_u8(writer, segment->g);
	state_put_u8(writer, segment->avl);
	state_put_u8(writer, segment->unusable);
}

static void get_segment(struct state_section *section, struct kvm_segment *segment)
{
	segment->base = state_get_u64(section);
	segment->limit = state_get_u32(section);
	segment->selector = state_get_u16(section);
	segment->type = state_get_u8(section);
	segment->present = state_get_u8(section);
	segment->dpl = state_get_u8(section);
	segment->db = state_get_u8(section);
	segment->s = state_get_u8(section);
	segment->l = state_get_u8(section);
	segment->g = state_get_u8(section);
	segment->avl = state_get_u8(section);
	segment->unusable = state_get_u8(section);
}

static void put_sregs(struct state_writer *writer, const struct kvm_sregs2 *sregs)
{
	const struct kvm_segment *segments[] = { &sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
						 &sregs->gs, &sregs->ss, &sregs->tr, &sregs->ldt };

	for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
		put_segment(writer, segments[i]);
	state_put_u64(writer, sregs->gdt.base);
	state_put_u16(writer, sregs->gdt.limit);
	state_put_u64(writer, sregs->idt.base);
	state_put_u16(writer, sregs->idt.limit);
	state_put_u64(writer, sregs->cr0);
	state_put_u64(writer, sregs->cr2);
	state_put_u64(writer, sregs->cr3);
	state_put_u64(writer, sregs->cr4);
	state_put_u64(writer, sregs->cr8);
	state_put_u64(writer, sregs->efer);
	state_put_u64(writer, sregs->apic_base);
	state_put_u64(writer, sregs->flags);
	for (size_t i = 0; i < ARRAY_SIZE(sregs->pdptrs); i++)
		state_put_u64(writer, sregs->pdptrs[i]);
}

static void get_sregs(struct state_section *section, struct kvm_sregs2 *sregs)
{
	struct kvm_segment *segments[] = { &sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
					   &sregs->gs, &sregs->ss, &sregs->tr, &sregs->ldt };

	for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
		get_segment(section, segments[i]);
	sregs->gdt.base = state_get_u64(section);
	sregs->gdt.limit = state_get_u16(section);
	sregs->idt.base = state_get_u64(section);
	sregs->idt.limit = state_get_u16(section);
	sregs->cr0 = state_get_u64(section);
	sregs->cr2 = state_get_u64(section);
	sregs->cr3 = state_get_u64(section);
	sregs->cr4 = state_get_u64(section);
	sregs->cr8 = state_get_u64(section);
	sregs->efer = state_get_u64(section);
	sregs->apic_base = state_get_u64(section);
	sregs->flags = state_get_u64(section);
	for (size_t i = 0; i < ARRAY_SIZE(sregs->pdptrs); i++)
		sregs->pdptrs[i] = state_get_u64(section);
}

static void put_events(struct state_writer *writer, const struct kvm_vcpu_events *events)
{
	state_put_u32(writer, events->flags);
	state_put_u8(writer, events->exception.injected);
	state_put_u8(writer, events->exception.nr);
	state_put_u8(writer, events->exception.has_error_code);
	state_put_u8(writer, events->exception.pending);
	state_put_u32(writer, events->exception.error_code);
	state_put_u8(writer, events->exception_has_payload);
	state_put_u64(writer, events->exception_payload);
	state_put_u8(writer, events->interrupt.injected);
	state_put_u8(writer, events->interrupt.nr);
	state_put_u8(writer, events->interrupt.soft);
	state_put_u8(writer, events->interrupt.shadow);
	state_put_u8(writer, events->nmi.injected);
	state_put_u8(writer, events->nmi.pending);
	state_put_u8(writer, events->nmi.masked);
	state_put_u32(writer, events->sipi_vector);
	state_put_u8(writer, events->smi.smm);
	state_put_u8(writer, events->smi.pending);
	state_put_u8(writer, events->smi.smm_inside_nmi);
	state_put_u8(writer, events->smi.latched_init);
}

static void get_events(struct state_section *section, struct kvm_vcpu_events *events)
{
	events->flags = state_get_u32(section);
	events->exception.injected = state_get_u8(section);
	events->exception.nr = state_get_u8(section);
	events->exception.has_error_code = state_get_u8(section);
	events->exception.pending = state_get_u8(section);
	events->exception.error_code = state_get_u32(section);
	events->exception_has_payload = state_get_u8(section);
	events->exception_payload = state_get_u64(section);
	events->interrupt.injected = state_get_u8(section);
	events->interrupt.nr = state_get_u8(section);
	events->interrupt.soft = state_get_u8(section);
	events->interrupt.shadow = state_get_u8(section);
	events->nmi.injected = state_get_u8(section);
	events->nmi.pending = state_get_u8(section);
	events->nmi.masked = state_get_u8(section);
	events->sipi_vector = state_get_u32(section);
	events->smi.smm = state_get_u8(section);
	events->smi.pending = state_get_u8(section);
	events->smi.smm_inside_nmi = state_get_u8(section);
	events->smi.latched_init = state_get_u8(section);
}

static void put_cpuid(struct state_writer *writer, const struct cpuid_table *cpuid)
{
	state_put_u32(writer, cpuid->head.nent);
	for (uint32_t i = 0; i < cpuid->head.nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		state_put_u32(writer, entry->function);
		state_put_u32(writer, entry->index);
		state_put_u32(writer, entry->flags);
		state_put_u32(writer, entry->eax);
		state_put_u32(writer, entry->ebx);
		state_put_u32(writer, entry->ecx);
		state_put_u32(writer, entry->edx);
	}
}

/* A count that is refused counts as none, so that nobody goes through what was not read. */
static uint32_t get_count(struct state_section *section, const char *field, uint32_t most)
{
	uint32_t count = state_get_u32(section);

	if (count > most)
		state_refuse(section, field, "there are %u, and at most %u can be", count, most);
	return state_failed(section) ? 0 : count;
}

static void get_cpuid(struct state_section *section, struct cpuid_table *cpuid)
{
	cpuid->head.nent = get_count(section, "cpuid", CPUID_MAX_ENTRIES);
	for (uint32_t i = 0; i < cpuid->head.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		entry->function = state_get_u32(section);
		entry->index = state_get_u32(section);
		entry->flags = state_get_u32(section);
		entry->eax = state_get_u32(section);
		entry->ebx = state_get_u32(section);
		entry->ecx = state_get_u32(section);
		entry->edx = state_get_u32(section);
	}
}

static void put_msrs(struct state_writer *writer, const struct vcpu_msrs *msrs)
{
	state_put_u32(writer, msrs->head.nmsrs);
	for (uint32_t i = 0; i < msrs->head.nmsrs; i++) {
		state_put_u32(writer, msrs->entries[i].index);
		state_put_u64(writer, msrs->entries[i].data);
	}
}

static void get_msrs(struct state_section *section, struct vcpu_msrs *msrs)
{
	msrs->head.nmsrs = get_count(section, "msrs", VCPU_STATE_MAX_MSRS);
	for (uint32_t i = 0; i < msrs->head.nmsrs; i++) {
		msrs->entries[i] = (struct kvm_msr_entry) { .index = state_get_u32(section) };
		msrs->entries[i].data = state_get_u64(section);
	}
}

static void put_rest(struct state_writer *writer, const struct vcpu_state *state)
{
	state_put_u32(writer, state->xcrs.nr_xcrs);
	/* The kernel says how many; the reader refuses more than there can be. */
	for (uint32_t i = 0; i < state->xcrs.nr_xcrs && i < KVM_MAX_XCRS; i++) {
		state_put_u32(writer, state->xcrs.xcrs[i].xcr);
		state_put_u64(writer, state->xcrs.xcrs[i].value);
	}
	for (size_t i = 0; i < ARRAY_SIZE(state->debug.db); i++)
		state_put_u64(writer, state->debug.db[i]);
	state_put_u64(writer, state->debug.dr6);
	state_put_u64(writer, state->debug.dr7);
	state_put_u32(writer, state->tsc_khz);
	state_put_u64(writer, state->tsc_offset);
	state_put_u64(writer, state->tsc);
}

static void get_rest(struct state_section *section, struct vcpu_state *state)
{
	state->xcrs.nr_xcrs = get_count(section, "xcrs", KVM_MAX_XCRS);
	for (uint32_t i = 0; i < state->xcrs.nr_xcrs; i++) {
		state->xcrs.xcrs[i].xcr = state_get_u32(section);
		state->xcrs.xcrs[i].value = state_get_u64(section);
	}
	for (size_t i = 0; i < ARRAY_SIZE(state->debug.db); i++)
		state->debug.db[i] = state_get_u64(section);
	state->debug.dr6 = state_get_u64(section);
	state->debug.dr7 = state_get_u64(section);
	state->tsc_khz = state_get_u32(section);
	state->tsc_offset = state_get_u64(section);
	state->tsc = state_get_u64(section);
}

static void get_xsave(struct state_section *section, struct vcpu_state *state)
{
	uint32_t length;
	const void *span = state_get_span(section, VCPU_STATE_MAX_XSAVE_BYTES, &length);

	if (!span)
		return;
	if (length < VCPU_STATE_MIN_XSAVE_BYTES) {
		state_refuse(section, "xsave", "it has %u bytes, less than any processor's",
			     length);
		return;
	}
	memcpy(state->xsave, span, length);
	state->xsave_bytes = length;
}

/* "0" to "31" */
static void name_instance(unsigned int index, char *name, size_t size_bytes)
{
	snprintf(name, size_bytes, "%u", index);
}

void vcpu_state_write(const struct vcpu_state *state, unsigned int index,
		      struct state_writer *writer)
{
	const uint64_t *regs = (const uint64_t *)(const void *)&state->regs;
	char instance[12];

	name_instance(index, instance, sizeof(instance));
	state_begin(writer, VCPU_STATE_SECTION, instance, VCPU_STATE_VERSION);
	put_cpuid(writer, &state->cpuid);
	state_put_u32(writer, state->mp.mp_state);
	for (size_t i = 0; i < sizeof(state->regs) / sizeof(*regs); i++)
		state_put_u64(writer, regs[i]);
	put_sregs(writer, &state->sregs);
	put_rest(writer, state);
	state_put_bytes(writer, state->lapic.regs, sizeof(state->lapic.regs));
	put_events(writer, &state->events);
	put_msrs(writer, &state->msrs);
	state_put_bytes(writer, state->xsave, state->xsave_bytes);
	state_end(writer);
}

int vcpu_state_read(struct vcpu_state *state, unsigned int index, struct state_file *file,
		    struct error *err)
{
	uint64_t *regs = (uint64_t *)(void *)&state->regs;
	struct state_section section;
	char instance[12];
	int result;

	/* Not all of it: the two large arrays are mostly room, and each page of it a fault. */
	memset(state, 0, offsetof(struct vcpu_state, msrs.entries));
	name_instance(index, instance, sizeof(instance));
	result = state_find(file, VCPU_STATE_SECTION, instance, VCPU_STATE_VERSION, &section, err);
	if (result < 0)
		return result;
	get_cpuid(&section, &state->cpuid);
	state->mp.mp_state = state_get_u32(&section);
	for (size_t i = 0; i < sizeof(state->regs) / sizeof(*regs); i++)
		regs[i] = state_get_u64(&section);
	get_sregs(&section, &state->sregs);
	get_rest(&section, state);
	state_get_bytes(&section, state->lapic.regs, sizeof(state->lapic.regs));
	get_events(&section, &state->events);
	get_msrs(&section, &state->msrs);
	get_xsave(&section, state);
	return state_done(&section, err);
}

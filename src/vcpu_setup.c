/*
 * The state a vCPU starts in.
 *
 * Sources: Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol" (paging on, flat segments
 * with __BOOT_CS 0x10 and __BOOT_DS 0x18, RSI at the zero page, interrupts off); the PVH start of
 * day (32-bit protected mode, paging off, flat segments, EBX at the start info); Intel SDM volume
 * 3, 10.5.1 (LVT), 11.11.2.1 (MTRRdefType).
 */
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "vcpu_private.h"

#define CR0_PE		(1ull << 0)
#define CR0_ET		(1ull << 4)
#define CR0_PG		(1ull << 31)
#define CR4_PAE		(1ull << 5)
#define EFER_LME	(1ull << 8)
#define EFER_LMA	(1ull << 10)
#define RFLAGS_RESERVED (1ull << 1)

#define MSR_IA32_MISC_ENABLE		 0x1a0
#define MSR_IA32_MISC_ENABLE_FAST_STRING 1
#define MSR_MTRR_DEF_TYPE		 0x2ff
#define MTRR_ENABLE			 (1u << 11)
#define MTRR_WRITE_BACK			 6

#define APIC_LVT_LINT0	     0x350
#define APIC_LVT_LINT1	     0x360
#define APIC_DELIVERY_NMI    (4u << 8)
#define APIC_DELIVERY_EXTINT (7u << 8)

/* Selectors within the GDT that the boot code wrote. */
#define SELECTOR_PVH_CODE   0x08
#define SELECTOR_LINUX_CODE 0x10
#define SELECTOR_DATA	    0x18
#define SELECTOR_TSS	    0x20

/*
 * What KVM sets there stays: it says that there is no branch trace store, and on most hosts no
 * precise event sampling. A kernel that is not told so may use them.
 */
static uint64_t misc_enable(const struct vcpu *vcpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { .head.nmsrs = 1, .entry.index = MSR_IA32_MISC_ENABLE };
	uint64_t now = ioctl(vcpu->fd, KVM_GET_MSRS, &msr) == 1 ? msr.entry.data : 0;

	return now | MSR_IA32_MISC_ENABLE_FAST_STRING;
}

static int set_msrs(struct vcpu *vcpu, struct error *err)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[2];
	} msrs = {
		.entries = {
			{ .index = MSR_IA32_MISC_ENABLE, .data = misc_enable(vcpu) },
			{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE | MTRR_WRITE_BACK },
		},
	};
	struct kvm_msr_entry *entry = msrs.entries;
	struct kvm_msr_entry *end = entry + ARRAY_SIZE(msrs.entries);

	/* KVM stops at the first MSR that this host cannot set: such a one is left out, and the
	 * rest goes on. */
	while (entry < end) {
		int set;

		memmove(msrs.entries, entry, (size_t)((char *)end - (char *)entry));
		end = msrs.entries + (end - entry);
		entry = msrs.entries;
		msrs.head.nmsrs = (uint32_t)(end - entry);
		set = ioctl(vcpu->fd, KVM_SET_MSRS, &msrs);
		if (set < 0)
			return error_errno(err, "vCPU %u: cannot set the MSRs", vcpu->index);
		if ((unsigned int)set == msrs.head.nmsrs)
			return 0;
		entry += set;
		log_debug(vcpu->group->log, "vCPU %u: this host cannot set MSR 0x%x", vcpu->index,
			  entry->index);
		entry++;
	}
	return 0;
}

static void set_lvt(struct kvm_lapic_state *lapic, unsigned int offset, uint32_t delivery)
{
	memcpy(lapic->regs + offset, &delivery, sizeof(delivery));
}

/*
 * As firmware leaves the boot vCPU's: LINT0 takes the PIC's interrupts, LINT1 NMIs; the MP table
 * says the same. Those of the others are masked by the INIT that starts them (SDM 3, 10.4.7.3).
 */
static int set_lints(struct vcpu *vcpu, struct error *err)
{
	struct kvm_lapic_state lapic;

	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic) < 0)
		return error_errno(err, "vCPU %u: cannot read the local APIC", vcpu->index);
	set_lvt(&lapic, APIC_LVT_LINT0, APIC_DELIVERY_EXTINT);
	set_lvt(&lapic, APIC_LVT_LINT1, APIC_DELIVERY_NMI);
	if (ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic) < 0)
		return error_errno(err, "vCPU %u: cannot set the local APIC", vcpu->index);
	return 0;
}

static int open_vcpu(struct vcpu *vcpu, struct error *err)
{
	void *run;

	vcpu->fd = ioctl(vcpu->group->vm->fd, KVM_CREATE_VCPU, (unsigned long)vcpu->index);
	if (vcpu->fd < 0)
		return error_errno(err, "KVM cannot create vCPU %u", vcpu->index);
	run = mmap(NULL, vcpu->group->vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd,
		   0);
	if (run == MAP_FAILED)
		return error_errno(err, "vCPU %u: cannot map its run area", vcpu->index);
	vcpu->run = run;
	return 0;
}

int vcpu_setup(struct vcpu *vcpu, struct cpuid_table *cpuid, struct error *err)
{
	int result = open_vcpu(vcpu, err);

	if (result < 0)
		return result;
	cpuid_set_vcpu(cpuid, vcpu->index);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		return error_errno(err, "vCPU %u: KVM refuses the CPUID table", vcpu->index);
	result = set_msrs(vcpu, err);
	if (result < 0)
		return result;
	return vcpu->index == 0 ? set_lints(vcpu, err) : 0;
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment) {
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.dpl = 0,
		.db = !long_mode,
		.s = 1,
		.l = long_mode,
		.g = 1,
	};
}

int vcpu_setup_entry(struct vcpu *vcpu, const struct boot_entry *entry, struct error *err)
{
	bool long_mode = entry->protocol == BOOT_PROTOCOL_LINUX;
	struct kvm_segment data =
		flat_segment(SELECTOR_DATA, 3, false); /* data, writable, accessed */
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = entry->rip,
		.rsi = entry->rsi,
		.rbx = entry->rbx,
		.rsp = entry->rsp,
		.rbp = entry->rsp,
		.rflags = RFLAGS_RESERVED,
	};

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return error_errno(err, "vCPU %u: cannot read the system registers", vcpu->index);
	/* Code, readable, accessed. */
	sregs.cs = flat_segment(long_mode ? SELECTOR_LINUX_CODE : SELECTOR_PVH_CODE, 11, long_mode);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	/* VMX and SVM want a busy TSS even though nothing uses it. */
	sregs.tr = (struct kvm_segment) {
		.limit = 0x67, .selector = SELECTOR_TSS, .type = 11, .present = 1
	};
	sregs.gdt.base = entry->gdt_base;
	sregs.gdt.limit = entry->gdt_limit;
	sregs.idt.base = 0;
	sregs.idt.limit = 0;
	sregs.cr0 = CR0_PE | CR0_ET;
	sregs.cr3 = 0;
	sregs.cr4 = 0;
	sregs.efer = 0;
	if (long_mode) {
		sregs.cr0 |= CR0_PG;
		sregs.cr3 = entry->cr3;
		sregs.cr4 = CR4_PAE;
		sregs.efer = EFER_LME | EFER_LMA;
	}
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0)
		return error_errno(err, "vCPU %u: cannot set the system registers", vcpu->index);
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		return error_errno(err, "vCPU %u: cannot set the registers", vcpu->index);
	return 0;
}

void vcpu_log_registers(struct vcpu *vcpu)
{
	struct log *log = vcpu->group->log;
	struct kvm_sregs s;
	struct kvm_regs r;

	if (ioctl(vcpu->fd, KVM_GET_REGS, &r) < 0 || ioctl(vcpu->fd, KVM_GET_SREGS, &s) < 0) {
		log_error(log, "vCPU %u: its registers cannot be read", vcpu->index);
		return;
	}
	log_error(log, "vCPU %u: rip %016llx rsp %016llx rflags %08llx", vcpu->index, r.rip, r.rsp,
		  r.rflags);
	log_error(log, "vCPU %u: rax %016llx rbx %016llx rcx %016llx rdx %016llx", vcpu->index,
		  r.rax, r.rbx, r.rcx, r.rdx);
	log_error(log, "vCPU %u: rsi %016llx rdi %016llx rbp %016llx r8  %016llx", vcpu->index,
		  r.rsi, r.rdi, r.rbp, r.r8);
	log_error(log, "vCPU %u: r9  %016llx r10 %016llx r11 %016llx r12 %016llx", vcpu->index,
		  r.r9, r.r10, r.r11, r.r12);
	log_error(log, "vCPU %u: r13 %016llx r14 %016llx r15 %016llx", vcpu->index, r.r13, r.r14,
		  r.r15);
	log_error(log, "vCPU %u: cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %04llx",
		  vcpu->index, s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
	log_error(log, "vCPU %u: cs %04x base %llx, ss %04x, gdt %016llx/%04x, idt %016llx/%04x",
		  vcpu->index, s.cs.selector, s.cs.base, s.ss.selector, s.gdt.base, s.gdt.limit,
		  s.idt.base, s.idt.limit);
}

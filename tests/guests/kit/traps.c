/*
 * What happens on an exception or interrupt: the handler that was set, or an end that says what it
 * was.
 */
#include "console.h"
#include "cpu.h"
#include "end.h"

#define VECTOR_UNDEFINED_OPCODE 6

#define GDT_FIRST_TSS  8 /* as an index: see start.S */
#define TSS_DESCRIPTOR 0x0000890000000000ULL
#define TSS_LIMIT      0x67

extern uint64_t gdt[];
extern const char user_exit[], cpu_wait_halt[];
__attribute__((noreturn)) void user_leave(uint64_t value);
void trap(struct trap_frame *frame);

static trap_handler *handlers[VECTORS];

_Static_assert(offsetof(struct cpu, tss.rsp) == 4, "user.S knows where RSP0 is");

void cpu_init(uint32_t index)
{
	struct cpu *cpu = cpu_self();
	uint64_t base = (uintptr_t)&cpu->tss;
	uint64_t *descriptor = &gdt[GDT_FIRST_TSS + 2 * index];

	cpu->index = index;
	cpu->tss.io_map_offset = sizeof(cpu->tss);
	descriptor[0] =
		TSS_DESCRIPTOR | TSS_LIMIT | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
	descriptor[1] = base >> 32;
	__asm__ volatile("ltr %w0" : : "r"((GDT_FIRST_TSS + 2 * index) * 8) : "memory");
}

void trap_set_handler(unsigned int vector, trap_handler *handler)
{
	handlers[vector] = handler;
}

static const char *exception_name(uint64_t vector)
{
	static const char *const names[] = {
		"divide error",
		"debug",
		"NMI",
		"breakpoint",
		"overflow",
		"bound range",
		"undefined opcode",
		"device not available",
		"double fault",
		"coprocessor overrun",
		"invalid TSS",
		"segment not present",
		"stack fault",
		"general protection",
		"page fault",
		"reserved",
		"x87 error",
		"alignment check",
		"machine check",
		"SIMD error",
	};

	return vector < sizeof(names) / sizeof(names[0]) ? names[vector] : "unexpected interrupt";
}

void trap(struct trap_frame *frame)
{
	uint64_t fault_address;

	if (frame->vector == VECTOR_UNDEFINED_OPCODE && frame->rip == (uintptr_t)user_exit &&
	    (frame->cs & 3) == 3)
		user_leave(frame->rax);
	if (frame->rip == (uintptr_t)cpu_wait_halt)
		frame->rip++; /* HLT has one byte */
	if (handlers[frame->vector]) {
		handlers[frame->vector](frame);
		return;
	}
	__asm__ volatile("mov %%cr2, %0" : "=r"(fault_address));
	guest_fail(
		"panic: %s (vector %llu, error %#llx) on CPU %u in ring %llu: rip %#llx rsp %#llx rflags %#llx cr2 %#llx rax %#llx",
		exception_name(frame->vector), (unsigned long long)frame->vector,
		(unsigned long long)frame->error, cpu_self()->index,
		(unsigned long long)frame->cs & 3, (unsigned long long)frame->rip,
		(unsigned long long)frame->rsp, (unsigned long long)frame->rflags,
		(unsigned long long)fault_address, (unsigned long long)frame->rax);
}

/*
 * The CPU as a small guest sees it: instructions that C has no word for, each CPU's own memory,
 * ring 3, and the exceptions. Intel SDM volume 3; AMD64 APM volume 2.
 *
 * No instruction here, and none that the compiler makes with the kit's flags, is one that an
 * interpreter of supervisor code is known to lack (among them POPCNT, INT3 and the fences of SSE).
 */
#ifndef KIT_CPU_H
#define KIT_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

/* One access of just this width and shape: compilers may choose others for a volatile pointer. */
static inline uint32_t mmio_read32(uint64_t address)
{
	uint32_t value;

	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline void mmio_write32(uint64_t address, uint32_t value)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

static inline uint8_t mmio_read8(uint64_t address)
{
	uint8_t value;

	__asm__ volatile("movb (%1), %0" : "=q"(value) : "r"(address) : "memory");
	return value;
}

static inline void mmio_write8(uint64_t address, uint8_t value)
{
	__asm__ volatile("movb %0, (%1)" : : "q"(value), "r"(address) : "memory");
}

static inline uint64_t tsc_read(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static inline uint64_t msr_read(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
	return (uint64_t)high << 32 | low;
}

static inline void msr_write(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			 : "memory");
}

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid_read(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r;

	__asm__ volatile("cpuid"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "a"(leaf), "c"(subleaf));
	return r;
}

/* Orders memory accesses, those to devices included; a locked instruction, since every interpreter
 * has those. */
static inline void memory_barrier(void)
{
	__asm__ volatile("lock addl $0, -4(%%rsp)" : : : "memory", "cc");
}

/* x86 keeps stores in order, and loads: what is left to do is to hold back the compiler. */
static inline void compiler_barrier(void)
{
	__asm__ volatile("" : : : "memory");
}

static inline void cpu_relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline void interrupts_on(void)
{
	__asm__ volatile("sti" : : : "memory");
}

static inline void interrupts_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/* Sleeps until an interrupt has been handled. Interrupts are off before, so that none is missed,
 * and after. */
void cpu_wait(void);

/* Stands still for ever, at no cost. */
__attribute__((noreturn)) static inline void cpu_halt(void)
{
	for (;;)
		__asm__ volatile("cli; hlt" : : : "memory");
}

#define CPU_AREA_BYTES 8192
#define CPUS_MAX       32

/* At the start of each CPU's area; the task state comes first, user.S knows its RSP0. */
struct cpu {
	struct {
		uint32_t reserved0;
		uint64_t rsp[3];
		uint64_t reserved1;
		uint64_t ist[7];
		uint64_t reserved2;
		uint16_t reserved3;
		uint16_t io_map_offset;
	} __attribute__((packed)) tss;
	uint32_t index; /* 0 .. CPUS_MAX - 1; the boot CPU is 0 */
};

extern uint8_t cpu_areas[CPUS_MAX][CPU_AREA_BYTES];

/* The CPU that asks. */
static inline struct cpu *cpu_self(void)
{
	uintptr_t stack;

	__asm__("mov %%rsp, %0" : "=r"(stack));
	return (struct cpu *)(stack & ~(uintptr_t)(CPU_AREA_BYTES - 1));
}

/* Once on each CPU, before it may take exceptions from ring 3. */
void cpu_init(uint32_t index);

/*
 * Calls `function` with `argument` in ring 3, and returns what it returned. It may use all memory,
 * but no ports; what only ring 0 may do ends the guest. Where supervisor code is interpreted, ring
 * 3 is not: loops over memory and text belong there. Not from within ring 3, nor from an interrupt
 * handler.
 */
uint64_t user_run(uint64_t (*function)(void *argument), void *argument);

/* What an exception or interrupt found, in the order of traps.S. */
struct trap_frame {
	uint64_t tsc; /* read as the first thing */
	uint64_t rbp, r11, r10, r9, r8, rdi, rsi, rcx, rdx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

#define EXCEPTIONS 32
#define VECTORS	   64

/* Called with interrupts off. An exception without a handler ends the guest; so does such an
 * interrupt. */
typedef void trap_handler(struct trap_frame *frame);
void trap_set_handler(unsigned int vector, trap_handler *handler);

#endif

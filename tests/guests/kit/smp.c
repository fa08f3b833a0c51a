/* Other CPUs: see smp.h. */
#include "interrupts.h"
#include "smp.h"
#include "text.h"

#define TRAMPOLINE	0x1000ULL /* trampoline.S knows it, too */
#define COMMAND_INIT	0x4500	  /* assert */
#define COMMAND_STARTUP 0x4600

extern const uint8_t trampoline[];
extern const uint64_t trampoline_bytes;
void smp_entry(void);

/* What the CPU that starts finds; one at a time. */
uint64_t smp_stack;
static struct {
	uint32_t index;
	void (*function)(void *argument);
	void *argument;
	volatile bool up;
} starting;

/* From trampoline.S, on the new CPU's stack. */
void smp_entry(void)
{
	void (*function)(void *) = starting.function;
	void *argument = starting.argument;

	cpu_init(starting.index);
	starting.up = true;
	function(argument);
	cpu_halt();
}

static bool wait_up(uint64_t patience)
{
	uint64_t start = tsc_read();

	while (!starting.up && tsc_read() - start < patience)
		cpu_relax();
	return starting.up;
}

bool cpu_start(uint32_t index, uint32_t apic_id_of_cpu, void (*function)(void *argument),
	       void *argument, uint64_t patience)
{
	interrupts_init();
	memcpy((void *)TRAMPOLINE, trampoline, trampoline_bytes);
	smp_stack = (uintptr_t)cpu_areas[index] + CPU_AREA_BYTES;
	starting.index = index;
	starting.function = function;
	starting.argument = argument;
	starting.up = false;
	memory_barrier();
	apic_send(apic_id_of_cpu, COMMAND_INIT);
	apic_send(apic_id_of_cpu, COMMAND_STARTUP | (uint32_t)(TRAMPOLINE >> 12));
	if (wait_up(patience / 2))
		return true;
	/* Real processors may miss the first one. */
	apic_send(apic_id_of_cpu, COMMAND_STARTUP | (uint32_t)(TRAMPOLINE >> 12));
	return wait_up(patience / 2);
}

/* Other CPUs: started by INIT and start-up interrupts (Intel SDM volume 3, 8.4.4). */
#ifndef KIT_SMP_H
#define KIT_SMP_H

#include "cpu.h"

/*
 * Starts the CPU with this APIC id, which must not be the one that asks, and lets it call
 * `function` (ring 0, interrupts off, on a stack of its own; it may use user_run()), then halt for
 * ever. `index` is 1 .. CPUS_MAX - 1, another one for each. False when the CPU does not come up
 * within `patience` (in ticks of the time-stamp counter).
 */
bool cpu_start(uint32_t index, uint32_t apic_id, void (*function)(void *argument), void *argument,
	       uint64_t patience);

#endif

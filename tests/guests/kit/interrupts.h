/*
 * Interrupts of devices: the IO-APIC's pins (Intel 82093AA), edge-triggered, to the local APIC
 * (Intel SDM volume 3, chapter 11) of the boot CPU.
 */
#ifndef KIT_INTERRUPTS_H
#define KIT_INTERRUPTS_H

#include "cpu.h"

#define INTERRUPT_PINS 24

/* Turns on the local APIC of the boot CPU and masks the old controllers. More than once does no
 * harm. */
void interrupts_init(void);

/* From now on `handler` is called when the pin's line rises. It must call interrupt_done(). */
void interrupt_route(unsigned int pin, trap_handler *handler);

/* The vector of a pin. */
static inline unsigned int interrupt_vector(unsigned int pin)
{
	return EXCEPTIONS + pin;
}

/* Lets the next interrupt come. */
void interrupt_done(void);

/* The local APIC's id of the CPU that asks. */
uint32_t apic_id(void);

/* Interprocessor interrupts: the value of the command register's low half (INIT, start-up, fixed).
 */
void apic_send(uint32_t to_apic_id, uint32_t command);

#endif

/*
 * Time: the time-stamp counter, its frequency where somebody says it, and the time of day where KVM
 * says it.
 */
#ifndef KIT_CLOCK_H
#define KIT_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How fast the time-stamp counter counts: by the parameter tsc_khz=, kvm-clock (Linux
 * Documentation/virt/kvm/x86/msr.rst) or CPUID (leaves 0x40000010 and 0x15). 0 when nobody says it.
 */
uint64_t clock_tsc_khz(void);

/* 0 when the frequency is not known. */
uint64_t clock_tsc_to_ns(uint64_t ticks);

/* Seconds since 1970, by kvm-clock; false where there is none. */
bool clock_wall_seconds(uint64_t *seconds);

#endif

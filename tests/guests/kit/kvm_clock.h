/*
 * What KVM tells a guest of time: Linux Documentation/virt/kvm/x86/msr.rst, struct
 * pvclock_vcpu_time_info and struct pvclock_wall_clock. Both are odd in `version` while KVM writes
 * them.
 */
#ifndef KIT_KVM_CLOCK_H
#define KIT_KVM_CLOCK_H

#include <stdint.h>

#define MSR_KVM_WALL_CLOCK  0x4b564d00
#define MSR_KVM_SYSTEM_TIME 0x4b564d01
#define SYSTEM_TIME_ENABLE  1
#define TSC_STABLE	    1 /* in `flags`: the times of several CPUs can be compared */

struct system_time {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time_ns;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, pad[2];
} __attribute__((aligned(64)));

struct wall_clock {
	uint32_t version, seconds, nanoseconds;
} __attribute__((aligned(16)));

#endif

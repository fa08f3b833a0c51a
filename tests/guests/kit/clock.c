/* Time: see clock.h. */
#include "clock.h"
#include "cpu.h"
#include "kvm_clock.h"
#include "params.h"
#include "text.h"

#define CPUID_FEATURES	     0x1
#define ECX_HYPERVISOR	     (1U << 31)
#define CPUID_TSC	     0x15
#define CPUID_HYPERVISOR     0x40000000
#define CPUID_KVM_FEATURES   0x40000001
#define CPUID_HYPERVISOR_TSC 0x40000010
#define KVM_CLOCKSOURCE2     (1U << 3)

static struct system_time system_time;
static struct wall_clock wall_clock;

static bool kvm_clock_start(void)
{
	static enum {
		UNKNOWN,
		ABSENT,
		STARTED
	} state;
	struct cpuid signature;

	if (state != UNKNOWN)
		return state == STARTED;
	state = ABSENT;
	if (!(cpuid_read(CPUID_FEATURES, 0).ecx & ECX_HYPERVISOR))
		return false;
	signature = cpuid_read(CPUID_HYPERVISOR, 0);
	if (memcmp(&signature.ebx, "KVMK", 4) != 0 ||
	    !(cpuid_read(CPUID_KVM_FEATURES, 0).eax & KVM_CLOCKSOURCE2))
		return false;
	msr_write(MSR_KVM_SYSTEM_TIME, (uintptr_t)&system_time | SYSTEM_TIME_ENABLE);
	if (*(volatile uint32_t *)&system_time.tsc_to_system_mul == 0)
		return false;
	state = STARTED;
	return true;
}

static struct system_time system_time_now(void)
{
	struct system_time now;

	do {
		while (*(volatile uint32_t *)&system_time.version & 1)
			cpu_relax();
		compiler_barrier();
		now = system_time;
		compiler_barrier();
	} while (now.version != *(volatile uint32_t *)&system_time.version);
	return now;
}

/* ns = (ticks << tsc_shift) * mul / 2^32, so kHz = 10^6 * 2^32 / mul >> tsc_shift. */
static uint64_t kvm_clock_khz(void)
{
	struct system_time now = system_time_now();
	uint64_t khz = (1000000ULL << 32) / now.tsc_to_system_mul;

	return now.tsc_shift < 0 ? khz << -now.tsc_shift : khz >> now.tsc_shift;
}

static uint64_t cpuid_khz(void)
{
	struct cpuid tsc;

	if ((cpuid_read(CPUID_FEATURES, 0).ecx & ECX_HYPERVISOR) &&
	    cpuid_read(CPUID_HYPERVISOR, 0).eax >= CPUID_HYPERVISOR_TSC)
		return cpuid_read(CPUID_HYPERVISOR_TSC, 0).eax;
	if (cpuid_read(0, 0).eax < CPUID_TSC)
		return 0;
	tsc = cpuid_read(CPUID_TSC, 0);
	return tsc.eax ? (uint64_t)tsc.ecx * tsc.ebx / tsc.eax / 1000 : 0;
}

uint64_t clock_tsc_khz(void)
{
	static uint64_t khz;
	const struct param params[] = {
		{ .name = "tsc_khz", .type = PARAM_NUMBER, .value = &khz, .minimum = 1 }
	};

	if (khz == 0)
		params_read(params, 1);
	if (khz == 0)
		khz = kvm_clock_start() ? kvm_clock_khz() : cpuid_khz();
	return khz;
}

uint64_t clock_tsc_to_ns(uint64_t ticks)
{
	uint64_t khz = clock_tsc_khz();

	/* In two parts, so that nothing overflows in less than five hundred years. */
	return khz == 0 ? 0 : ticks / khz * 1000000 + ticks % khz * 1000000 / khz;
}

bool clock_wall_seconds(uint64_t *seconds)
{
	struct system_time now;
	uint64_t ns, ticks;

	if (!kvm_clock_start())
		return false;
	do {
		msr_write(MSR_KVM_WALL_CLOCK, (uintptr_t)&wall_clock);
		compiler_barrier();
	} while (wall_clock.version & 1);
	now = system_time_now();
	ticks = tsc_read() - now.tsc_timestamp;
	ticks = now.tsc_shift < 0 ? ticks >> -now.tsc_shift : ticks << now.tsc_shift;
	ns = now.system_time_ns +
	     (uint64_t)(((unsigned __int128)ticks * now.tsc_to_system_mul) >> 32);
	*seconds = wall_clock.seconds + (wall_clock.nanoseconds + ns) / 1000000000;
	return true;
}

/*
 * clocks: every CPU reads the time-stamp counter and kvm-clock all the while, and compares what it
 * reads with the latest time that any of them had seen before. For tests of snapshots and pauses:
 * whatever is done to the guest, neither may go back. See ../README.md.
 *
 * The wall clock is read as kernels do it: once, at the start; later it is that and kvm-clock.
 * Source: Linux Documentation/virt/kvm/x86/msr.rst (struct pvclock_vcpu_time_info).
 */
#include "boot.h"
#include "console.h"
#include "cpu.h"
#include "end.h"
#include "kvm_clock.h"
#include "params.h"
#include "smp.h"
#include "text.h"

#define LINE_BYTES   64
#define CPU_PATIENCE 20000000000ULL /* ticks: several seconds */

#define NS_PER_SECOND 1000000000ULL

static volatile struct system_time system_times[CPUS_MAX];
static volatile struct wall_clock wall_clock;

/* The latest that any CPU has read, and how far a later reading was behind it. */
struct watched {
	volatile uint64_t latest, most_back, times_back;
};

static struct watched tsc, kvm_clock;
static uint64_t own_latest[CPUS_MAX];
static volatile uint64_t readings[CPUS_MAX];
static uint64_t readings_at_once = 10000;

static void raise_to(volatile uint64_t *at, uint64_t value)
{
	uint64_t old = *at;

	while (old < value && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_SEQ_CST,
							   __ATOMIC_SEQ_CST))
		;
}

static void went_back(struct watched *watched, uint64_t by)
{
	__atomic_fetch_add(&watched->times_back, 1, __ATOMIC_SEQ_CST);
	raise_to(&watched->most_back, by);
}

/* Not before what is read ahead of it, such as the latest time of another CPU. */
static uint64_t tsc_read_now(void)
{
	__asm__ volatile("lfence" : : : "memory");
	return tsc_read();
}

static uint64_t kvm_clock_ns(unsigned int cpu, bool *stable)
{
	const volatile struct system_time *page = &system_times[cpu];
	uint64_t ns, ticks;
	uint32_t version;

	do {
		version = page->version;
		ticks = tsc_read_now() - page->tsc_timestamp;
		ticks = page->tsc_shift < 0 ? ticks >> -page->tsc_shift : ticks << page->tsc_shift;
		ns = page->system_time_ns +
		     (uint64_t)(((unsigned __int128)ticks * page->tsc_to_system_mul) >> 32);
		*stable = page->flags & TSC_STABLE;
		compiler_barrier();
	} while ((version & 1) || version != page->version);
	return ns;
}

/* In ring 3, on each CPU. */
static uint64_t watch(void *argument)
{
	unsigned int cpu = (unsigned int)(uintptr_t)argument;

	for (uint64_t i = 0; i < readings_at_once; i++) {
		uint64_t before = tsc.latest, now = tsc_read_now();
		bool stable;

		if (now < before)
			went_back(&tsc, before - now);
		raise_to(&tsc.latest, now);
		before = kvm_clock.latest;
		now = kvm_clock_ns(cpu, &stable);
		/* Where CPUs cannot be compared, each is with itself. */
		if (!stable)
			before = own_latest[cpu];
		if (now < before)
			went_back(&kvm_clock, before - now);
		own_latest[cpu] = now;
		raise_to(&kvm_clock.latest, now);
	}
	readings[cpu] += readings_at_once;
	return 0;
}

static void begin(unsigned int cpu)
{
	msr_write(MSR_KVM_SYSTEM_TIME, (uintptr_t)&system_times[cpu] | SYSTEM_TIME_ENABLE);
	if (system_times[cpu].tsc_to_system_mul == 0)
		guest_fail("KVM does not fill in CPU %u's clock", cpu);
}

__attribute__((noreturn)) static void cpu_main(void *argument)
{
	begin((unsigned int)(uintptr_t)argument);
	for (;;)
		user_run(watch, argument);
}

static void say(unsigned int cpus)
{
	uint64_t least = readings[0];
	bool stable;
	uint64_t ns = kvm_clock_ns(0, &stable);

	for (unsigned int i = 1; i < cpus; i++)
		least = readings[i] < least ? readings[i] : least;
	print("result: clocks cpus=%u readings=%llu stable=%u tsc_back=%llu tsc_most=%llu kvm_back=%llu "
	      "kvm_most=%llu tsc=%llu ns=%llu wall_ns=%llu\n",
	      cpus, (unsigned long long)least, stable, (unsigned long long)tsc.times_back,
	      (unsigned long long)tsc.most_back, (unsigned long long)kvm_clock.times_back,
	      (unsigned long long)kvm_clock.most_back, (unsigned long long)tsc.latest,
	      (unsigned long long)ns,
	      (unsigned long long)(wall_clock.seconds * NS_PER_SECOND + wall_clock.nanoseconds +
				   ns));
}

/* True when there is a whole line. */
static bool read_some(char line[LINE_BYTES], unsigned int *used)
{
	for (int byte = console_read(); byte >= 0; byte = console_read()) {
		if (byte == '\n') {
			line[*used] = '\0';
			*used = 0;
			return true;
		}
		if (*used < LINE_BYTES - 1)
			line[(*used)++] = (char)byte;
	}
	return false;
}

void guest_main(void)
{
	char line[LINE_BYTES];
	unsigned int used = 0;
	uint64_t cpus = 1;
	const struct param params[] = {
		{ .name = "cpus",
		  .type = PARAM_NUMBER,
		  .value = &cpus,
		  .minimum = 1,
		  .maximum = CPUS_MAX },
		{ .name = "readings",
		  .type = PARAM_NUMBER,
		  .value = &readings_at_once,
		  .minimum = 1 },
	};

	params_read(params, sizeof(params) / sizeof(params[0]));
	begin(0);
	msr_write(MSR_KVM_WALL_CLOCK, (uintptr_t)&wall_clock);
	for (uint32_t id = 1; id < cpus; id++) {
		if (!cpu_start(id, id, cpu_main, (void *)(uintptr_t)id, CPU_PATIENCE))
			guest_fail("CPU %u does not come up", id);
	}
	print("guest: ready\n");
	for (;;) {
		user_run(watch, NULL);
		if (!read_some(line, &used))
			continue;
		if (text_equal(line, "reset"))
			break;
		say((unsigned int)cpus);
	}
	print("result: end\n");
}

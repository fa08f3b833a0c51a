/*
 * The KVM calls that a restored guest costs whoever makes them: those of Mayfly for one vCPU, one
 * memory slot, a serial port and an i8042, in the same order, and nothing around them. What a load
 * takes beyond them is the monitor's.
 *
 *   bare-restore save STATE
 *	the state of a vCPU and a VM that have never run
 *   bare-restore load STATE MEMORY-FILE MEMORY-MIB
 *	a new VM with it, as a monitor that starts anew does
 *   bare-restore prepared STATE MEMORY-FILE MEMORY-MIB
 *	the same, the VM made before the file is mapped
 *
 * The last two print for each call "START NANOSECONDS NAME" to standard error, START by
 * CLOCK_MONOTONIC; "load asked for" is where the request would come. The guest is not run.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PROGRAM "bare-restore"
#include "timed.h"

#define MAX_CPUID 256
#define MAX_MSRS  512

struct state {
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[MAX_CPUID];
	} cpuid;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[MAX_MSRS];
	} msrs;
	struct kvm_sregs2 sregs;
	struct kvm_regs regs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_irqchip chips[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
	uint8_t xsave[16384];
};

static struct state state;
#define KVM(fd, request, argument) TIMED(#request, ioctl(fd, request, argument))

static int kvm, vm, vcpu;

static void make_vm(void *memory, uint64_t bytes)
{
	struct kvm_userspace_memory_region slot = { .memory_size = bytes,
						    .userspace_addr = (uintptr_t)memory };
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	uint64_t identity = 0xfffbc000;
	int run_bytes;

	kvm = TIMED("open /dev/kvm", open("/dev/kvm", O_RDWR | O_CLOEXEC));
	vm = KVM(kvm, KVM_CREATE_VM, 0);
	run_bytes = KVM(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	KVM(vm, KVM_SET_USER_MEMORY_REGION, &slot);
	KVM(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	KVM(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	KVM(vm, KVM_CREATE_IRQCHIP, 0);
	KVM(vm, KVM_CREATE_PIT2, &pit);
	vcpu = KVM(vm, KVM_CREATE_VCPU, 0);
	if (mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0) ==
	    MAP_FAILED)
		die("the vCPU's run area");
}

static void get_supported_cpuid(void)
{
	state.cpuid.head.nent = MAX_CPUID;
	KVM(kvm, KVM_GET_SUPPORTED_CPUID, &state.cpuid);
}

static void save(const char *path)
{
	struct {
		struct kvm_msr_list head;
		uint32_t indices[MAX_MSRS];
	} list = { .head.nmsrs = MAX_MSRS };
	int fd;

	make_vm(mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		16 << 20);
	get_supported_cpuid();
	KVM(vcpu, KVM_SET_CPUID2, &state.cpuid);
	KVM(kvm, KVM_GET_MSR_INDEX_LIST, &list);
	for (uint32_t i = 0; i < list.head.nmsrs; i++) {
		struct kvm_msr_entry *entry = &state.msrs.entries[state.msrs.head.nmsrs];
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry entry;
		} one = { .head.nmsrs = 1, .entry.index = list.indices[i] };

		/* What can be read and set again; time is set another way. */
		if (list.indices[i] != 0x10 && list.indices[i] != 0x6e0 &&
		    ioctl(vcpu, KVM_GET_MSRS, &one) == 1 && ioctl(vcpu, KVM_SET_MSRS, &one) == 1) {
			*entry = one.entry;
			state.msrs.head.nmsrs++;
		}
	}
	KVM(vcpu, KVM_GET_MP_STATE, &state.mp);
	KVM(vcpu, KVM_GET_REGS, &state.regs);
	KVM(vcpu, KVM_GET_SREGS2, &state.sregs);
	KVM(vcpu, KVM_GET_XCRS, &state.xcrs);
	KVM(vcpu, KVM_GET_DEBUGREGS, &state.debug);
	KVM(vcpu, KVM_GET_LAPIC, &state.lapic);
	KVM(vcpu, KVM_GET_VCPU_EVENTS, &state.events);
	if (ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2) > (int)sizeof(state.xsave)) {
		errno = E2BIG;
		die("the XSAVE area");
	}
	KVM(vcpu, KVM_GET_XSAVE2, state.xsave);
	for (uint32_t i = 0; i < 3; i++) {
		state.chips[i].chip_id = i;
		KVM(vm, KVM_GET_IRQCHIP, &state.chips[i]);
	}
	KVM(vm, KVM_GET_PIT2, &state.pit);
	KVM(vm, KVM_GET_CLOCK, &state.clock);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, &state, sizeof(state)) != sizeof(state))
		die(path);
}

static void connect_devices(void)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct kvm_irqfd irqfd = { .fd = (uint32_t)eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
					   .gsi = i ? 1 : 4 };

		KVM(vm, KVM_IRQFD, &irqfd);
	}
}

/* `shown`: where KVM cannot hide features, what a guest sees is asked back. */
static void restore(void)
{
	struct kvm_clock_data clock = { .clock = state.clock.clock };
	struct kvm_irq_level level = { .irq = 3 };
	uint64_t offset;
	struct kvm_device_attr attribute = { .group = KVM_VCPU_TSC_CTRL,
					     .attr = KVM_VCPU_TSC_OFFSET,
					     .addr = (uintptr_t)&offset };

	KVM(vcpu, KVM_SET_CPUID2, &state.cpuid);
	KVM(vcpu, KVM_GET_TSC_KHZ, 0);
	KVM(vcpu, KVM_SET_SREGS2, &state.sregs);
	KVM(vcpu, KVM_SET_REGS, &state.regs);
	if (state.xcrs.nr_xcrs)
		KVM(vcpu, KVM_SET_XCRS, &state.xcrs);
	KVM(vcpu, KVM_SET_DEBUGREGS, &state.debug);
	KVM(vcpu, KVM_SET_LAPIC, &state.lapic);
	KVM(vcpu, KVM_SET_MP_STATE, &state.mp);
	KVM(vcpu, KVM_SET_XSAVE, state.xsave);
	KVM(vcpu, KVM_SET_MSRS, &state.msrs);
	KVM(vcpu, KVM_SET_VCPU_EVENTS, &state.events);
	for (uint32_t i = 0; i < 3; i++)
		KVM(vm, KVM_SET_IRQCHIP, &state.chips[i]);
	KVM(vm, KVM_SET_PIT2, &state.pit);
	level.level = 1;
	KVM(vm, KVM_IRQ_LINE, &level);
	level.level = 0;
	KVM(vm, KVM_IRQ_LINE, &level);
	KVM(vm, KVM_SET_CLOCK, &clock);
	KVM(vm, KVM_GET_CLOCK, &clock);
	KVM(vcpu, KVM_GET_DEVICE_ATTR, &attribute);
	KVM(vcpu, KVM_SET_DEVICE_ATTR, &attribute);
}

static void map_file(void *memory, const char *path, uint64_t bytes)
{
	int fd = TIMED("open the memory file", open(path, O_RDONLY | O_CLOEXEC));

	TIMED("mmap the memory file", (long)mmap(memory, bytes, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, 0));
}

static void load(const char *state_path, const char *memory_path, uint64_t bytes, int prepared)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int fd;

	if (memory == MAP_FAILED)
		die("guest memory");
	if (prepared) {
		make_vm(memory, bytes);
		get_supported_cpuid();
		connect_devices();
	}
	note("load asked for", now_ns());
	fd = TIMED("open the state file", open(state_path, O_RDONLY | O_CLOEXEC));
	if (TIMED("read the state file", read(fd, &state, sizeof(state))) != sizeof(state))
		die(state_path);
	map_file(memory, memory_path, bytes);
	if (!prepared) {
		struct state kept = state;

		make_vm(memory, bytes);
		get_supported_cpuid();
		state.cpuid = kept.cpuid;
		connect_devices();
	}
	restore();
	note("restored", now_ns());
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "save") == 0) {
		save(argv[2]);
		return 0;
	}
	if (argc != 5 || (strcmp(argv[1], "load") != 0 && strcmp(argv[1], "prepared") != 0)) {
		fprintf(stderr, "usage: bare-restore save STATE\n"
				"       bare-restore load|prepared STATE MEMORY-FILE MEMORY-MIB\n");
		return 2;
	}
	load(argv[2], argv[3], strtoull(argv[4], NULL, 10) << 20, argv[1][0] == 'p');
	for (unsigned int i = 0; i < time_count; i++)
		fprintf(stderr, "%llu %llu %s\n", (unsigned long long)times[i].start_ns,
			(unsigned long long)times[i].ns, times[i].name);
	return 0;
}

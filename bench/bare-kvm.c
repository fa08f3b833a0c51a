/*
 * The KVM calls that a guest costs whoever makes them: those of Mayfly for one vCPU, one memory
 * slot, a serial port, an i8042 and one disk with one queue, in the same order, and nothing around
 * them. What a monitor takes beyond this program's time is the monitor's.
 *
 *   bare-kvm [--times] MEMORY-MIB KERNEL
 *
 * Runs a small ELF guest entered as Linux is in 64-bit mode, until it resets the machine through
 * the i8042 (port 0x64); serial output goes to standard output. --times prints for each call
 * "START NANOSECONDS NAME" to standard error, START by CLOCK_MONOTONIC. Not a monitor: a guest that
 * does anything else is an error.
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PROGRAM "bare-kvm"
#include "timed.h"

#define MAX_CPUID    256
#define GDT	     0x500
#define ZERO_PAGE    0x7000
#define STACK	     0x8ff0
#define PAGE_TABLES  0x9000
#define VIRTIO	     0xc0001000ull
#define VIRTIO_TWIN  0xc0101000ull
#define QUEUE_NOTIFY 0x50

static void load_elf(uint8_t *memory, size_t size, const char *path, uint64_t *entry)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr head;
	Elf64_Phdr segment;

	if (fd < 0 || pread(fd, &head, sizeof(head), 0) != sizeof(head) ||
	    memcmp(head.e_ident, ELFMAG, SELFMAG) != 0)
		die(path);
	for (unsigned int i = 0; i < head.e_phnum; i++) {
		if (pread(fd, &segment, sizeof(segment),
			  (off_t)(head.e_phoff + i * sizeof(segment))) != sizeof(segment))
			die(path);
		if (segment.p_type != PT_LOAD || segment.p_filesz == 0)
			continue;
		if (segment.p_paddr > size || segment.p_filesz > size - segment.p_paddr) {
			errno = ENOMEM;
			die(path);
		}
		if (pread(fd, memory + segment.p_paddr, segment.p_filesz, (off_t)segment.p_offset) <
		    0)
			die(path);
	}
	*entry = head.e_entry;
	close(fd);
}

/* Flat segments, and the first GiB mapped to itself by pages of 2 MiB. */
static void write_tables(uint8_t *memory)
{
	const uint64_t gdt[] = { 0, 0, 0xaf9b000000ffff, 0xcf93000000ffff, 0x8f8b000000ffff };
	uint64_t *tables = (uint64_t *)(void *)(memory + PAGE_TABLES);

	memcpy(memory + GDT, gdt, sizeof(gdt));
	tables[0] = (PAGE_TABLES + 4096) | 3;
	tables[512] = (PAGE_TABLES + 8192) | 3;
	for (uint64_t i = 0; i < 512; i++)
		tables[1024 + i] = i << 21 | 0x83;
}

static void set_registers(int vcpu, uint64_t entry)
{
	struct kvm_segment code = {
		.limit = ~0u, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment data = {
		.limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1
	};
	struct kvm_regs regs = {
		.rip = entry, .rsi = ZERO_PAGE, .rsp = STACK, .rbp = STACK, .rflags = 2
	};
	struct kvm_sregs sregs;

	TIMED("KVM_GET_SREGS", ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr =
		(struct kvm_segment) { .limit = 0x67, .selector = 0x20, .type = 11, .present = 1 };
	sregs.gdt.base = GDT;
	sregs.gdt.limit = 39;
	sregs.idt.base = sregs.idt.limit = 0;
	sregs.cr0 = 0x80000011; /* PG, ET, PE */
	sregs.cr3 = PAGE_TABLES;
	sregs.cr4 = 0x20;   /* PAE */
	sregs.efer = 0x500; /* LMA, LME */
	TIMED("KVM_SET_SREGS", ioctl(vcpu, KVM_SET_SREGS, &sregs));
	TIMED("KVM_SET_REGS", ioctl(vcpu, KVM_SET_REGS, &regs));
}

static void set_up_vcpu(int kvm, int vcpu)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[MAX_CPUID];
	} cpuid = { .head.nent = MAX_CPUID };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[2];
	} msrs = { .head.nmsrs = 1,
		   .entries = { { .index = 0x1a0 }, { .index = 0x2ff, .data = 0x806 } } };
	struct kvm_lapic_state lapic;

	TIMED("KVM_GET_SUPPORTED_CPUID", ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
	TIMED("KVM_SET_CPUID2", ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
	TIMED("KVM_GET_MSRS", ioctl(vcpu, KVM_GET_MSRS, &msrs));
	msrs.head.nmsrs = 2;
	TIMED("KVM_SET_MSRS", ioctl(vcpu, KVM_SET_MSRS, &msrs));
	TIMED("KVM_GET_LAPIC", ioctl(vcpu, KVM_GET_LAPIC, &lapic));
	TIMED("KVM_SET_LAPIC", ioctl(vcpu, KVM_SET_LAPIC, &lapic));
}

/* Serial port, i8042, and the one queue of a disk, whose transport has two windows. */
static void connect_devices(int vm)
{
	const uint64_t windows[] = { VIRTIO, VIRTIO_TWIN };
	int notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	for (uint32_t gsi = 0; gsi < 3; gsi++) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		struct kvm_irqfd irqfd = { .fd = (uint32_t)fd,
					   .gsi = (const uint32_t[]) { 4, 1, 5 }[gsi] };

		TIMED("KVM_IRQFD", ioctl(vm, KVM_IRQFD, &irqfd));
	}
	for (unsigned int i = 0; i < 2; i++) {
		struct kvm_ioeventfd ioeventfd = { .addr = windows[i] + QUEUE_NOTIFY,
						   .len = 4,
						   .fd = notify,
						   .flags = KVM_IOEVENTFD_FLAG_DATAMATCH };

		TIMED("KVM_IOEVENTFD", ioctl(vm, KVM_IOEVENTFD, &ioeventfd));
	}
}

/* Serves exits until the guest resets the machine. */
static int run_guest(int vcpu, struct kvm_run *run)
{
	const char *name = "first KVM_RUN";

	for (;; name = NULL) {
		uint64_t before = now_ns();
		uint8_t *data = (uint8_t *)run;

		if (ioctl(vcpu, KVM_RUN, 0) < 0)
			die("KVM_RUN");
		if (name)
			note(name, before);
		if (run->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "bare-kvm: the guest exits with reason %u\n",
				run->exit_reason);
			return 1;
		}
		data += run->io.data_offset;
		if (run->io.direction == KVM_EXIT_IO_IN)
			*data = run->io.port == 0x3fd ? 0x60 : 0; /* ready to send */
		else if (run->io.port == 0x64 && *data == 0xfe)
			return 0;
		else if (run->io.port == 0x3f8 &&
			 write(STDOUT_FILENO, data, run->io.count * run->io.size) < 0)
			die("standard output");
	}
}

int main(int argc, char **argv)
{
	static const int capabilities[] = { KVM_CAP_IRQCHIP,	    KVM_CAP_USER_MEMORY,
					    KVM_CAP_IOEVENTFD,	    KVM_CAP_IRQFD,
					    KVM_CAP_PIT2,	    KVM_CAP_EXT_CPUID,
					    KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_MAX_VCPUS };
	uint64_t entry, identity = 0xfffbc000;
	bool print = argc > 1 && strcmp(argv[1], "--times") == 0;
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_userspace_memory_region slot = { 0 };
	int kvm, vm, vcpu, run_bytes, status;
	struct kvm_run *run;
	uint8_t *memory;

	if (argc != 3 + print) {
		fprintf(stderr, "usage: bare-kvm [--times] MEMORY-MIB KERNEL\n");
		return 2;
	}
	slot.memory_size = strtoull(argv[1 + print], NULL, 10) << 20;
	memory = mmap(NULL, slot.memory_size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (slot.memory_size < 4 << 20 || memory == MAP_FAILED)
		die("guest memory");
	slot.userspace_addr = (uintptr_t)memory;
	madvise(memory, slot.memory_size, MADV_NOHUGEPAGE);
	load_elf(memory, slot.memory_size, argv[2 + print], &entry);
	write_tables(memory);

	kvm = TIMED("open /dev/kvm", open("/dev/kvm", O_RDWR | O_CLOEXEC));
	TIMED("KVM_GET_API_VERSION", ioctl(kvm, KVM_GET_API_VERSION, 0));
	for (unsigned int i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++)
		TIMED("KVM_CHECK_EXTENSION", ioctl(kvm, KVM_CHECK_EXTENSION, capabilities[i]));
	vm = TIMED("KVM_CREATE_VM", ioctl(kvm, KVM_CREATE_VM, 0));
	run_bytes = TIMED("KVM_GET_VCPU_MMAP_SIZE", ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	TIMED("KVM_SET_USER_MEMORY_REGION", ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot));
	TIMED("KVM_SET_IDENTITY_MAP_ADDR", ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity));
	TIMED("KVM_SET_TSS_ADDR", ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000));
	TIMED("KVM_CREATE_IRQCHIP", ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	TIMED("KVM_CREATE_PIT2", ioctl(vm, KVM_CREATE_PIT2, &pit));
	vcpu = TIMED("KVM_CREATE_VCPU", ioctl(vm, KVM_CREATE_VCPU, 0));
	run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		die("the vCPU's run area");
	set_up_vcpu(kvm, vcpu);
	connect_devices(vm);
	set_registers(vcpu, entry);
	status = run_guest(vcpu, run);
	TIMED("close the VM", munmap(run, (size_t)run_bytes) | close(vcpu) | close(vm));
	if (print) {
		for (unsigned int i = 0; i < time_count; i++)
			fprintf(stderr, "%llu %llu %s\n", (unsigned long long)times[i].start_ns,
				(unsigned long long)times[i].ns, times[i].name);
	}
	return status;
}

/* The KVM virtual machine: see include/mayfly/vm.h. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "mayfly/layout.h"
#include "mayfly/vm.h"

#define KVM_PATH "/dev/kvm"

/* What a guest cannot run without; the text is for people. */
static const struct {
	int capability;
	const char *name;
} needed[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP (in-kernel interrupt controllers)" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY (memory slots)" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
	{ KVM_CAP_PIT2, "KVM_CAP_PIT2 (in-kernel timer)" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
};

static int open_kvm(struct error *err)
{
	int fd = open(KVM_PATH, O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	switch (errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return error_errno(
			err,
			"%s cannot be opened: this host offers no KVM; load the module (modprobe kvm_intel or "
			"kvm_amd), and turn on virtualization in the firmware, or nested virtualization where the "
			"host is itself a virtual machine",
			KVM_PATH);
	case EACCES:
	case EPERM:
		return error_errno(
			err,
			"%s cannot be opened: let this user use it (setfacl -m u:USER:rw %s; or, where it "
			"belongs to the group kvm, usermod -aG kvm USER and log in again)",
			KVM_PATH, KVM_PATH);
	default:
		return error_errno(err, "%s cannot be opened", KVM_PATH);
	}
}

static int check_kvm(int kvm_fd, struct error *err)
{
	int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);

	if (version < 0)
		return error_errno(err, "%s does not answer as KVM", KVM_PATH);
	if (version != KVM_API_VERSION)
		return error_set(err, ENOTSUP, "%s speaks version %d of the KVM API, not %d",
				 KVM_PATH, version, KVM_API_VERSION);
	for (unsigned int i = 0; i < ARRAY_SIZE(needed); i++) {
		if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, needed[i].capability) <= 0)
			return error_set(err, ENOTSUP, "the host's KVM lacks %s", needed[i].name);
	}
	return 0;
}

int vm_open(struct vm *vm, struct log *log, struct error *err)
{
	cleanup_fd int kvm_fd = open_kvm(err);
	cleanup_fd int fd = -1;
	int run_bytes, result;

	*vm = (struct vm) { .kvm_fd = -1, .fd = -1, .log = log };
	if (kvm_fd < 0)
		return kvm_fd;
	result = check_kvm(kvm_fd, err);
	if (result < 0)
		return result;
	do {
		fd = ioctl(kvm_fd, KVM_CREATE_VM, 0UL);
	} while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return error_errno(err, "KVM cannot create a virtual machine");
	run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (run_bytes <= 0)
		return error_errno(err, "KVM does not say the size of a vCPU's run area");
	vm->run_bytes = (size_t)run_bytes;
	vm->kvm_fd = take_fd(&kvm_fd);
	vm->fd = take_fd(&fd);
	return 0;
}

void vm_close(struct vm *vm)
{
	close_fd(&vm->fd);
	close_fd(&vm->kvm_fd);
}

int vm_set_memory(struct vm *vm, const struct memory *memory, bool track_dirty_pages,
		  struct error *err)
{
	for (unsigned int i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.flags = track_dirty_pages ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			.guest_phys_addr = region->gpa,
			.memory_size = region->size_bytes,
			.userspace_addr = (uintptr_t)region->hva,
		};

		if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return error_errno(err, "KVM refuses %llu MiB of guest memory at 0x%llx",
					   (unsigned long long)(region->size_bytes / MIB),
					   (unsigned long long)region->gpa);
	}
	return 0;
}

int vm_create_irqchip(struct vm *vm, struct error *err)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	uint64_t identity_map = LAYOUT_KVM_IDENTITY_MAP;

	/* Both only matter to VMX without unrestricted guest; elsewhere KVM takes note and does
	 * nothing. */
	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
		log_debug(vm->log, "KVM takes no identity map address: error %d", errno);
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, LAYOUT_KVM_TSS) < 0)
		log_debug(vm->log, "KVM takes no TSS address: error %d", errno);
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return error_errno(err, "KVM cannot create the interrupt controllers");
	/*
	 * KVM makes up for the ticks of the PIT that a guest has missed. Kernels of today do not
	 * count them and stop the PIT early in their boot, but KVM_REINJECT_CONTROL, which would
	 * turn that off, waits for two grace periods: 15 to 23 ms measured, more than all else of a
	 * start.
	 */
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
		return error_errno(err, "KVM cannot create the timer");
	return 0;
}

unsigned int vm_max_vcpus(const struct vm *vm)
{
	int most = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);

	/* api.rst, 4.4: 4 where the kernel does not say. */
	return most > 0 ? (unsigned int)most : 4;
}

int vm_add_ioeventfd(struct vm *vm, uint64_t gpa, uint32_t value, int fd, struct error *err)
{
	struct kvm_ioeventfd ioeventfd = {
		.datamatch = value,
		.addr = gpa,
		.len = sizeof(value),
		.fd = fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
	};

	if (ioctl(vm->fd, KVM_IOEVENTFD, &ioeventfd) < 0)
		return error_errno(err, "KVM cannot watch guest writes to 0x%llx",
				   (unsigned long long)gpa);
	return 0;
}

int vm_add_irqfd(struct vm *vm, uint32_t gsi, int fd, struct error *err)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = gsi };

	if (ioctl(vm->fd, KVM_IRQFD, &irqfd) < 0)
		return error_errno(err, "KVM cannot connect interrupt %u", gsi);
	return 0;
}

int vm_raise_edge(const struct vm *vm, uint32_t gsi, struct error *err)
{
	for (unsigned int high = 2; high-- > 0;) {
		struct kvm_irq_level line = { .irq = gsi, .level = high };

		if (ioctl(vm->fd, KVM_IRQ_LINE, &line) < 0)
			return error_errno(err, "KVM cannot raise interrupt %u", gsi);
	}
	return 0;
}

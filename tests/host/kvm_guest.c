/*
 * The smallest proof that KVM runs guests here: a guest of nine bytes in real mode writes two
 * characters to a port and halts. Prints what it wrote; exits 0 when that is "ok".
 *
 * Linux Documentation/virt/kvm/api.rst.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define GUEST_START 0x1000u
#define GUEST_BYTES 0x1000u
#define PORT	    0x10u

static const uint8_t guest[] = {
	0xb0, 'o',  /* mov $'o', %al */
	0xe6, PORT, /* out %al, $PORT */
	0xb0, 'k',  /* mov $'k', %al */
	0xe6, PORT, /* out %al, $PORT */
	0xf4,	    /* hlt */
};

int main(void)
{
	char written[8] = "";
	size_t count = 0;

	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		err(1, "/dev/kvm");
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	void *memory =
		mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "guest memory");
	memcpy(memory, guest, sizeof(guest));
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = GUEST_START,
		.memory_size = GUEST_BYTES,
		.userspace_addr = (uintptr_t)memory,
	};
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		err(1, "KVM_SET_USER_MEMORY_REGION");
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	int run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || run_bytes < 0)
		err(1, "KVM_CREATE_VCPU");
	struct kvm_run *run =
		mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(1, "kvm_run");

	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = GUEST_START, .rflags = 2 };
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		err(1, "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
		err(1, "KVM_SET_REGS");

	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0) < 0)
			err(1, "KVM_RUN");
		if (run->exit_reason == KVM_EXIT_HLT)
			break;
		if (run->exit_reason != KVM_EXIT_IO || run->io.port != PORT ||
		    count + 1 >= sizeof(written))
			errx(1, "unexpected exit %u", run->exit_reason);
		written[count++] = *((const char *)run + run->io.data_offset);
	}
	puts(written);
	return strcmp(written, "ok") == 0 ? 0 : 1;
}

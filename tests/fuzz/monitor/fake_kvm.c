/* /dev/kvm for a fuzzer: see fake.h. Linux Documentation/virt/kvm/api.rst says what is played. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fake.h"
#include "src/vcpu_private.h"

#define VCPUS	       32
#define QUEUE	       512
#define RUN_BYTES      (3 * 4096)
#define PIO_OFFSET     4096 /* KVM_PIO_PAGE_OFFSET: the page behind the first */
#define SLOTS	       8
#define EVENTFDS       256
#define FDS	       1024
#define MISSED_KICK_MS 20
/* For a monitor that never comes back to KVM_RUN. */
#define SETTLE_SECONDS 20

struct fake_vcpu {
	int fd; /* of the memory behind the run area; kept from one execution to the next */
	struct kvm_run *run;
	bool exists, running, waiting, ended, reading;
	struct fake_exit served;
	struct fake_exit queue[QUEUE];
	unsigned int head, tail;
	uint64_t last_read;
	int posted_fd; /* an event for each exit that was posted */
};

struct fake_slot {
	uint64_t gpa, size;
	uint8_t *hva;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t settled;
	struct fake_vcpu vcpus[VCPUS];
	struct fake_slot slots[SLOTS];
	struct kvm_ioeventfd eventfds[EVENTFDS];
	unsigned int eventfd_count;
	struct fake_vcpu *owners[FDS]; /* by descriptor */
	unsigned int calls, fail_at;
	int fail_errno;
} kvm = { .lock = PTHREAD_MUTEX_INITIALIZER, .settled = PTHREAD_COND_INITIALIZER };

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			  void *(*start)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			  void *(*start)(void *), void *argument);

/* A virtual machine with nothing in it: there is one at a time. */
static int create_vm(void)
{
	for (unsigned int i = 0; i < VCPUS; i++) {
		struct fake_vcpu *vcpu = &kvm.vcpus[i];

		if (!vcpu->exists)
			continue;
		memset(vcpu->run, 0, RUN_BYTES);
		vcpu->exists = vcpu->running = vcpu->waiting = vcpu->ended = vcpu->reading = false;
		vcpu->head = vcpu->tail = 0;
	}
	memset(kvm.slots, 0, sizeof(kvm.slots));
	memset(kvm.owners, 0, sizeof(kvm.owners));
	kvm.eventfd_count = 0;
	return eventfd(0, EFD_CLOEXEC);
}

void fake_kvm_begin(unsigned int fail_at, int fail_errno)
{
	close(create_vm());
	kvm.calls = 0;
	kvm.fail_at = fail_at;
	kvm.fail_errno = fail_errno;
}

int fake_kvm_open(void)
{
	return eventfd(0, EFD_CLOEXEC);
}

/* Kept from one execution to the next: not among the descriptors that are counted. */
static int out_of_the_way(int fd)
{
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, FAKE_FDS_FROM);

	FUZZ_CHECK(moved >= 0);
	close(fd);
	return moved;
}

static int create_vcpu(unsigned long index)
{
	struct fake_vcpu *vcpu;
	int fd;

	FUZZ_CHECK(index < VCPUS && !kvm.vcpus[index].exists);
	vcpu = &kvm.vcpus[index];
	if (!vcpu->run) {
		vcpu->fd = out_of_the_way(memfd_create("vcpu", MFD_CLOEXEC));
		FUZZ_CHECK(ftruncate(vcpu->fd, RUN_BYTES) == 0);
		vcpu->run = mmap(NULL, RUN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
		FUZZ_CHECK(vcpu->run != MAP_FAILED);
		vcpu->posted_fd = out_of_the_way(eventfd(0, EFD_CLOEXEC));
	}
	fd = fcntl(vcpu->fd, F_DUPFD_CLOEXEC, 0);
	FUZZ_CHECK(fd >= 0 && fd < FDS);
	kvm.owners[fd] = vcpu;
	vcpu->exists = true;
	return fd;
}

static int set_memory(const struct kvm_userspace_memory_region *region)
{
	FUZZ_CHECK(region->slot < SLOTS && region->memory_size % 4096 == 0);
	kvm.slots[region->slot] = (struct fake_slot) {
		.gpa = region->guest_phys_addr,
		.size = region->memory_size,
		.hva = (uint8_t *)(uintptr_t)region->userspace_addr, /* NOLINT */
	};
	return 0;
}

void *fake_kvm_memory(uint64_t gpa, uint64_t length)
{
	for (unsigned int i = 0; i < SLOTS; i++) {
		const struct fake_slot *slot = &kvm.slots[i];

		if (gpa >= slot->gpa && length <= slot->size &&
		    gpa - slot->gpa <= slot->size - length)
			return slot->hva + (gpa - slot->gpa);
	}
	return NULL;
}

static int watch(const struct kvm_ioeventfd *eventfd)
{
	FUZZ_CHECK(eventfd->len == 4 && (eventfd->flags & KVM_IOEVENTFD_FLAG_DATAMATCH));
	if (kvm.eventfd_count == EVENTFDS) {
		errno = ENOSPC;
		return -1;
	}
	kvm.eventfds[kvm.eventfd_count++] = *eventfd;
	return 0;
}

/* virt/kvm/eventfd.c, ioeventfd_in_range(): address, width and value must agree. */
static bool signal_eventfd(const struct fake_exit *exit)
{
	if (exit->kind != FAKE_MMIO || !exit->write || exit->size != 4)
		return false;
	for (unsigned int i = 0; i < kvm.eventfd_count; i++) {
		const struct kvm_ioeventfd *one = &kvm.eventfds[i];

		if (one->addr == exit->address && one->datamatch == (uint32_t)exit->value)
			return eventfd_write(one->fd, 1) == 0;
	}
	return false;
}

static int get_cpuid(struct kvm_cpuid2 *table)
{
	static const uint32_t leaves[] = { 0,	 1,	     4,		 7,	     0xb,
					   0x1f, 0x40000000, 0x80000000, 0x80000001, 0x80000008 };

	if (table->nent < sizeof(leaves) / sizeof(*leaves)) {
		errno = E2BIG;
		return -1;
	}
	table->nent = sizeof(leaves) / sizeof(*leaves);
	for (uint32_t i = 0; i < table->nent; i++)
		table->entries[i] = (struct kvm_cpuid_entry2) {
			.function = leaves[i], .eax = 0x20, .ebx = ~0U, .ecx = ~0U, .edx = ~0U
		};
	return 0;
}

static void put_exit(struct fake_vcpu *vcpu, const struct fake_exit *exit)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + PIO_OFFSET;

	vcpu->served = *exit;
	vcpu->reading = !exit->write && exit->kind != FAKE_OTHER;
	switch (exit->kind) {
	case FAKE_PIO:
		run->exit_reason = KVM_EXIT_IO;
		run->io.direction = exit->write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
		run->io.size = exit->size;
		run->io.port = (uint16_t)exit->address;
		run->io.count = exit->count;
		run->io.data_offset = PIO_OFFSET;
		for (uint32_t i = 0; i < exit->count; i++)
			memcpy(data + i * exit->size, &exit->value, exit->size);
		break;
	case FAKE_MMIO:
		run->exit_reason = KVM_EXIT_MMIO;
		run->mmio.phys_addr = exit->address;
		run->mmio.len = exit->size;
		run->mmio.is_write = exit->write;
		memcpy(run->mmio.data, &exit->value, sizeof(run->mmio.data));
		break;
	case FAKE_OTHER:
	case FAKE_ERROR:
		run->exit_reason = (uint32_t)exit->address;
		for (unsigned int i = 0; i < 8; i++)
			memcpy((uint8_t *)&run->hw + 8 * (size_t)i, &exit->value, 8);
		break;
	}
}

static void take_result(struct fake_vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;

	if (!vcpu->reading)
		return;
	vcpu->reading = false;
	vcpu->last_read = 0;
	memcpy(&vcpu->last_read,
	       vcpu->served.kind == FAKE_PIO ? (const uint8_t *)run + PIO_OFFSET : run->mmio.data,
	       vcpu->served.size);
}

/*
 * A kick's signal interrupts this as it does the guest. One that comes just before is not lost to
 * KVM, which looks at immediate_exit with signals off; here the time-out finds it.
 */
static void wait_for_post(struct fake_vcpu *vcpu)
{
	struct pollfd posted = { .fd = vcpu->posted_fd, .events = POLLIN };
	eventfd_t count;

	if (poll(&posted, 1, MISSED_KICK_MS) > 0)
		FUZZ_CHECK(eventfd_read(vcpu->posted_fd, &count) == 0);
}

static int run_vcpu(struct fake_vcpu *vcpu)
{
	volatile uint8_t *immediate_exit = &vcpu->run->immediate_exit;
	int code = 0;

	pthread_mutex_lock(&kvm.lock);
	vcpu->running = true;
	take_result(vcpu);
	for (;;) {
		if (*immediate_exit) {
			code = EINTR;
			break;
		}
		if (vcpu->head != vcpu->tail) {
			const struct fake_exit *exit = &vcpu->queue[vcpu->head++ % QUEUE];

			if (signal_eventfd(exit))
				continue;
			if (exit->kind == FAKE_ERROR)
				code = (int)exit->address;
			else
				put_exit(vcpu, exit);
			break;
		}
		vcpu->waiting = true;
		pthread_cond_broadcast(&kvm.settled);
		pthread_mutex_unlock(&kvm.lock);
		wait_for_post(vcpu);
		pthread_mutex_lock(&kvm.lock);
		vcpu->waiting = false;
	}
	pthread_mutex_unlock(&kvm.lock);
	errno = code;
	return code ? -1 : 0;
}

/* What vCPUs have written: enough of it to be copied, in the places of the guest's rings. */
static int get_dirty_log(const struct kvm_dirty_log *log)
{
	uint64_t *bitmap = log->dirty_bitmap, words;

	FUZZ_CHECK(log->slot < SLOTS);
	words = kvm.slots[log->slot].size / 4096 / 64;
	for (uint64_t i = 0; i < words && i < 32; i++)
		bitmap[i] = i % 4 == 0 ? 0x8001 : 0;
	return 0;
}

static int kvm_ioctl(int fd, unsigned long request, void *argument)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CHECK_EXTENSION:
		return (uintptr_t)argument == KVM_CAP_MAX_VCPUS ? VCPUS
		       : (uintptr_t)argument == KVM_CAP_XSAVE2	? (int)sizeof(struct kvm_xsave)
								: 1;
	case KVM_CREATE_VM:
		return create_vm();
	case KVM_GET_VCPU_MMAP_SIZE:
		return RUN_BYTES;
	case KVM_GET_SUPPORTED_CPUID:
		return get_cpuid(argument);
	case KVM_GET_MSRS:
	case KVM_SET_MSRS: /* all of them */
		return (int)((struct kvm_msrs *)argument)->nmsrs;
	case KVM_CREATE_VCPU:
		return create_vcpu((uintptr_t)argument);
	case KVM_SET_USER_MEMORY_REGION:
		return set_memory(argument);
	case KVM_GET_DIRTY_LOG:
		return get_dirty_log(argument);
	case KVM_IOEVENTFD:
		return watch(argument);
	case KVM_IRQFD:
		return fcntl((int)((struct kvm_irqfd *)argument)->fd, F_GETFD) < 0 ? -1 : 0;
	default:
		/* State that is read is all zero, what is written is taken. */
		if (_IOC_DIR(request) == _IOC_READ)
			memset(argument, 0, _IOC_SIZE(request));
		return 0;
	}
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	bool is_tap = false;
	void *argument;
	va_list list;
	int result;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (request == KVM_RUN) {
		FUZZ_CHECK(fd >= 0 && fd < FDS && kvm.owners[fd]);
		return run_vcpu(kvm.owners[fd]);
	}
	if (_IOC_TYPE(request) == KVMIO) {
		if (kvm.fail_at && ++kvm.calls == kvm.fail_at) {
			errno = kvm.fail_errno;
			return -1;
		}
		return kvm_ioctl(fd, request, argument);
	}
	result = fake_tap_ioctl(fd, request, argument, &is_tap);
	return is_tap ? result : __real_ioctl(fd, request, argument);
}

struct thread_start {
	void *(*start)(void *);
	void *argument;
	struct fake_vcpu *vcpu;
};

/* A thread may end before its first KVM_RUN, when another one has ended the machine. */
static void *run_thread(void *argument)
{
	struct thread_start call = *(struct thread_start *)argument;
	void *result;

	free(argument);
	result = call.start(call.argument);
	pthread_mutex_lock(&kvm.lock);
	call.vcpu->ended = true;
	pthread_cond_broadcast(&kvm.settled);
	pthread_mutex_unlock(&kvm.lock);
	return result;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			  void *(*start)(void *), void *argument)
{
	struct thread_start *call;
	int result;

	if (!kvm.vcpus[0].exists) /* libFuzzer's own; the monitor has threads for its vCPUs only */
		return __real_pthread_create(thread, attributes, start, argument);
	call = malloc(sizeof(*call));
	if (!call)
		return EAGAIN;
	*call = (struct thread_start) { start, argument,
					kvm.owners[((struct vcpu *)argument)->fd] };
	result = __real_pthread_create(thread, attributes, run_thread, call);
	if (result != 0)
		free(call);
	return result;
}

void fake_kvm_post(unsigned int index, const struct fake_exit *exit)
{
	struct fake_vcpu *vcpu = &kvm.vcpus[index % VCPUS];

	pthread_mutex_lock(&kvm.lock);
	if (vcpu->exists && !vcpu->ended && vcpu->tail - vcpu->head < QUEUE) {
		vcpu->queue[vcpu->tail++ % QUEUE] = *exit;
		FUZZ_CHECK(eventfd_write(vcpu->posted_fd, 1) == 0);
	}
	pthread_mutex_unlock(&kvm.lock);
}

static bool is_settled(const struct fake_vcpu *vcpu)
{
	return !vcpu->exists || vcpu->ended || (vcpu->waiting && vcpu->head == vcpu->tail);
}

void fake_kvm_settle(void)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += SETTLE_SECONDS;
	pthread_mutex_lock(&kvm.lock);
	for (unsigned int i = 0; i < VCPUS; i++) {
		while (!is_settled(&kvm.vcpus[i]))
			FUZZ_CHECK(pthread_cond_timedwait(&kvm.settled, &kvm.lock, &end) == 0);
	}
	pthread_mutex_unlock(&kvm.lock);
}

uint64_t fake_kvm_last_read(unsigned int index)
{
	return kvm.vcpus[index % VCPUS].last_read;
}

/*
 * vCPU threads: see include/mayfly/vcpu.h.
 *
 * Pausing. The main thread sets immediate_exit in each vCPU's run area and sends its thread a
 * signal, so that KVM_RUN returns with EINTR whether the thread was in the guest, about to enter
 * it, or still serving an exit; KVM first completes the access of that exit. Only there does a
 * thread look at what is wanted of it: the way of an ordinary exit costs nothing for being
 * pausable.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "mayfly/filters.h"
#include "startup_trace.h"
#include "vcpu_private.h"

#define KICK_SIGNAL (SIGRTMIN)
/* A thread formats log lines at the deepest; 8 MiB of address space each would only look like a
 * large program. */
#define STACK_BYTES (128 * KIB)

static void ignore_kick(int signal)
{
	(void)signal;
}

static void end_group(struct vcpus *vcpus, enum vcpus_exit reason)
{
	int running = VCPUS_RUNNING;
	uint64_t one = 1;

	if (!atomic_compare_exchange_strong(&vcpus->exit_reason, &running, (int)reason))
		return;
	if (write(vcpus->exit_fd, &one, sizeof(one)) < 0)
		log_error(vcpus->log, "the end of the machine cannot be signalled: error %d",
			  errno);
	/* A main thread that waits for all to park need not wait for a thread that has ended. */
	pthread_mutex_lock(&vcpus->lock);
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
}

void vcpus_request_reset(struct vcpus *vcpus)
{
	end_group(vcpus, VCPUS_RESET);
}

enum vcpus_exit vcpus_exit_reason(const struct vcpus *vcpus)
{
	return (enum vcpus_exit)atomic_load(&vcpus->exit_reason);
}

int vcpus_exit_fd(const struct vcpus *vcpus)
{
	return vcpus->exit_fd;
}

static void serve_pio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_IN)
			bus_read(vcpu->group->pio, run->io.port, data, run->io.size);
		else
			bus_write(vcpu->group->pio, run->io.port, data, run->io.size);
	}
}

static void serve_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->mmio.len > sizeof(run->mmio.data))
		return;
	if (run->mmio.is_write)
		bus_write(vcpu->group->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_read(vcpu->group->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

static void fail(struct vcpu *vcpu, enum vcpus_exit reason)
{
	vcpu_log_registers(vcpu);
	end_group(vcpu->group, reason);
}

static void serve_exit(struct vcpu *vcpu)
{
	struct vcpus *group = vcpu->group;
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		serve_pio(vcpu);
		break;
	case KVM_EXIT_MMIO:
		serve_mmio(vcpu);
		break;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SHUTDOWN:
		log_error(group->log, "vCPU %u: triple fault, the guest cannot go on", vcpu->index);
		fail(vcpu, VCPUS_SHUTDOWN);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		log_info(group->log, "vCPU %u: system event %u ends the machine", vcpu->index,
			 run->system_event.type);
		end_group(group, VCPUS_RESET);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		log_error(
			group->log, "vCPU %u: KVM internal error, suberror %u%s", vcpu->index,
			run->internal.suberror,
			run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
				? ": it cannot emulate an instruction of the guest (at rip, below). Is "
				  "this kernel made for this kind of KVM?"
				: "");
		for (uint32_t i = 0; i < run->internal.ndata && i < ARRAY_SIZE(run->internal.data);
		     i++)
			log_error(group->log, "vCPU %u: internal error data %u: 0x%llx",
				  vcpu->index, i, run->internal.data[i]);
		fail(vcpu, VCPUS_FAILED);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		log_error(
			group->log,
			"vCPU %u: the processor refuses to enter the guest, hardware reason 0x%llx",
			vcpu->index, run->fail_entry.hardware_entry_failure_reason);
		fail(vcpu, VCPUS_FAILED);
		break;
	default:
		log_error(group->log, "vCPU %u: KVM returned with the unexpected exit reason %u",
			  vcpu->index, run->exit_reason);
		fail(vcpu, VCPUS_FAILED);
	}
}

/* Stands still while the group is paused. Returns false when the thread must end. */
static bool wait_to_run(struct vcpu *vcpu)
{
	struct vcpus *group = vcpu->group;
	bool ending;

	pthread_mutex_lock(&group->lock);
	if (group->paused && !group->ending) {
		group->parked++;
		pthread_cond_broadcast(&group->changed);
		while (group->paused && !group->ending)
			pthread_cond_wait(&group->changed, &group->lock);
		group->parked--;
		pthread_cond_broadcast(&group->changed);
	}
	ending = group->ending;
	/* Under the lock: whoever asks for the next pause sets it again afterwards. */
	vcpu->run->immediate_exit = 0;
	pthread_mutex_unlock(&group->lock);
	return !ending;
}

static bool group_ended(struct vcpus *group)
{
	return atomic_load_explicit(&group->exit_reason, memory_order_relaxed) != VCPUS_RUNNING;
}

static void *vcpu_thread(void *argument)
{
	struct vcpu *vcpu = argument;
	struct vcpus *group = vcpu->group;
	struct error err = { 0 };
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	log_name_thread(name);
	atomic_store(&vcpu->thread_id, gettid());
	/* Without it an overflow of this small stack ends the process unreported, the terminal raw.
	 */
	if (signals_enter_thread(&vcpu->signal_stack, &err) < 0)
		log_warn(group->log, "vCPU %u: %s", vcpu->index, err.message);
	if (filters_enter(group->filters, FILTERS_VCPU, &err) < 0) {
		log_error(group->log, "vCPU %u: %s", vcpu->index, err.message);
		end_group(group, VCPUS_FAILED);
		return NULL;
	}
	if (!wait_to_run(vcpu))
		return NULL;
	if (vcpu->index == 0 && group->start_time_us)
		log_info(
			group->log,
			"the guest's first instruction comes %llu us after the start was asked for",
			(unsigned long long)(clock_ns(CLOCK_MONOTONIC) / 1000 -
					     group->start_time_us));
	startup_mark(vcpu->trace, STARTUP_RUN);
	while (!group_ended(group)) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
			startup_mark(vcpu->trace, STARTUP_EXIT);
			serve_exit(vcpu);
			continue;
		}
		if (errno == EINTR) {
			if (vcpu->run->immediate_exit && !wait_to_run(vcpu))
				break;
			continue;
		}
		if (errno == EAGAIN)
			continue;
		if (errno == EFAULT)
			log_error(
				group->log,
				"vCPU %u: guest memory cannot be reached; was the kernel, initrd or memory "
				"file cut, or is the host out of memory?",
				vcpu->index);
		else
			log_error(group->log, "vCPU %u: KVM_RUN failed: error %d", vcpu->index,
				  errno);
		fail(vcpu, VCPUS_FAILED);
	}
	return NULL;
}

int vcpus_create(struct vcpus **out, const struct vcpus_config *config, struct error *err)
{
	struct cpuid_topology topology = { .vcpu_count = config->count, .smt = config->smt };
	cleanup_free struct cpuid_table *cpuid = malloc(sizeof(*cpuid));
	struct vcpus *group = calloc(1, sizeof(*group));
	int result;

	if (!group || !cpuid) {
		free(group);
		return error_set(err, ENOMEM, "no memory for %u vCPUs", config->count);
	}
	group->count = config->count;
	group->pio = config->pio;
	group->mmio = config->mmio;
	group->vm = config->vm;
	group->log = config->log;
	group->start_time_us = config->start_time_us;
	group->filters = config->filters;
	group->process_id = getpid();
	pthread_mutex_init(&group->lock, NULL);
	pthread_cond_init(&group->changed, NULL);
	for (unsigned int i = 0; i < LAYOUT_MAX_VCPUS; i++)
		group->vcpus[i] = (struct vcpu) { .index = i, .fd = -1, .group = group };
	group->vcpus[0].trace = config->startup_trace;
	group->exit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (group->exit_fd < 0) {
		result = error_errno(err, "cannot make the vCPUs' eventfd");
		goto failed;
	}
	result = cpuid_get_supported(config->vm->kvm_fd, cpuid, err);
	if (result < 0)
		goto failed;
	topology.tsc_deadline_timer =
		ioctl(config->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	cpuid_set_machine(cpuid, &topology);
	for (unsigned int i = 0; result == 0 && i < group->count; i++)
		result = vcpu_setup(&group->vcpus[i], cpuid, err);
	if (result < 0)
		goto failed;
	*out = group;
	return 0;
failed:
	vcpus_destroy(group);
	return result;
}

int vcpus_set_entry(struct vcpus *vcpus, const struct boot_entry *entry, struct error *err)
{
	return vcpu_setup_entry(&vcpus->vcpus[0], entry, err);
}

static int start_thread(struct vcpu *vcpu, const pthread_attr_t *attributes, struct error *err)
{
	int code = pthread_create(&vcpu->thread, attributes, vcpu_thread, vcpu);

	if (code != 0) {
		errno = code;
		return error_errno(err, "cannot start the thread of vCPU %u", vcpu->index);
	}
	vcpu->thread_started = true;
	return 0;
}

int vcpus_start(struct vcpus *vcpus, struct error *err)
{
	/* Without SA_RESTART: the signal is there to interrupt. */
	struct sigaction action = { .sa_handler = ignore_kick };
	sigset_t blocked, before;
	pthread_attr_t attributes;
	int result = 0;

	vcpus->paused = true;
	sigaction(KICK_SIGNAL, &action, NULL);
	/* All signals but the kick, and faults, are for the main thread. */
	signals_all_but_faults(&blocked);
	sigdelset(&blocked, KICK_SIGNAL);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	for (unsigned int i = 0; i < vcpus->count && result == 0; i++)
		result = start_thread(&vcpus->vcpus[i], &attributes, err);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return result;
}

/* Makes every thread leave the guest and look at what is wanted. Under the lock. */
static void kick_all(struct vcpus *vcpus)
{
	for (unsigned int i = 0; i < vcpus->count; i++) {
		struct vcpu *vcpu = &vcpus->vcpus[i];
		pid_t thread_id = atomic_load(&vcpu->thread_id);

		/* One that has not begun looks at what is wanted before it enters the guest. */
		if (!thread_id)
			continue;
		vcpu->run->immediate_exit = 1;
		/* The flag before the signal: a thread that takes the signal outside KVM_RUN must
		 * find it set. */
		atomic_thread_fence(memory_order_seq_cst);
		syscall(SYS_tgkill, vcpus->process_id, thread_id, KICK_SIGNAL);
	}
}

void vcpus_pause(struct vcpus *vcpus)
{
	pthread_mutex_lock(&vcpus->lock);
	if (!vcpus->paused) {
		vcpus->paused = true;
		kick_all(vcpus);
	}
	/* A group that has ended has threads which park no more. */
	while (vcpus->parked < vcpus->count && !group_ended(vcpus))
		pthread_cond_wait(&vcpus->changed, &vcpus->lock);
	pthread_mutex_unlock(&vcpus->lock);
	/*
	 * Tells a guest with kvm-clock that it was stopped, so that its watchdogs do not take the
	 * pause for a lockup. EINVAL: this guest does not use the clock.
	 */
	for (unsigned int i = 0; i < vcpus->count; i++)
		(void)ioctl(vcpus->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
}

void vcpus_resume(struct vcpus *vcpus)
{
	pthread_mutex_lock(&vcpus->lock);
	vcpus->paused = false;
	pthread_cond_broadcast(&vcpus->changed);
	/* The next pause counts who parks: nobody may still be on the way out of this one. */
	while (vcpus->parked > 0)
		pthread_cond_wait(&vcpus->changed, &vcpus->lock);
	pthread_mutex_unlock(&vcpus->lock);
}

static void stop_threads(struct vcpus *vcpus)
{
	pthread_mutex_lock(&vcpus->lock);
	vcpus->ending = true;
	kick_all(vcpus);
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
	for (unsigned int i = 0; i < vcpus->count; i++) {
		if (!vcpus->vcpus[i].thread_started)
			continue;
		pthread_join(vcpus->vcpus[i].thread, NULL);
		signals_free_stack(&vcpus->vcpus[i].signal_stack);
	}
}

void vcpus_destroy(struct vcpus *vcpus)
{
	if (!vcpus)
		return;
	stop_threads(vcpus);
	for (unsigned int i = 0; i < vcpus->count; i++) {
		struct vcpu *vcpu = &vcpus->vcpus[i];

		if (vcpu->run)
			munmap(vcpu->run, vcpus->vm->run_bytes);
		close_fd(&vcpu->fd);
	}
	close_fd(&vcpus->exit_fd);
	pthread_cond_destroy(&vcpus->changed);
	pthread_mutex_destroy(&vcpus->lock);
	free(vcpus->msr_indices);
	free(vcpus);
}

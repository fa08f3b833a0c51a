/*
 * Forking a machine: see machine.h. What the guest waits for is between machine_pause() and
 * machine_resume(): its state is saved in this process's memory, and its own memory is frozen or
 * copied (mayfly/memory.h). All else comes before or after.
 */
#include <string.h>
#include <sys/mman.h>

#include "machine_private.h"

int machine_share_memory(struct machine *machine, struct error *err)
{
	int result;

	if (!machine->request.options->forker || machine->shape.huge_pages == HUGE_PAGES_2M)
		return 0;
	result = memory_share(&machine->memory, err);
	return result < 0 ? result : memory_enable_fork(&machine->memory, err);
}

int machine_prepare_fork(struct machine *machine, struct error *err)
{
	if (machine->memory.own_fd < 0)
		return 0;
	machine->state_fd = memfd_create("mayfly-state", MFD_CLOEXEC);
	if (machine->state_fd < 0)
		return error_errno(err, "cannot make a file for the state of forks");
	return vcpus_prepare_save(machine->vcpus, err);
}

int machine_check_fork(const struct machine *machine, struct error *err)
{
	if (!machine->request.options->forker)
		return error_set(
			err, EPERM,
			"This microVM cannot be forked: start its monitor with --enable-fork.");
	if (machine->uffd)
		return error_set(
			err, ENOTSUP,
			"This microVM cannot be forked: its memory is brought by a handler (mem_backend of type Uffd).");
	if (machine->memory.own_fd < 0)
		return error_set(
			err, ENOTSUP,
			"This microVM cannot be forked: huge_pages is 2M, or a snapshot was read into huge pages.");
	return 0;
}

static int write_state(int fd, const struct state_writer *writer, struct error *err)
{
	/* What an earlier fork had more goes first. */
	if (ftruncate(fd, 0) < 0 || !write_all_at(fd, writer->bytes, writer->used_bytes, 0))
		return error_errno(err, "the state cannot be handed over");
	return 0;
}

bool machine_go_on_forking(struct machine *machine)
{
	return memory_go_on_freezing(&machine->memory);
}

int machine_fork(struct machine *machine, const struct vm_config *config, bool running,
		 struct machine_fork *fork, struct error *err)
{
	struct memory_file_id id = { { 0 } };
	struct state_writer writer;
	uint64_t start_ns, ahead_bytes = 0;
	int result;

	state_writer_init(&writer);
	/* Most of what there is to note and to copy is, before anybody waits for it. */
	result = vm_collect_dirty(&machine->vm, &machine->memory, err);
	if (result == 0 && running)
		result = memory_copy_ahead(&machine->memory, &ahead_bytes, err);
	if (result < 0)
		return result;
	start_ns = clock_ns(CLOCK_MONOTONIC);
	if (running)
		machine_pause(machine);
	result = machine_put_state(machine, config, &id, &writer, err);
	if (result == 0)
		result = vm_collect_dirty(&machine->vm, &machine->memory, err);
	if (result == 0)
		result = memory_fork(&machine->memory, &fork->copied_bytes, err);
	fork->copied_bytes += ahead_bytes;
	if (running)
		machine_resume(machine);
	fork->pause_ns = running ? clock_ns(CLOCK_MONOTONIC) - start_ns : 0;
	if (result == 0)
		result = write_state(machine->state_fd, &writer, err);
	state_writer_destroy(&writer);
	fork->state_fd = machine->state_fd;
	fork->base_fd = machine->memory.base_fd;
	fork->own_fd = machine->memory.own_fd;
	return result;
}

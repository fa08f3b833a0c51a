/*
 * Where the memory of a restored machine comes from, beside a mapping of the memory file: a process
 * that brings it (mayfly/uffd.h); and which pages it touches first, to be brought in bulk the next
 * time (mayfly/working_set.h).
 */
#include <string.h>

#include "machine_private.h"
#include "mayfly/signals.h"
#include "mayfly/working_set.h"

/* How long what a guest touches counts as its working set. */
#define RECORD_NS 1000000000ULL

/*
 * The guest's threads, and perhaps the main thread, wait for pages that nobody brings: there is
 * nothing to flush or to stop that would not wait as well.
 */
static void on_handler_lost(void *context)
{
	(void)context;
	signals_end_process(VMM_EXIT_ERROR);
}

int machine_attach_handler(struct machine *machine, const char *path, struct error *err)
{
	const struct uffd_options options = { .path = path,
					      .memory = &machine->memory,
					      .log = machine->request.log,
					      .filters = machine->request.options->filters,
					      .on_lost = on_handler_lost };

	return uffd_create(&machine->uffd, &options, err) < 0 ? error_prefix(err, "mem_backend")
							      : 0;
}

static void record(struct machine *machine)
{
	struct log *log = machine->request.log;
	struct working_set set;
	struct error err = { 0 };
	int result = working_set_create(&set, machine->memory.size_bytes, &err);

	if (result == 0)
		result = working_set_collect(&set, &machine->memory, &err);
	if (result == 0)
		result = working_set_save(&set, machine->working_set_path, &err);
	/* The guest is as well without it. */
	if (result < 0)
		log_warn(log, "the working set is not recorded: %s", err.message);
	else
		log_info(log, "working set %s: recorded, %llu pages", machine->working_set_path,
			 (unsigned long long)working_set_count_pages(&set));
	working_set_destroy(&set);
}

static void on_recorded(struct loop_timer *timer)
{
	struct machine *machine = container_of(timer, struct machine, working_set_timer);

	record(machine);
	free(machine->working_set_path);
	machine->working_set_path = NULL;
}

int machine_use_working_set(struct machine *machine, const char *path, struct error *err)
{
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC), pages;
	struct working_set set;
	int result;

	if (!path)
		return 0;
	result = working_set_load(&set, machine->memory.size_bytes, path, err);
	if (result == -ENOENT) {
		machine->working_set_path = strdup(path);
		machine->working_set_timer.handler = on_recorded;
		return machine->working_set_path
			       ? 0
			       : error_set(err, ENOMEM, "no memory for working_set_path");
	}
	if (result < 0)
		return result;
	result = working_set_populate(&set, &machine->memory, &pages, err);
	working_set_destroy(&set);
	if (result < 0)
		return error_prefix(err, "working set %s", path);
	log_info(machine->request.log, "working set %s: %llu pages brought in %llu us", path,
		 (unsigned long long)pages,
		 (unsigned long long)((clock_ns(CLOCK_MONOTONIC) - start_ns) / 1000));
	return 0;
}

void machine_begin_working_set(struct machine *machine)
{
	struct loop *loop = machine->request.loop;

	if (machine->working_set_path && !machine->working_set_timer.armed)
		loop_timer_set(loop, &machine->working_set_timer, loop_now_ns(loop) + RECORD_NS);
}

void machine_release_memory(struct machine *machine)
{
	/* A guest that was over before its time was up has shown all that it touches. */
	if (machine->working_set_timer.armed) {
		loop_timer_cancel(machine->request.loop, &machine->working_set_timer);
		record(machine);
	}
	free(machine->working_set_path);
	uffd_destroy(machine->uffd);
	memory_destroy(&machine->memory);
}

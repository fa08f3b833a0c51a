/*
 * mayfly: the life of the process, from the command line to the exit code.
 *
 *   options -> log -> signals -> microVM (nothing of KVM yet) -> API socket -> configured start, or
 * a prepared machine -> loop -> end
 *
 * The API socket is there before a configured guest starts, so that a socket that cannot be had
 * stops everything before a guest has touched its disks.
 */
#include <fcntl.h>
#include <stdio.h>

#include "mayfly/api.h"
#include "mayfly/filters.h"
#include "mayfly/forker.h"
#include "mayfly/memory_file.h"
#include "mayfly/signals.h"
#include "mayfly/snapshot.h"
#include "mayfly/vmm.h"
#include "options.h"
#include "startup_trace.h"

struct process {
	struct log log;
	struct loop loop;
	struct signals signals;
	struct filters filters;
	struct vmm *vmm;
	struct api_server *api;
	struct startup_trace *trace; /* NULL: nobody wants it */
	struct forker forker;
	/* What the forker of another monitor made this process for. */
	struct forker_order order;
	struct snapshot_fork_config fork;
};

static int complain(const struct error *err, int exit_code)
{
	error_print("mayfly", err);
	return exit_code;
}

/* SIGTERM and the like: an orderly end, and the exit code that a shell gives to a program which
 * died of it. */
static void on_end_signal(int signal_number, void *context)
{
	struct process *process = context;

	log_info(&process->log, "ended by signal %d", signal_number);
	loop_stop(&process->loop, 128 + signal_number);
}

/* What `mayfly run` says. */
static int set_words(struct vmm *vmm, const struct vm_config *config, struct error *err)
{
	int result = vmm_set_boot_source(vmm, &config->boot_source, err);

	if (result == 0)
		result = vmm_set_machine(vmm, &config->machine, err);
	for (unsigned int i = 0; result == 0 && i < config->drive_count; i++)
		result = vmm_set_drive(vmm, &config->drives[i], err);
	for (unsigned int i = 0; result == 0 && i < config->interface_count; i++)
		result = vmm_set_network_interface(vmm, &config->interfaces[i], err);
	return result;
}

static int set_file(struct vmm *vmm, const char *path, struct error *err)
{
	struct vm_config config = { 0 };
	int result = config_load_vm(path, &vmm_config(vmm)->logger, &config, err);

	/* What is wrong with the file itself names it already. */
	if (result == 0 && vmm_set_all(vmm, &config, err) < 0)
		result = error_prefix(err, "configuration file %s", path);
	config_vm_clear(&config);
	return result;
}

/* What the microVM starts with, when the command line says it: from the config file, or from
 * `mayfly run`. */
static int configured_start(struct process *process, struct options *options, struct error *err)
{
	int result;

	if (process->order.given)
		return vmm_load_fork(process->vmm, &process->fork, &process->order, err);
	if (options->command == OPTIONS_RUN) {
		result = set_words(process->vmm, &options->config, err);
		return result < 0 ? result : vmm_start(process->vmm, err);
	}
	if (!options->config_file)
		return 0;
	result = set_file(process->vmm, options->config_file, err);
	if (result == 0 && vmm_start(process->vmm, err) < 0)
		result = error_prefix(err, "configuration file %s", options->config_file);
	return result;
}

static int choose_filters(struct process *process, const struct options *options, struct error *err)
{
	if (options->seccomp_filter)
		return filters_load(&process->filters, options->seccomp_filter, err);
	if (!options->no_seccomp && filters_are_default())
		filters_use_built_in(&process->filters);
	return 0;
}

static int set_up(struct process *process, struct options *options, struct error *err)
{
	struct vmm_options vmm_options = {
		.id = options->id,
		.serial_input = !process->order.given,
		.serial_escape = options->command == OPTIONS_RUN && !process->order.given,
		.boot_timer = options->boot_timer,
		.start_time_us = options->start_time_us,
		.filters = &process->filters,
		.startup_trace = process->trace,
		.forker = options->enable_fork ? &process->forker : NULL,
	};
	struct metrics_config metrics = { .metrics_path = (char *)options->metrics_path };
	int result;

	if (process->trace && startup_trace_open(process->trace, options->startup_trace, err) < 0)
		return -err->code;
	result = choose_filters(process, options, err);
	if (result == 0)
		result = signals_install(&process->log, err);
	if (result == 0)
		result = loop_init(&process->loop, err);
	if (result == 0)
		result = signals_add_to_loop(&process->signals, &process->loop, on_end_signal,
					     process, err);
	if (result == 0)
		result =
			vmm_create(&process->vmm, &process->loop, &process->log, &vmm_options, err);
	if (result == 0 && options->has_logger)
		result = vmm_set_logger(process->vmm, &options->logger, err);
	if (result == 0 && options->metrics_path)
		result = vmm_set_metrics(process->vmm, &metrics, err);
	if (result == 0 && options->api_socket) {
		struct api_server_options api = { options->api_socket, options->max_payload_bytes };

		result = api_server_create(&process->api, &process->loop, process->vmm, &api, err);
		if (result == 0)
			signals_set_socket_path(options->api_socket);
		else if (process->order.given)
			result = error_prefix(err, "api_socket_path");
	}
	startup_mark(process->trace, STARTUP_API);
	/* Who connects meanwhile waits: a monitor that answers is prepared. */
	if (result == 0 && options->prepare &&
	    vmm_prepare(process->vmm, &options->config.machine, err) < 0)
		result = error_prefix(err, "--prepare");
	return result;
}

/* A process that another monitor's forker made: what is its own in place of what was the first's.
 */
static int take_order(struct process *process, struct options *options, struct error *err)
{
	if (!process->order.given)
		return 0;
	if (vmm_read_order(&process->order, &process->fork, err) < 0)
		return error_prefix(err, "the order of a fork");
	options->api_socket = process->fork.api_socket_path;
	options->id = process->fork.id;
	options->metrics_path = NULL;
	options->start_time_us = 0;
	process->trace = NULL;
	return 0;
}

static void tear_down(struct process *process, const struct error *err)
{
	forker_close(&process->forker);
	if (process->vmm)
		vmm_destroy(process->vmm);
	signals_set_socket_path(NULL);
	api_server_destroy(process->api);
	signals_remove_from_loop(&process->signals, &process->loop);
	loop_destroy(&process->loop);
	filters_clear(&process->filters);
	startup_mark(process->trace, STARTUP_TORN_DOWN);
	log_close(&process->log);
	/* Now that nothing of it is left. */
	forker_report(&process->order, err);
	forker_order_clear(&process->order);
	config_clear(&config_snapshot_fork_object, &process->fork);
}

static int run_loop(struct process *process, struct error *err)
{
	int result;

	forker_report(&process->order, err);
	result = loop_run(&process->loop);

	if (result >= 0)
		return result;
	errno = -result;
	error_errno(err, "the event loop failed");
	return VMM_EXIT_ERROR;
}

/*
 * A parent may have closed the standard descriptors. What we open then must not take their numbers,
 * or the log would be written into it.
 */
static bool claim_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return false;
	}
	return true;
}

static int run_process(struct options *options, struct startup_trace *trace)
{
	struct process process = { .loop = { .epoll_fd = -1, .urgent_fd = -1 },
				   .trace = options->startup_trace ? trace : NULL,
				   .forker = { .fd = -1 } };
	struct error err = { 0 }, trace_err = { 0 };
	int exit_code, result;

	/* While there is nothing yet that a new process should not have. */
	result = options->enable_fork
			 ? forker_start(&process.forker, &process.order, FORKER_WAIT_MS, &err)
			 : 0;
	log_init(&process.log);
	/* A service's log should tell its life; a person's terminal belongs to the guest. */
	process.log.level = options->command == OPTIONS_RUN ? LOG_WARN : LOG_INFO;
	if (result == 0)
		result = take_order(&process, options, &err);
	if (result < 0 || set_up(&process, options, &err) < 0)
		exit_code = VMM_EXIT_ERROR;
	else if (configured_start(&process, options, &err) < 0)
		exit_code = VMM_EXIT_BAD_CONFIG;
	else
		exit_code = run_loop(&process, &err);
	/* First the terminal back, then words on it. */
	tear_down(&process, &err);
	if (startup_trace_finish(trace, &trace_err) < 0)
		complain(&trace_err, 0);
	return err.code ? complain(&err, exit_code) : exit_code;
}

int main(int argc, char **argv)
{
	struct error err = { 0 };
	struct startup_trace trace;
	struct options options;
	int exit_code = VMM_EXIT_OK;

	startup_trace_init(&trace);
	startup_mark(&trace, STARTUP_MAIN);

	if (!claim_standard_descriptors())
		return VMM_EXIT_ERROR;
	if (options_parse(&options, argc, argv, &err) < 0) {
		config_vm_clear(&options.config);
		return complain(&err, VMM_EXIT_ARGUMENTS);
	}
	startup_mark(&trace, STARTUP_OPTIONS);
	switch (options.command) {
	case OPTIONS_HELP:
		options_print_help();
		break;
	case OPTIONS_RUN_HELP:
		options_print_run_help();
		break;
	case OPTIONS_MERGE_HELP:
		options_print_merge_help();
		break;
	case OPTIONS_VERSION:
		printf("Mayfly v%s\n", MAYFLY_VERSION);
		break;
	case OPTIONS_SNAPSHOT_VERSION:
		printf("v%d.0.0\n", STATE_FORMAT_VERSION);
		break;
	case OPTIONS_DESCRIBE_SNAPSHOT:
		if (snapshot_describe(options.describe_snapshot, options.json, stdout, &err) < 0)
			exit_code = complain(&err, VMM_EXIT_ERROR);
		break;
	case OPTIONS_MERGE_MEMORY:
		if (memory_file_merge(options.merge_base, options.merge_diff, &err) < 0)
			exit_code = complain(&err, VMM_EXIT_ERROR);
		break;
	case OPTIONS_MONITOR:
	case OPTIONS_RUN:
		exit_code = run_process(&options, &trace);
		break;
	}
	/* What was printed may have found a full disk. */
	if (exit_code == VMM_EXIT_OK && fflush(stdout) != 0) {
		error_errno(&err, "standard output cannot be written");
		exit_code = complain(&err, VMM_EXIT_ERROR);
	}
	config_vm_clear(&options.config);
	return exit_code;
}

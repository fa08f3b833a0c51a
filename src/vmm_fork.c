/*
 * Forks of the microVM: see include/mayfly/vmm.h.
 *
 * The monitor that is forked sends an order to its forker (mayfly/forker.h), the request as JSON
 * with three descriptors: state, base and own pages of its memory. The new monitor loads from these
 * what it would have loaded from a snapshot's files.
 */
#include <string.h>

#include "vmm_private.h"

enum {
	ORDER_STATE,
	ORDER_BASE,
	ORDER_OWN
};

/* Strings that are lent to a request for the time in which it is written down. */
static char *send_order(struct vmm *vmm, const struct snapshot_fork_config *config)
{
	struct snapshot_fork_config complete = *config;
	json_t *json;
	char *words;

	if (!complete.id)
		complete.id = vmm->id;
	if (!complete.log_path)
		complete.log_path = vmm->config.logger.log_path;
	json = config_format_object(&config_snapshot_fork_object, &complete);
	words = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	return words;
}

/* What can be refused before anybody has to wait. */
static int check_request(const struct vmm *vmm, const struct snapshot_fork_config *config,
			 struct error *err)
{
	int result = vmm_need_started(vmm, err);

	if (result == 0)
		result = machine_check_fork(vmm->machine, err);
	if (result == 0 && vmm->fork.on_forked)
		result = error_set(err, EBUSY, "Another fork of this microVM is under way.");
	if (result == 0 && config->id && config_instance_id_check(config->id, err) < 0)
		result = error_prefix(err, "id");
	return result;
}

/* Whoever asked for it is told how it went. */
static void end_fork(struct vmm *vmm, const struct error *err)
{
	struct vmm_fork *fork = &vmm->fork;
	void (*on_forked)(void *, const struct vmm_fork_report *, const struct error *) =
		fork->on_forked;

	fork->report.ready_us = (clock_ns(CLOCK_MONOTONIC) - fork->start_ns) / 1000;
	if (err)
		log_error(vmm->log, "no fork: %s", err->message);
	else
		log_info(
			vmm->log,
			"forked: process %d is there after %llu us; this guest stood still for %llu us",
			fork->report.process_id, (unsigned long long)fork->report.ready_us,
			(unsigned long long)fork->report.pause_us);
	loop_remove(vmm->loop, &fork->source);
	free(fork->words);
	fork->words = NULL;
	fork->on_forked = NULL;
	on_forked(fork->context, &fork->report, err);
}

static void on_answer(struct loop_source *source, uint32_t events)
{
	struct vmm *vmm = container_of(source, struct vmm, fork.source);
	struct error err = { 0 };
	int result;

	(void)events;
	loop_remove(vmm->loop, source);
	result = forker_take_answer(vmm->options.forker, &vmm->fork.report.process_id, &err);
	end_fork(vmm, result < 0 ? &err : NULL);
}

/*
 * A bit in each turn of the loop, so that everybody is served between, and the order when nothing
 * is left. What a fork that failed meanwhile has left over is done, too.
 */
static void on_step(struct loop_timer *timer)
{
	struct vmm *vmm = container_of(timer, struct vmm, fork.step);
	struct vmm_fork *fork = &vmm->fork;
	struct error err = { 0 };
	int result;

	if (!machine_go_on_forking(vmm->machine)) {
		loop_timer_set(vmm->loop, timer, loop_now_ns(vmm->loop));
		return;
	}
	if (!fork->words)
		return;
	result = forker_send(vmm->options.forker, fork->words, fork->descriptors, &err);
	free(fork->words);
	fork->words = NULL;
	if (result < 0) {
		error_prefix(&err, "Cannot fork the microVM");
		end_fork(vmm, &err);
	}
}

static int begin(struct vmm *vmm, struct error *err)
{
	struct forker *forker = vmm->options.forker;
	struct machine_fork fork = { 0 };
	int result = forker_check(forker, err);

	if (result == 0)
		result = loop_add_urgent(vmm->loop, &vmm->fork.source, forker->fd, EPOLLIN,
					 on_answer, err);
	if (result == 0)
		result = machine_fork(vmm->machine, &vmm->config, vmm->state == VMM_RUNNING, &fork,
				      err);
	vmm->fork.descriptors[ORDER_STATE] = fork.state_fd;
	vmm->fork.descriptors[ORDER_BASE] = fork.base_fd;
	vmm->fork.descriptors[ORDER_OWN] = fork.own_fd;
	vmm->fork.report.pause_us = fork.pause_ns / 1000;
	vmm->fork.report.copied_bytes = fork.copied_bytes;
	if (result < 0)
		loop_remove(vmm->loop, &vmm->fork.source);
	vmm->fork.step.handler = on_step;
	loop_timer_set(vmm->loop, &vmm->fork.step, loop_now_ns(vmm->loop));
	return result;
}

int vmm_fork(struct vmm *vmm, const struct snapshot_fork_config *config,
	     void (*on_forked)(void *, const struct vmm_fork_report *, const struct error *),
	     void *context, struct error *err)
{
	cleanup_free char *words = NULL;
	int result = check_request(vmm, config, err);

	if (result < 0)
		return result;
	words = send_order(vmm, config);
	if (!words)
		return error_set(err, ENOMEM, "no memory for the request");
	vmm->fork.start_ns = clock_ns(CLOCK_MONOTONIC);
	vmm->fork.report = (struct vmm_fork_report) { 0 };
	result = begin(vmm, err);
	if (result < 0)
		return error_prefix(err, "Cannot fork the microVM");
	vmm->fork.words = words;
	words = NULL;
	vmm->fork.on_forked = on_forked;
	vmm->fork.context = context;
	return 0;
}

void vmm_forget_fork(struct vmm *vmm)
{
	loop_remove(vmm->loop, &vmm->fork.source);
	loop_timer_cancel(vmm->loop, &vmm->fork.step);
	free(vmm->fork.words);
	vmm->fork.words = NULL;
	vmm->fork.on_forked = NULL;
}

int vmm_read_order(const struct forker_order *order, struct snapshot_fork_config *config,
		   struct error *err)
{
	json_t *json;
	int result;

	config_seed_json();
	json = config_parse_json(order->words, strlen(order->words), err);
	if (!json)
		return -err->code;
	result = config_parse_object(&config_snapshot_fork_object, json, false, config, err);
	json_decref(json);
	return result;
}

/* What belongs to the process. */
static int take_outputs(struct vmm *vmm, const struct snapshot_fork_config *config,
			struct error *err)
{
	struct logger_config logger = vmm->config.logger;
	struct metrics_config metrics = { .metrics_path = config->metrics_path };
	int result = 0;

	logger.log_path = config->log_path;
	if (config->log_path && vmm_set_logger(vmm, &logger, err) < 0)
		return error_prefix(err, "log_path");
	if (config->metrics_path && vmm_set_metrics(vmm, &metrics, err) < 0)
		result = error_prefix(err, "metrics_path");
	return result;
}

static int take_state(struct vmm *vmm, const struct snapshot_fork_config *fork,
		      struct state_file *state, struct error *err)
{
	struct snapshot_load_config load = {
		.network_override_count = fork->network_override_count,
		.drive_override_count = fork->drive_override_count,
	};
	struct vm_config config = { 0 };
	int result = machine_read_config(state, &config, err);

	/* Lent: only `fork` owns them. */
	memcpy(load.network_overrides, fork->network_overrides, sizeof(load.network_overrides));
	memcpy(load.drive_overrides, fork->drive_overrides, sizeof(load.drive_overrides));
	load.track_dirty_pages = config.machine.track_dirty_pages;
	if (result == 0)
		result = vmm_override_config(&config, &load, err);
	if (result == 0) {
		/* Not where the first one writes to. Its limits hold. */
		free(config.serial.serial_out_path);
		config.serial.serial_out_path =
			fork->serial_out_path ? strdup(fork->serial_out_path) : NULL;
		config.has_serial = true;
		result = vmm_take_config(vmm, &config, err);
	}
	config_vm_clear(&config);
	return result;
}

static int load(struct vmm *vmm, const struct snapshot_fork_config *config,
		struct forker_order *order, struct error *err)
{
	struct machine_restore_request restore = { .forked = true, .clock_realtime = true };
	struct state_file state;
	int result = take_outputs(vmm, config, err);

	if (result == 0)
		result = state_file_read(&state, order->descriptors[ORDER_STATE], err);
	if (result < 0)
		return result;
	close_fd(&order->descriptors[ORDER_STATE]);
	result = take_state(vmm, config, &state, err);
	if (result == 0)
		result = vmm_take_machine(vmm, err);
	if (result == 0) {
		restore.state = &state;
		restore.base_fd = take_fd(&order->descriptors[ORDER_BASE]);
		restore.own_fd = order->descriptors[ORDER_OWN];
		result = machine_restore(vmm->machine, &vmm->config, &restore, err);
	}
	/* The first one writes them anew for the next fork, which none of its forks is to see. */
	close_fd(&order->descriptors[ORDER_OWN]);
	state_file_close(&state);
	return result;
}

int vmm_load_fork(struct vmm *vmm, const struct snapshot_fork_config *config,
		  struct forker_order *order, struct error *err)
{
	int result = load(vmm, config, order, err);

	/* What is left of them is open in the machine. */
	if (result == 0)
		result = vmm_enter_filters(vmm, err);
	if (result < 0)
		return result;
	if (config->resume_vm)
		machine_resume(vmm->machine);
	vmm->state = config->resume_vm ? VMM_RUNNING : VMM_PAUSED;
	log_info(vmm->log, "the microVM is a fork of another one; its API is at %s",
		 config->api_socket_path);
	vmm_begin_metrics(vmm);
	return 0;
}

/*
 * The microVM's life: see include/mayfly/vmm.h.
 *
 * Before the start there is only configuration here; nothing of KVM is touched. Files are opened
 * when they are named, so that the client who named a wrong one hears it at once, and closed again:
 * what a start uses is opened by it.
 */
#include <libgen.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

#include "vmm_private.h"
#include "mayfly/boot.h"
#include "mayfly/disk.h"
#include "mayfly/filters.h"
#include "mayfly/landlock.h"
#include "mayfly/tap.h"
#include "startup_trace.h"

#define DEFAULT_ID "anonymous-instance"

static const char *const state_names[] = {
	[VMM_NOT_STARTED] = "Not started",
	[VMM_RUNNING] = "Running",
	[VMM_PAUSED] = "Paused",
};

static int set_id(struct vmm *vmm, const char *id, struct error *err)
{
	int result = config_instance_id_check(id, err);

	if (result < 0)
		return result;
	strcpy(vmm->id, id);
	strcpy(vmm->log->id, id);
	return 0;
}

int vmm_create(struct vmm **out, struct loop *loop, struct log *log,
	       const struct vmm_options *options, struct error *err)
{
	struct vmm *vmm = calloc(1, sizeof(*vmm));
	int result;

	if (!vmm)
		return error_set(err, ENOMEM, "no memory for the microVM");
	vmm->loop = loop;
	vmm->log = log;
	vmm->options = *options;
	vmm->fork.source.fd = -1;
	result = set_id(vmm, options->id ? options->id : DEFAULT_ID, err);
	if (result < 0) {
		free(vmm);
		return result;
	}
	config_seed_json();
	config_machine_defaults(&vmm->config.machine);
	metrics_init(&vmm->metrics);
	*out = vmm;
	return 0;
}

void vmm_destroy(struct vmm *vmm)
{
	struct error err = { 0 };

	if (vmm->state != VMM_NOT_STARTED && vmm->metrics.fd >= 0 &&
	    vmm_flush_metrics(vmm, &err) < 0)
		log_error(vmm->log, "the last metrics are lost: %s", err.message);
	vmm_forget_fork(vmm);
	machine_destroy(vmm->machine);
	metrics_close(&vmm->metrics, vmm->loop);
	config_vm_clear(&vmm->config);
	free(vmm);
}

enum vmm_state vmm_state(const struct vmm *vmm)
{
	return vmm->state;
}

const char *vmm_state_name(enum vmm_state state)
{
	return state_names[state];
}

const char *vmm_id(const struct vmm *vmm)
{
	return vmm->id;
}

const struct vm_config *vmm_config(const struct vmm *vmm)
{
	return &vmm->config;
}

struct log *vmm_log(struct vmm *vmm)
{
	return vmm->log;
}

int vmm_need_not_started(const struct vmm *vmm, struct error *err)
{
	if (vmm->state == VMM_NOT_STARTED)
		return 0;
	return error_set(err, EPERM,
			 "The requested operation is not supported after starting the microVM.");
}

int vmm_need_started(const struct vmm *vmm, struct error *err)
{
	if (vmm->state != VMM_NOT_STARTED)
		return 0;
	return error_set(err, EPERM,
			 "The requested operation is not supported before starting the microVM.");
}

int vmm_set_boot_source(struct vmm *vmm, const struct boot_source_config *config, struct error *err)
{
	int result = vmm_need_not_started(vmm, err);

	if (result == 0)
		result = boot_file_check("kernel", config->kernel_image_path, err);
	if (result == 0 && config->initrd_path)
		result = boot_file_check("initrd", config->initrd_path, err);
	if (result == 0 &&
	    config_copy(&config_boot_source_object, &vmm->config.boot_source, config) < 0)
		result = error_set(err, ENOMEM, "no memory for the boot source");
	if (result == 0)
		vmm->config.has_boot_source = true;
	return result;
}

/* More than the host has could never be backed; the guest would be killed in the middle of its
 * work. */
static int check_host_memory(const struct machine_config *config, struct error *err)
{
	struct sysinfo info;
	uint64_t host_mib;

	if (sysinfo(&info) < 0)
		return error_errno(err, "the host does not say how much memory it has");
	host_mib = (uint64_t)info.totalram * info.mem_unit / MIB;
	if (config->mem_size_mib > host_mib)
		return error_set(
			err, EINVAL,
			"The memory size of %llu MiB is more than the %llu MiB that this host has.",
			(unsigned long long)config->mem_size_mib, (unsigned long long)host_mib);
	return 0;
}

int vmm_set_machine(struct vmm *vmm, const struct machine_config *config, struct error *err)
{
	int result = vmm_need_not_started(vmm, err);

	if (result == 0)
		result = config_machine_check(config, err);
	if (result == 0)
		result = check_host_memory(config, err);
	if (result == 0 && config_copy(&config_machine_object, &vmm->config.machine, config) < 0)
		result = error_set(err, ENOMEM, "no memory for the machine configuration");
	if (result == 0)
		vmm->machine_configured = true;
	return result;
}

/* The index of a drive, or drive_count when there is none of that id. */
static unsigned int find_drive(const struct vm_config *config, const char *drive_id)
{
	unsigned int index = 0;

	while (index < config->drive_count && strcmp(config->drives[index].drive_id, drive_id) != 0)
		index++;
	return index;
}

/* Each drive and each interface has an interrupt line of its own. */
static int check_place(const struct vmm *vmm, struct error *err)
{
	if (vmm->config.drive_count + vmm->config.interface_count < LAYOUT_MAX_VIRTIO_DEVICES)
		return 0;
	return error_set(err, ENOSPC,
			 "a microVM has at most %d drives and network interfaces together",
			 LAYOUT_MAX_VIRTIO_DEVICES);
}

static int check_drive(const struct vmm *vmm, const struct drive_config *config, unsigned int index,
		       struct error *err)
{
	int result = config_drive_check(config, err);

	if (result < 0)
		return result;
	if (index == vmm->config.drive_count && check_place(vmm, err) < 0)
		return error_prefix(err, "drive %s", config->drive_id);
	for (unsigned int i = 0; config->is_root_device && i < vmm->config.drive_count; i++) {
		if (i != index && vmm->config.drives[i].is_root_device)
			return error_set(err, EEXIST, "A root block device already exists");
	}
	return disk_check(config, err);
}

/* Buckets that limit nothing are not there: so they are after a PATCH. */
static void normalize_limiter(bool *present, struct rate_limiter_config *limiter)
{
	struct rate_limiter_config given = *limiter;

	*limiter = (struct rate_limiter_config) { 0 };
	if (*present)
		*present = config_rate_limiter_merge(limiter, &given);
}

int vmm_set_drive(struct vmm *vmm, const struct drive_config *config, struct error *err)
{
	unsigned int index = find_drive(&vmm->config, config->drive_id);
	struct drive_config *drive = &vmm->config.drives[index];
	int result = vmm_need_not_started(vmm, err);

	if (result == 0)
		result = check_drive(vmm, config, index, err);
	if (result == 0 && config_copy(&config_drive_object, drive, config) < 0)
		result = error_set(err, ENOMEM, "no memory for drive %s", config->drive_id);
	if (result < 0)
		return result;
	normalize_limiter(&drive->has_rate_limiter, &drive->rate_limiter);
	if (index == vmm->config.drive_count)
		vmm->config.drive_count++;
	return 0;
}

/* The index of an interface, or interface_count when there is none of that id. */
static unsigned int find_interface(const struct vm_config *config, const char *iface_id)
{
	unsigned int index = 0;

	while (index < config->interface_count &&
	       strcmp(config->interfaces[index].iface_id, iface_id) != 0)
		index++;
	return index;
}

static int check_interface(const struct vmm *vmm, const struct network_interface_config *config,
			   unsigned int index, struct error *err)
{
	int result = config_network_interface_check(config, err);

	if (result < 0)
		return result;
	if (index == vmm->config.interface_count && check_place(vmm, err) < 0)
		return error_prefix(err, "network interface %s", config->iface_id);
	for (unsigned int i = 0; i < vmm->config.interface_count; i++) {
		const struct network_interface_config *other = &vmm->config.interfaces[i];

		if (i == index)
			continue;
		/* Clients match this text. */
		if (config->guest_mac && strcasecmp(config->guest_mac, other->guest_mac) == 0)
			return error_set(err, EEXIST, "The MAC address is already in use: %s",
					 other->guest_mac);
		if (strcmp(config->host_dev_name, other->host_dev_name) == 0)
			return error_set(err, EBUSY,
					 "network interface %s: host_dev_name %s is that of the "
					 "network interface %s already",
					 config->iface_id, config->host_dev_name, other->iface_id);
	}
	return tap_check(config, err);
}

int vmm_set_network_interface(struct vmm *vmm, const struct network_interface_config *config,
			      struct error *err)
{
	unsigned int index = find_interface(&vmm->config, config->iface_id);
	struct network_interface_config complete = { 0 };
	int result = vmm_need_not_started(vmm, err);

	if (result == 0)
		result = check_interface(vmm, config, index, err);
	if (result < 0)
		return result;
	if (config_copy(&config_network_interface_object, &complete, config) < 0)
		return error_set(err, ENOMEM, "no memory for network interface %s",
				 config->iface_id);
	result = config_complete_mac(&complete, err);
	if (result < 0) {
		config_clear(&config_network_interface_object, &complete);
		return result;
	}
	normalize_limiter(&complete.has_rx_rate_limiter, &complete.rx_rate_limiter);
	normalize_limiter(&complete.has_tx_rate_limiter, &complete.tx_rate_limiter);
	config_clear(&config_network_interface_object, &vmm->config.interfaces[index]);
	vmm->config.interfaces[index] = complete;
	if (index == vmm->config.interface_count)
		vmm->config.interface_count++;
	return 0;
}

/*
 * Whether the serial port's output could go there. It is not opened: closing a FIFO again would
 * look to its reader like the end of the output.
 */
static int check_output(const char *path, struct error *err)
{
	cleanup_free char *copy = strdup(path);
	struct stat status;
	const char *needed = path;

	if (!copy)
		return error_set(err, ENOMEM, "no memory for the serial configuration");
	if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
		return error_set(err, EISDIR, "serial_out_path %s is a directory", path);
	if (access(path, F_OK) < 0)
		needed = dirname(copy); /* where it will be made */
	return access(needed, W_OK) < 0
		       ? error_errno(err, "serial_out_path %s cannot be written", path)
		       : 0;
}

int vmm_set_serial(struct vmm *vmm, const struct serial_config *config, struct error *err)
{
	int result = vmm_need_not_started(vmm, err);

	if (result == 0 && config->serial_out_path)
		result = check_output(config->serial_out_path, err);
	if (result == 0 && config_copy(&config_serial_object, &vmm->config.serial, config) < 0)
		result = error_set(err, ENOMEM, "no memory for the serial configuration");
	if (result == 0)
		vmm->config.has_serial = true;
	return result;
}

/* Levels are taken in any case and shown in one. */
static int name_level(struct logger_config *logger, enum log_level level, struct error *err)
{
	char *name;

	if (!logger->level)
		return 0;
	name = strdup(level == LOG_WARN ? "Warning" : log_level_name(level));
	if (!name)
		return error_set(err, ENOMEM, "no memory for the logger configuration");
	free(logger->level);
	logger->level = name;
	return 0;
}

int vmm_set_logger(struct vmm *vmm, const struct logger_config *config, struct error *err)
{
	enum log_level level = vmm->log->level;
	int result = vmm_need_not_started(vmm, err);

	if (result == 0)
		result = config_logger_check(config, err);
	if (result == 0 && config->level && !log_level_parse(config->level, &level))
		result = error_set(err, EINVAL, "logger: '%s' is not a level", config->level);
	if (result == 0 && config->module && strlen(config->module) >= sizeof(vmm->log->module))
		result = error_set(err, EINVAL, "logger: the module is longer than %zu bytes",
				   sizeof(vmm->log->module) - 1);
	if (result == 0 && config->log_path)
		result = log_open(vmm->log, config->log_path, err);
	if (result == 0 && config_copy(&config_logger_object, &vmm->config.logger, config) < 0)
		result = error_set(err, ENOMEM, "no memory for the logger configuration");
	if (result < 0)
		return result;
	vmm->config.has_logger = true;
	vmm->log->level = level;
	vmm->log->show_level = config->show_level;
	vmm->log->show_origin = config->show_log_origin;
	if (config->module)
		strcpy(vmm->log->module, config->module);
	return name_level(&vmm->config.logger, level, err);
}

int vmm_set_metrics(struct vmm *vmm, const struct metrics_config *config, struct error *err)
{
	int result = vmm_need_not_started(vmm, err);

	if (result == 0)
		result = metrics_open(&vmm->metrics, config->metrics_path, err);
	if (result == 0 && config_copy(&config_metrics_object, &vmm->config.metrics, config) < 0)
		result = error_set(err, ENOMEM, "no memory for the metrics configuration");
	if (result == 0)
		vmm->config.has_metrics = true;
	return result;
}

static int set_new_drive(struct vmm *vmm, const struct drive_config *drive, struct error *err)
{
	/* To a client a second PUT replaces the first; in one file it can only be a mistake. */
	if (find_drive(&vmm->config, drive->drive_id) < vmm->config.drive_count)
		return error_set(err, EEXIST, "the drive id %s is used twice", drive->drive_id);
	return vmm_set_drive(vmm, drive, err);
}

static int set_new_interface(struct vmm *vmm, const struct network_interface_config *interface,
			     struct error *err)
{
	if (find_interface(&vmm->config, interface->iface_id) < vmm->config.interface_count)
		return error_set(err, EEXIST, "the interface id %s is used twice",
				 interface->iface_id);
	return vmm_set_network_interface(vmm, interface, err);
}

int vmm_set_all(struct vmm *vmm, const struct vm_config *config, struct error *err)
{
	if (config->has_logger && vmm_set_logger(vmm, &config->logger, err) < 0)
		return error_prefix(err, "section `logger`");
	if (config->has_metrics && vmm_set_metrics(vmm, &config->metrics, err) < 0)
		return error_prefix(err, "section `metrics`");
	if (config->has_boot_source && vmm_set_boot_source(vmm, &config->boot_source, err) < 0)
		return error_prefix(err, "section `boot-source`");
	if (vmm_set_machine(vmm, &config->machine, err) < 0)
		return error_prefix(err, "section `machine-config`");
	for (unsigned int i = 0; i < config->drive_count; i++) {
		if (set_new_drive(vmm, &config->drives[i], err) < 0)
			return error_prefix(err, "section `drives`, entry %u", i);
	}
	for (unsigned int i = 0; i < config->interface_count; i++) {
		if (set_new_interface(vmm, &config->interfaces[i], err) < 0)
			return error_prefix(err, "section `network-interfaces`, entry %u", i);
	}
	if (config->has_serial && vmm_set_serial(vmm, &config->serial, err) < 0)
		return error_prefix(err, "section `serial`");
	return 0;
}

static int swap_drive(struct vmm *vmm, unsigned int index, const char *path_on_host,
		      struct error *err)
{
	struct drive_config *drive = &vmm->config.drives[index], changed = *drive;
	char *path = strdup(path_on_host);
	int result;

	if (!path)
		return error_set(err, ENOMEM, "no memory for drive %s", drive->drive_id);
	changed.path_on_host = path;
	result = machine_swap_drive(vmm->machine, index, &changed, err);
	if (result < 0) {
		free(path);
		return result;
	}
	free(drive->path_on_host);
	drive->path_on_host = path;
	return 0;
}

int vmm_patch_drive(struct vmm *vmm, const char *drive_id, const struct drive_update_config *update,
		    struct error *err)
{
	unsigned int index = find_drive(&vmm->config, drive_id);
	struct drive_config *drive = &vmm->config.drives[index];
	int result = vmm_need_started(vmm, err);

	if (result < 0)
		return result;
	if (index == vmm->config.drive_count)
		return error_set(err, ENOENT, "there is no drive %s", drive_id);
	if (update->path_on_host)
		result = swap_drive(vmm, index, update->path_on_host, err);
	/* Behind what can be refused: a refused PATCH changes nothing. */
	if (result == 0 && update->has_rate_limiter) {
		machine_limit_drive(vmm->machine, index, &update->rate_limiter);
		drive->has_rate_limiter =
			config_rate_limiter_merge(&drive->rate_limiter, &update->rate_limiter);
	}
	return result;
}

int vmm_patch_network_interface(struct vmm *vmm, const char *iface_id,
				const struct network_interface_update_config *update,
				struct error *err)
{
	unsigned int index = find_interface(&vmm->config, iface_id);
	struct network_interface_config *interface = &vmm->config.interfaces[index];
	int result = vmm_need_started(vmm, err);

	if (result < 0)
		return result;
	if (index == vmm->config.interface_count)
		return error_set(err, ENOENT, "there is no network interface %s", iface_id);
	machine_limit_interface(vmm->machine, index, update);
	if (update->has_rx_rate_limiter)
		interface->has_rx_rate_limiter = config_rate_limiter_merge(
			&interface->rx_rate_limiter, &update->rx_rate_limiter);
	if (update->has_tx_rate_limiter)
		interface->has_tx_rate_limiter = config_rate_limiter_merge(
			&interface->tx_rate_limiter, &update->tx_rate_limiter);
	return 0;
}

static void on_end(void *context, int exit_code)
{
	struct vmm *vmm = context;

	loop_stop(vmm->loop, exit_code);
}

/* That nobody takes a guest's metrics must not keep it from running. */
static void start_metrics(struct vmm *vmm)
{
	struct error err = { 0 };

	if (vmm->metrics.fd >= 0 && metrics_start_timer(&vmm->metrics, vmm->loop, vmm, &err) < 0)
		log_error(vmm->log, "metrics: %s", err.message);
}

/* Before there are other threads: they inherit it. */
static void enter_landlock(struct vmm *vmm)
{
	struct error err = { 0 };

	/* Once, should a start be refused and tried again. */
	if (vmm->landlocked || !filters_are_default())
		return;
	vmm->landlocked = true;
	/* A second wall: the guest runs without it as well. */
	if (landlock_enter(&err) < 0)
		log_warn(vmm->log, "%s", err.message);
}

static int make_machine(struct vmm *vmm, const struct machine_config *shape, struct error *err)
{
	struct machine_request request = {
		.options = &vmm->options,
		.loop = vmm->loop,
		.log = vmm->log,
		.on_end = on_end,
		.context = vmm,
	};

	enter_landlock(vmm);
	return machine_prepare(&vmm->machine, &request, shape, err);
}

int vmm_prepare(struct vmm *vmm, const struct machine_config *shape, struct error *err)
{
	int result = config_machine_check(shape, err);

	if (result == 0)
		result = check_host_memory(shape, err);
	if (result == 0)
		result = make_machine(vmm, shape, err);
	if (result < 0)
		return result;
	vmm->prepares = true;
	log_info(vmm->log, "a machine is prepared; vCPUs: %llu, memory: %llu MiB",
		 (unsigned long long)shape->vcpu_count, (unsigned long long)shape->mem_size_mib);
	return 0;
}

void vmm_drop_machine(struct vmm *vmm)
{
	machine_destroy(vmm->machine);
	vmm->machine = NULL;
}

int vmm_take_machine(struct vmm *vmm, struct error *err)
{
	const struct machine_config *shape = &vmm->config.machine;

	if (vmm->machine && machine_has_shape(vmm->machine, shape))
		return 0;
	if (vmm->machine) {
		json_t *json = config_format_object(&config_machine_object, shape);
		cleanup_free char *wanted = json ? json_dumps(json, JSON_COMPACT) : NULL;

		json_decref(json);
		log_warn(vmm->log, "the prepared machine is made anew, since another is wanted: %s",
			 wanted ? wanted : "");
		vmm_drop_machine(vmm);
	}
	return make_machine(vmm, shape, err);
}

int vmm_enter_filters(struct vmm *vmm, struct error *err)
{
	start_metrics(vmm);
	/* From here on this thread makes no call but those that a running guest needs. */
	return filters_enter(vmm->options.filters, vmm->options.forker ? FILTERS_FORK : FILTERS_VMM,
			     err);
}

void vmm_begin_metrics(struct vmm *vmm)
{
	struct error err = { 0 };

	if (vmm->metrics.fd >= 0 && vmm_flush_metrics(vmm, &err) < 0)
		log_error(vmm->log, "metrics: %s", err.message);
}

int vmm_start(struct vmm *vmm, struct error *err)
{
	int result = vmm_need_not_started(vmm, err);

	if (result < 0)
		return result;
	if (!vmm->config.has_boot_source)
		return error_set(err, EINVAL, "Cannot start microvm without kernel configuration.");
	startup_mark(vmm->options.startup_trace, STARTUP_CONFIG);
	result = vmm_take_machine(vmm, err);
	if (result == 0)
		result = machine_boot(vmm->machine, &vmm->config, err);
	if (result == 0)
		result = vmm_enter_filters(vmm, err);
	if (result < 0) {
		vmm_drop_machine(vmm);
		return result;
	}
	startup_mark(vmm->options.startup_trace, STARTUP_FILTERS);
	machine_resume(vmm->machine);
	vmm->state = VMM_RUNNING;
	log_info(
		vmm->log,
		"the microVM runs; vCPUs: %llu, memory: %llu MiB, drives: %u, network interfaces: %u",
		(unsigned long long)vmm->config.machine.vcpu_count,
		(unsigned long long)vmm->config.machine.mem_size_mib, vmm->config.drive_count,
		vmm->config.interface_count);
	vmm_begin_metrics(vmm);
	return 0;
}

int vmm_pause(struct vmm *vmm, struct error *err)
{
	int result = vmm_need_started(vmm, err);

	if (result == 0 && vmm->state == VMM_RUNNING) {
		machine_pause(vmm->machine);
		vmm->state = VMM_PAUSED;
	}
	return result;
}

int vmm_resume(struct vmm *vmm, struct error *err)
{
	int result = vmm_need_started(vmm, err);

	if (result == 0 && vmm->state == VMM_PAUSED) {
		machine_resume(vmm->machine);
		vmm->state = VMM_RUNNING;
	}
	return result;
}

int vmm_send_ctrl_alt_del(struct vmm *vmm, struct error *err)
{
	int result = vmm_need_started(vmm, err);

	return result < 0 ? result : machine_send_ctrl_alt_del(vmm->machine, err);
}

int vmm_flush_metrics(struct vmm *vmm, struct error *err)
{
	json_t *values;
	int result = vmm_need_started(vmm, err);

	if (result < 0)
		return result;
	if (vmm->metrics.fd < 0)
		return error_set(
			err, EINVAL,
			"There are no metrics to flush: name a metrics_path (PUT /metrics) before the start.");
	values = metrics_collect(&vmm->metrics, vmm->log);
	if (!values)
		return error_set(err, ENOMEM, "no memory for the metrics");
	machine_collect_metrics(vmm->machine, values);
	result = metrics_write(&vmm->metrics, values, err);
	json_decref(values);
	return result;
}

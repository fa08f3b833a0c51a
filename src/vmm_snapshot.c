/*
 * Snapshots of the microVM: see include/mayfly/vmm.h. What may be asked when, and how the
 * configuration within a state file becomes the microVM's: the machine (machine_save.c,
 * machine_restore.c) does the rest.
 */
#include <string.h>
#include <sys/stat.h>

#include "startup_trace.h"
#include "vmm_private.h"

/*
 * A snapshot's file takes the place of what had its name; of a disk the guest would write on into
 * a file without a name, which is gone at its end.
 */
static int check_no_drive(const struct vmm *vmm, const char *field, const char *path,
			  struct error *err)
{
	struct stat file, image;

	if (stat(path, &file) < 0)
		return 0;
	for (unsigned int i = 0; i < vmm->config.drive_count; i++) {
		const struct drive_config *drive = &vmm->config.drives[i];

		if (stat(drive->path_on_host, &image) == 0 && image.st_dev == file.st_dev &&
		    image.st_ino == file.st_ino)
			return error_set(err, EINVAL, "%s %s is the image of drive %s", field, path,
					 drive->drive_id);
	}
	return 0;
}

int vmm_create_snapshot(struct vmm *vmm, const struct snapshot_create_config *config,
			struct error *err)
{
	struct machine_snapshot snapshot = { .state_path = config->snapshot_path,
					     .memory_path = config->mem_file_path,
					     .diff = config->snapshot_type == SNAPSHOT_DIFF };
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
	int result = vmm_need_started(vmm, err);

	if (result < 0)
		return result;
	if (vmm->state != VMM_PAUSED)
		return error_set(
			err, EPERM,
			"A snapshot is made of a paused microVM only: PATCH /vm with {\"state\": \"Paused\"} first.");
	if (strcmp(config->snapshot_path, config->mem_file_path) == 0)
		return error_set(err, EINVAL,
				 "snapshot_path and mem_file_path name the same file: %s",
				 config->snapshot_path);
	result = check_no_drive(vmm, "snapshot_path", config->snapshot_path, err);
	if (result == 0)
		result = check_no_drive(vmm, "mem_file_path", config->mem_file_path, err);
	if (result == 0)
		result = machine_save(vmm->machine, &vmm->config, &snapshot, err);
	if (result < 0)
		return error_prefix(err, "Cannot create the snapshot");
	log_info(vmm->log, "snapshot %s made in %llu us: %llu KiB of memory are in %s",
		 config->snapshot_path,
		 (unsigned long long)((clock_ns(CLOCK_MONOTONIC) - start_ns) / 1000),
		 (unsigned long long)(snapshot.data_bytes / KIB), config->mem_file_path);
	return 0;
}

/* Logger, metrics and serial port belong to the process that loads, not to what is loaded. */
static int check_unconfigured(const struct vmm *vmm, struct error *err)
{
	const struct vm_config *config = &vmm->config;

	if (!config->has_boot_source && !vmm->machine_configured && config->drive_count == 0 &&
	    config->interface_count == 0)
		return 0;
	return error_set(
		err, EPERM,
		"Loading a snapshot is not allowed once boot source, machine, drives or network interfaces are configured.");
}

static bool uses_uffd(const struct snapshot_load_config *config)
{
	return config->has_mem_backend && config->mem_backend.backend_type == MEM_BACKEND_UFFD;
}

static int check_backend(const struct snapshot_load_config *config, struct error *err)
{
	if (config->has_mem_backend == (config->mem_file_path != NULL))
		return error_set(
			err, EINVAL,
			config->has_mem_backend
				? "too many fields: either `mem_backend` or `mem_file_path` is given, not both"
				: "missing field: either `mem_backend` or `mem_file_path` is required");
	if (uses_uffd(config) && config->working_set_path)
		return error_set(
			err, EINVAL,
			"working_set_path is for a mem_backend of type File: with Uffd it is "
			"the handler that brings pages (mayfly-uffd --working-set)");
	return 0;
}

/* `value` is copied in the place of `field`. */
static int replace_string(char **field, const char *value, struct error *err)
{
	char *copy = strdup(value);

	if (!copy)
		return error_set(err, ENOMEM, "no memory for the configuration");
	free(*field);
	*field = copy;
	return 0;
}

static int override_interface(struct vm_config *config,
			      const struct network_override_config *override, struct error *err)
{
	for (unsigned int i = 0; i < config->interface_count; i++) {
		struct network_interface_config *interface = &config->interfaces[i];

		if (strcmp(interface->iface_id, override->iface_id) == 0)
			return replace_string(&interface->host_dev_name, override->host_dev_name,
					      err);
	}
	return error_set(err, ENOENT, "network_overrides: the snapshot has no network interface %s",
			 override->iface_id);
}

static int override_drive(struct vm_config *config, const struct drive_override_config *override,
			  struct error *err)
{
	for (unsigned int i = 0; i < config->drive_count; i++) {
		struct drive_config *drive = &config->drives[i];

		if (strcmp(drive->drive_id, override->drive_id) == 0)
			return replace_string(&drive->path_on_host, override->path_on_host, err);
	}
	return error_set(err, ENOENT, "drive_overrides: the snapshot has no drive %s",
			 override->drive_id);
}

/* An id that is named twice would leave it to chance which one counts. */
static int check_twice(const struct snapshot_load_config *load, struct error *err)
{
	for (unsigned int i = 0; i < load->network_override_count; i++) {
		for (unsigned int n = 0; n < i; n++) {
			if (strcmp(load->network_overrides[i].iface_id,
				   load->network_overrides[n].iface_id) == 0)
				return error_set(err, EINVAL,
						 "network_overrides: %s is named twice",
						 load->network_overrides[i].iface_id);
		}
	}
	for (unsigned int i = 0; i < load->drive_override_count; i++) {
		for (unsigned int n = 0; n < i; n++) {
			if (strcmp(load->drive_overrides[i].drive_id,
				   load->drive_overrides[n].drive_id) == 0)
				return error_set(err, EINVAL, "drive_overrides: %s is named twice",
						 load->drive_overrides[i].drive_id);
		}
	}
	return 0;
}

int vmm_override_config(struct vm_config *config, const struct snapshot_load_config *load,
			struct error *err)
{
	int result = check_twice(load, err);

	for (unsigned int i = 0; result == 0 && i < load->network_override_count; i++)
		result = override_interface(config, &load->network_overrides[i], err);
	for (unsigned int i = 0; result == 0 && i < load->drive_override_count; i++)
		result = override_drive(config, &load->drive_overrides[i], err);
	config->machine.track_dirty_pages = load->track_dirty_pages;
	if (load->has_huge_pages)
		config->machine.huge_pages = load->huge_pages;
	return result;
}

/* The kernel has done its work: its file need not be there any more. */
static int take_boot_source(struct vmm *vmm, const struct vm_config *config, struct error *err)
{
	if (!config->has_boot_source)
		return error_set(err, EINVAL, "section config: it has no boot source");
	if (config_copy(&config_boot_source_object, &vmm->config.boot_source,
			&config->boot_source) < 0)
		return error_set(err, ENOMEM, "no memory for the boot source");
	vmm->config.has_boot_source = true;
	return 0;
}

/* All that a configuration is checked for goes for one out of a state file, too. */
int vmm_take_config(struct vmm *vmm, const struct vm_config *config, struct error *err)
{
	int result = take_boot_source(vmm, config, err);

	if (result == 0)
		result = vmm_set_machine(vmm, &config->machine, err);
	for (unsigned int i = 0; result == 0 && i < config->drive_count; i++)
		result = vmm_set_drive(vmm, &config->drives[i], err);
	for (unsigned int i = 0; result == 0 && i < config->interface_count; i++)
		result = vmm_set_network_interface(vmm, &config->interfaces[i], err);
	if (result == 0 && (vmm->config.drive_count != config->drive_count ||
			    vmm->config.interface_count != config->interface_count))
		result = error_set(err, EINVAL, "section config: an id is there twice");
	if (result == 0 && config->has_serial && !vmm->config.has_serial)
		result = vmm_set_serial(vmm, &config->serial, err);
	return result;
}

static int load(struct vmm *vmm, const struct snapshot_load_config *load_config,
		const struct machine_restore_request *wanted, struct error *err)
{
	struct machine_restore_request restore = *wanted;
	struct vm_config config = { 0 };
	struct state_file state;
	int result = state_file_open(&state, load_config->snapshot_path, err);

	if (result < 0)
		return result;
	result = machine_read_config(&state, &config, err);
	if (result == 0)
		result = vmm_override_config(&config, load_config, err);
	if (result == 0)
		result = vmm_take_config(vmm, &config, err);
	config_vm_clear(&config);
	restore.state = &state;
	if (result == 0)
		result = vmm_take_machine(vmm, err);
	/* What is refused up to here has not touched a machine that waits. */
	if (result == 0) {
		result = machine_restore(vmm->machine, &vmm->config, &restore, err);
		if (result == 0)
			result = vmm_enter_filters(vmm, err);
		if (result < 0)
			vmm_drop_machine(vmm);
	}
	state_file_close(&state);
	return result;
}

/* What a load that failed has configured: as if nobody had asked. */
static void forget_config(struct vmm *vmm, bool had_serial)
{
	struct vm_config *config = &vmm->config;

	config_clear(&config_boot_source_object, &config->boot_source);
	config_clear(&config_machine_object, &config->machine);
	for (unsigned int i = 0; i < config->drive_count; i++)
		config_clear(&config_drive_object, &config->drives[i]);
	for (unsigned int i = 0; i < config->interface_count; i++)
		config_clear(&config_network_interface_object, &config->interfaces[i]);
	if (!had_serial)
		config_clear(&config_serial_object, &config->serial);
	config->has_boot_source = false;
	config->has_serial = had_serial;
	config->drive_count = config->interface_count = 0;
	config_machine_defaults(&config->machine);
	vmm->machine_configured = false;
}

/*
 * Clients of this API count on the end of a process whose load has failed. One that was told to
 * wait with a prepared machine is there for the next request, too.
 */
static void on_failed_load(struct vmm *vmm, bool had_serial, const struct error *err)
{
	if (vmm->prepares) {
		log_error(vmm->log, "%s", err->message);
		forget_config(vmm, had_serial);
		return;
	}
	log_error(vmm->log, "%s; the machine is half made, this process ends", err->message);
	loop_stop(vmm->loop, VMM_EXIT_BAD_CONFIG);
}

int vmm_load_snapshot(struct vmm *vmm, const struct snapshot_load_config *config, struct error *err)
{
	struct machine_restore_request restore = {
		.memory_path = config->has_mem_backend ? config->mem_backend.backend_path
						       : config->mem_file_path,
		.uffd = uses_uffd(config),
		.working_set_path = config->working_set_path,
		.clock_realtime = config->clock_realtime,
	};
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
	bool had_serial = vmm->config.has_serial;
	int result = vmm_need_not_started(vmm, err);

	if (result == 0)
		result = check_unconfigured(vmm, err);
	if (result == 0)
		result = check_backend(config, err);
	if (result == 0)
		result = check_twice(config, err);
	if (result < 0)
		return result;
	startup_mark(vmm->options.startup_trace, STARTUP_CONFIG);
	result = load(vmm, config, &restore, err);
	if (result < 0) {
		result = error_prefix(err, "Cannot load the snapshot %s", config->snapshot_path);
		on_failed_load(vmm, had_serial, err);
		return result;
	}
	startup_mark(vmm->options.startup_trace, STARTUP_FILTERS);
	if (config->resume_vm)
		machine_resume(vmm->machine);
	vmm->state = config->resume_vm ? VMM_RUNNING : VMM_PAUSED;
	log_info(vmm->log, "snapshot %s loaded in %llu us", config->snapshot_path,
		 (unsigned long long)((clock_ns(CLOCK_MONOTONIC) - start_ns) / 1000));
	vmm_begin_metrics(vmm);
	return 0;
}

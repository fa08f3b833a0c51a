/* A double of vmm: see vmm_mock.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vmm_mock.h"

void vmm_mock_init(struct vmm *vmm)
{
	memset(vmm, 0, sizeof(*vmm));
	log_init(&vmm->log);
	vmm->log.level = LOG_OFF;
	config_machine_defaults(&vmm->config.machine);
}

void vmm_mock_clear(struct vmm *vmm)
{
	config_vm_clear(&vmm->config);
}

static int note(struct vmm *vmm, struct error *err, const char *format, ...) PRINTF_FORMAT(3, 4);
static int note(struct vmm *vmm, struct error *err, const char *format, ...)
{
	size_t used = strlen(vmm->calls);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(vmm->calls + used, sizeof(vmm->calls) - used, format, arguments);
	va_end(arguments);
	return vmm->failure ? error_set(err, EINVAL, "%s", vmm->failure) : 0;
}

enum vmm_state vmm_state(const struct vmm *vmm)
{
	return vmm->state;
}

const char *vmm_state_name(enum vmm_state state)
{
	static const char *const names[] = { "Not started", "Running", "Paused" };

	return names[state];
}

const char *vmm_id(const struct vmm *vmm)
{
	return "mock";
}

const struct vm_config *vmm_config(const struct vmm *vmm)
{
	return &vmm->config;
}

struct log *vmm_log(struct vmm *vmm)
{
	return &vmm->log;
}

static const char *text(const char *string)
{
	return string ? string : "-";
}

static int note_bucket(struct vmm *vmm, struct error *err, const char *name,
		       const struct token_bucket_config *bucket)
{
	return note(vmm, err, "%s %llu %llu %llu\n", name, (unsigned long long)bucket->size,
		    (unsigned long long)bucket->refill_time,
		    (unsigned long long)bucket->one_time_burst);
}

int vmm_set_boot_source(struct vmm *vmm, const struct boot_source_config *config, struct error *err)
{
	int result = note(vmm, err, "boot_source %s %s %s\n", config->kernel_image_path,
			  text(config->initrd_path), text(config->boot_args));

	if (result == 0) {
		vmm->config.has_boot_source = true;
		result = config_copy(&config_boot_source_object, &vmm->config.boot_source, config);
	}
	return result;
}

int vmm_set_machine(struct vmm *vmm, const struct machine_config *config, struct error *err)
{
	int result =
		note(vmm, err, "machine %llu %llu smt=%d dirty=%d huge=%d template=%s\n",
		     (unsigned long long)config->vcpu_count,
		     (unsigned long long)config->mem_size_mib, config->smt,
		     config->track_dirty_pages, config->huge_pages, text(config->cpu_template));

	if (result == 0)
		result = config_copy(&config_machine_object, &vmm->config.machine, config);
	return result;
}

int vmm_set_drive(struct vmm *vmm, const struct drive_config *config, struct error *err)
{
	int result = note(vmm, err, "drive %s %s root=%d ro=%d partuuid=%s cache=%d engine=%d\n",
			  config->drive_id, config->path_on_host, config->is_root_device,
			  config->is_read_only, text(config->partuuid), config->cache_type,
			  config->io_engine);

	if (result == 0 && vmm->config.drive_count < CONFIG_MAX_DRIVES)
		result = config_copy(&config_drive_object,
				     &vmm->config.drives[vmm->config.drive_count++], config);
	return result;
}

int vmm_set_network_interface(struct vmm *vmm, const struct network_interface_config *config,
			      struct error *err)
{
	int result = note(vmm, err, "interface %s %s mac=%s mtu=%llu\n", config->iface_id,
			  config->host_dev_name, text(config->guest_mac),
			  (unsigned long long)config->mtu);

	if (result == 0 && vmm->config.interface_count < CONFIG_MAX_INTERFACES)
		result =
			config_copy(&config_network_interface_object,
				    &vmm->config.interfaces[vmm->config.interface_count++], config);
	return result;
}

int vmm_set_serial(struct vmm *vmm, const struct serial_config *config, struct error *err)
{
	return note(vmm, err, "serial %s\n", text(config->serial_out_path));
}

int vmm_set_logger(struct vmm *vmm, const struct logger_config *config, struct error *err)
{
	return note(vmm, err, "logger %s %s level=%d origin=%d %s\n", text(config->log_path),
		    text(config->level), config->show_level, config->show_log_origin,
		    text(config->module));
}

int vmm_set_metrics(struct vmm *vmm, const struct metrics_config *config, struct error *err)
{
	return note(vmm, err, "metrics %s\n", config->metrics_path);
}

int vmm_patch_drive(struct vmm *vmm, const char *drive_id, const struct drive_update_config *update,
		    struct error *err)
{
	const struct rate_limiter_config *limiter = &update->rate_limiter;
	int result = note(vmm, err, "patch_drive %s %s\n", drive_id, text(update->path_on_host));

	if (result == 0 && limiter->has_bandwidth)
		result = note_bucket(vmm, err, "bandwidth", &limiter->bandwidth);
	if (result == 0 && limiter->has_ops)
		result = note_bucket(vmm, err, "ops", &limiter->ops);
	return result;
}

int vmm_patch_network_interface(struct vmm *vmm, const char *iface_id,
				const struct network_interface_update_config *update,
				struct error *err)
{
	int result = note(vmm, err, "patch_interface %s\n", iface_id);

	if (result == 0 && update->rx_rate_limiter.has_bandwidth)
		result = note_bucket(vmm, err, "rx bandwidth", &update->rx_rate_limiter.bandwidth);
	if (result == 0 && update->tx_rate_limiter.has_ops)
		result = note_bucket(vmm, err, "tx ops", &update->tx_rate_limiter.ops);
	return result;
}

int vmm_start(struct vmm *vmm, struct error *err)
{
	return note(vmm, err, "start\n");
}

int vmm_pause(struct vmm *vmm, struct error *err)
{
	return note(vmm, err, "pause\n");
}

int vmm_resume(struct vmm *vmm, struct error *err)
{
	return note(vmm, err, "resume\n");
}

int vmm_create_snapshot(struct vmm *vmm, const struct snapshot_create_config *config,
			struct error *err)
{
	return note(vmm, err, "snapshot %s %s type=%d\n", config->snapshot_path,
		    config->mem_file_path, config->snapshot_type);
}

int vmm_load_snapshot(struct vmm *vmm, const struct snapshot_load_config *config, struct error *err)
{
	int result = note(
		vmm, err, "load %s %s backend=%s,%d resume=%d dirty=%d realtime=%d huge=%d,%d\n",
		config->snapshot_path, text(config->mem_file_path),
		config->has_mem_backend ? config->mem_backend.backend_path : "-",
		config->mem_backend.backend_type, config->resume_vm, config->track_dirty_pages,
		config->clock_realtime, config->has_huge_pages, config->huge_pages);

	for (unsigned int i = 0; result == 0 && i < config->network_override_count; i++)
		result = note(vmm, err, "net %s %s\n", config->network_overrides[i].iface_id,
			      config->network_overrides[i].host_dev_name);
	for (unsigned int i = 0; result == 0 && i < config->drive_override_count; i++)
		result = note(vmm, err, "drive %s %s\n", config->drive_overrides[i].drive_id,
			      config->drive_overrides[i].path_on_host);
	return result;
}

int vmm_send_ctrl_alt_del(struct vmm *vmm, struct error *err)
{
	return note(vmm, err, "ctrl_alt_del\n");
}

int vmm_flush_metrics(struct vmm *vmm, struct error *err)
{
	static const struct vmm_fork_report report = { .process_id = 7,
						       .pause_us = 300,
						       .ready_us = 2000 };
	struct error failure = { 0 };

	if (vmm->on_forked) {
		if (vmm->failure)
			error_set(&failure, EINVAL, "%s", vmm->failure);
		vmm->on_forked(vmm->fork_context, &report, vmm->failure ? &failure : NULL);
		vmm->on_forked = NULL;
	}
	return note(vmm, err, "flush_metrics\n");
}

int vmm_fork(struct vmm *vmm, const struct snapshot_fork_config *config,
	     void (*on_forked)(void *context, const struct vmm_fork_report *report,
			       const struct error *err),
	     void *context, struct error *err)
{
	int result = note(vmm, err,
			  "fork %s id=%s serial=%s log=%s metrics=%s resume=%d net=%u drives=%u\n",
			  config->api_socket_path, text(config->id), text(config->serial_out_path),
			  text(config->log_path), text(config->metrics_path), config->resume_vm,
			  config->network_override_count, config->drive_override_count);

	vmm->on_forked = result == 0 ? on_forked : NULL;
	vmm->fork_context = context;
	return result;
}

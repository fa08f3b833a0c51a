/*
 * The tables: each JSON object's fields, declared once. api/openapi.yaml says the same to clients,
 * and a test holds one against the other.
 */
#include "config_private.h"

static const char *const boot_protocol_names[] = { "Auto", "Linux", "PVH", NULL };
static const char *const cache_type_names[] = { "Unsafe", "Writeback", NULL };
static const char *const io_engine_names[] = { "Sync", "Async", NULL };
static const char *const huge_pages_names[] = { "None", "Transparent", "2M", NULL };
static const char *const cpu_template_names[] = { "None", NULL };
static const char *const log_level_names[] = { "Error", "Warning", "Info", "Debug",
					       "Trace", "Off",	   NULL };
static const char *const action_type_names[] = { "InstanceStart", "SendCtrlAltDel", "FlushMetrics",
						 NULL };
static const char *const vm_state_names[] = { "Paused", "Resumed", NULL };

#define OBJECT(identifier, key, type, table)       \
	const struct config_object identifier = {  \
		.name = key,                       \
		.size_bytes = sizeof(struct type), \
		.fields = table,                   \
		.field_count = ARRAY_SIZE(table),  \
	}

#define BOOT_SOURCE(member) .name = #member, .offset = offsetof(struct boot_source_config, member)
static const struct config_field boot_source_fields[] = {
	{ BOOT_SOURCE(kernel_image_path), .type = CONFIG_STRING, .required = true },
	{ BOOT_SOURCE(initrd_path), .type = CONFIG_STRING, .nullable = true },
	{ BOOT_SOURCE(boot_args), .type = CONFIG_STRING, .nullable = true },
	{ BOOT_SOURCE(boot_protocol), .type = CONFIG_ENUM, .nullable = true,
	  .names = boot_protocol_names },
};
OBJECT(config_boot_source_object, "boot-source", boot_source_config, boot_source_fields);

#define MACHINE(member) .name = #member, .offset = offsetof(struct machine_config, member)
static const struct config_field machine_fields[] = {
	{ MACHINE(vcpu_count), .type = CONFIG_UINT, .required = true, .min = 1,
	  .max = LAYOUT_MAX_VCPUS, .range_message = CONFIG_VCPU_COUNT_MESSAGE },
	{ MACHINE(mem_size_mib), .type = CONFIG_UINT, .required = true,
	  .min = CONFIG_MIN_MEMORY_MIB, .max = CONFIG_MAX_MEMORY_MIB,
	  .zero_message = CONFIG_MEMORY_SIZE_MESSAGE },
	{ MACHINE(smt), .type = CONFIG_BOOL },
	{ MACHINE(track_dirty_pages), .type = CONFIG_BOOL },
	{ MACHINE(huge_pages), .type = CONFIG_ENUM, .names = huge_pages_names },
	{ MACHINE(cpu_template), .type = CONFIG_STRING, .nullable = true, .deprecated = true,
	  .names = cpu_template_names },
};
OBJECT(config_machine_object, "machine-config", machine_config, machine_fields);

#define BUCKET(member) .name = #member, .offset = offsetof(struct token_bucket_config, member)
static const struct config_field token_bucket_fields[] = {
	{ BUCKET(size), .type = CONFIG_UINT, .required = true, .max = INT64_MAX },
	{ BUCKET(refill_time), .type = CONFIG_UINT, .required = true,
	  .max = CONFIG_MAX_REFILL_TIME_MS },
	{ BUCKET(one_time_burst), .type = CONFIG_UINT, .nullable = true, .max = INT64_MAX },
};
OBJECT(config_token_bucket_object, "token bucket", token_bucket_config, token_bucket_fields);

/* An object within `type`; whether it is there says the bool has_<member>. */
#define WITHIN(type_, member, table)                                 \
	.type = CONFIG_OBJECT, .nullable = true, .object = &(table), \
	.offset = offsetof(struct type_, member),                    \
	.present_offset = offsetof(struct type_, has_##member)

static const struct config_field rate_limiter_fields[] = {
	{ .name = "bandwidth", WITHIN(rate_limiter_config, bandwidth, config_token_bucket_object) },
	{ .name = "ops", WITHIN(rate_limiter_config, ops, config_token_bucket_object) },
};
OBJECT(config_rate_limiter_object, "rate limiter", rate_limiter_config, rate_limiter_fields);

#define DRIVE(member) .name = #member, .offset = offsetof(struct drive_config, member)
static const struct config_field drive_fields[] = {
	{ DRIVE(drive_id), .type = CONFIG_STRING, .required = true },
	{ DRIVE(path_on_host), .type = CONFIG_STRING, .required = true },
	{ DRIVE(is_root_device), .type = CONFIG_BOOL, .required = true },
	{ DRIVE(is_read_only), .type = CONFIG_BOOL, .nullable = true },
	{ DRIVE(partuuid), .type = CONFIG_STRING, .nullable = true },
	{ DRIVE(cache_type), .type = CONFIG_ENUM, .nullable = true, .names = cache_type_names },
	{ DRIVE(io_engine), .type = CONFIG_ENUM, .nullable = true, .names = io_engine_names },
	{ .name = "rate_limiter", WITHIN(drive_config, rate_limiter, config_rate_limiter_object) },
	{ .name = "socket",
	  .type = CONFIG_REFUSED,
	  .nullable = true,
	  .refusal = "The field `socket` asks for a vhost-user device: " CONFIG_NOT_EMULATED },
};
OBJECT(config_drive_object, "drives", drive_config, drive_fields);

#define DRIVE_UPDATE(member) .name = #member, .offset = offsetof(struct drive_update_config, member)
static const struct config_field drive_update_fields[] = {
	{ DRIVE_UPDATE(drive_id), .type = CONFIG_STRING, .nullable = true },
	{ DRIVE_UPDATE(path_on_host), .type = CONFIG_STRING, .nullable = true },
	{ .name = "rate_limiter",
	  WITHIN(drive_update_config, rate_limiter, config_rate_limiter_object) },
};
OBJECT(config_drive_update_object, "drive update", drive_update_config, drive_update_fields);

#define INTERFACE(member) \
	.name = #member, .offset = offsetof(struct network_interface_config, member)
static const struct config_field network_interface_fields[] = {
	{ INTERFACE(iface_id), .type = CONFIG_STRING, .required = true },
	{ INTERFACE(host_dev_name), .type = CONFIG_STRING, .required = true },
	{ INTERFACE(guest_mac), .type = CONFIG_STRING, .nullable = true },
	{ INTERFACE(mtu), .type = CONFIG_UINT, .nullable = true, .min = 68, .max = 65535,
	  .zero_is_absent = true },
	{ .name = "rx_rate_limiter",
	  WITHIN(network_interface_config, rx_rate_limiter, config_rate_limiter_object) },
	{ .name = "tx_rate_limiter",
	  WITHIN(network_interface_config, tx_rate_limiter, config_rate_limiter_object) },
};
OBJECT(config_network_interface_object, "network-interfaces", network_interface_config,
       network_interface_fields);

static const struct config_field network_interface_update_fields[] = {
	{ .name = "iface_id",
	  .type = CONFIG_STRING,
	  .nullable = true,
	  .offset = offsetof(struct network_interface_update_config, iface_id) },
	{ .name = "rx_rate_limiter",
	  WITHIN(network_interface_update_config, rx_rate_limiter, config_rate_limiter_object) },
	{ .name = "tx_rate_limiter",
	  WITHIN(network_interface_update_config, tx_rate_limiter, config_rate_limiter_object) },
};
OBJECT(config_network_interface_update_object, "network interface update",
       network_interface_update_config, network_interface_update_fields);

#define SERIAL(member) .name = #member, .offset = offsetof(struct serial_config, member)
static const struct config_field serial_fields[] = {
	{ SERIAL(serial_out_path), .type = CONFIG_STRING, .nullable = true },
	/* Clients of this API give one bucket, that of bytes; both buckets are Mayfly's own. */
	{ .name = "rate_limiter",
	  .by_members = true,
	  WITHIN(serial_config, bucket, config_token_bucket_object) },
	{ .name = "rate_limiter",
	  .unless = &config_token_bucket_object,
	  WITHIN(serial_config, rate_limiter, config_rate_limiter_object) },
};
OBJECT(config_serial_object, "serial", serial_config, serial_fields);

#define LOGGER(member) .name = #member, .offset = offsetof(struct logger_config, member)
static const struct config_field logger_fields[] = {
	{ LOGGER(log_path), .type = CONFIG_STRING, .nullable = true },
	{ LOGGER(level), .type = CONFIG_STRING, .nullable = true, .names = log_level_names },
	{ LOGGER(show_level), .type = CONFIG_BOOL, .nullable = true },
	{ LOGGER(show_log_origin), .type = CONFIG_BOOL, .nullable = true },
	{ LOGGER(module), .type = CONFIG_STRING, .nullable = true },
};
OBJECT(config_logger_object, "logger", logger_config, logger_fields);

#define METRICS(member) .name = #member, .offset = offsetof(struct metrics_config, member)
static const struct config_field metrics_fields[] = {
	{ METRICS(metrics_path), .type = CONFIG_STRING, .required = true },
	{ .name = "emit_id",
	  .type = CONFIG_REFUSED,
	  .nullable = true,
	  .refusal = "The field `emit_id` is " CONFIG_NOT_YET "." },
	{ .name = "properties",
	  .type = CONFIG_REFUSED,
	  .nullable = true,
	  .refusal = "The field `properties` is " CONFIG_NOT_YET "." },
};
OBJECT(config_metrics_object, "metrics", metrics_config, metrics_fields);

#define ACTION(member) .name = #member, .offset = offsetof(struct action_config, member)
static const struct config_field action_fields[] = {
	{ ACTION(action_type), .type = CONFIG_ENUM, .required = true, .names = action_type_names },
};
OBJECT(config_action_object, "action", action_config, action_fields);

#define VM_STATE(member) .name = #member, .offset = offsetof(struct vm_state_config, member)
static const struct config_field vm_state_fields[] = {
	{ VM_STATE(state), .type = CONFIG_ENUM, .required = true, .names = vm_state_names },
};
OBJECT(config_vm_state_object, "microVM state", vm_state_config, vm_state_fields);

static const char *const snapshot_type_names[] = { "Full", "Diff", NULL };
static const char *const mem_backend_type_names[] = { "File", "Uffd", NULL };

#define CREATE(member) .name = #member, .offset = offsetof(struct snapshot_create_config, member)
static const struct config_field snapshot_create_fields[] = {
	{ CREATE(snapshot_path), .type = CONFIG_STRING, .required = true },
	{ CREATE(mem_file_path), .type = CONFIG_STRING, .required = true },
	{ CREATE(snapshot_type), .type = CONFIG_ENUM, .nullable = true,
	  .names = snapshot_type_names },
};
OBJECT(config_snapshot_create_object, "snapshot", snapshot_create_config, snapshot_create_fields);

#define BACKEND(member) .name = #member, .offset = offsetof(struct mem_backend_config, member)
static const struct config_field mem_backend_fields[] = {
	{ BACKEND(backend_type), .type = CONFIG_ENUM, .required = true,
	  .names = mem_backend_type_names },
	{ BACKEND(backend_path), .type = CONFIG_STRING, .required = true },
};
OBJECT(config_mem_backend_object, "memory backend", mem_backend_config, mem_backend_fields);

static const struct config_field network_override_fields[] = {
	{ .name = "iface_id",
	  .type = CONFIG_STRING,
	  .required = true,
	  .offset = offsetof(struct network_override_config, iface_id) },
	{ .name = "host_dev_name",
	  .type = CONFIG_STRING,
	  .required = true,
	  .offset = offsetof(struct network_override_config, host_dev_name) },
};
OBJECT(config_network_override_object, "network override", network_override_config,
       network_override_fields);

static const struct config_field drive_override_fields[] = {
	{ .name = "drive_id",
	  .type = CONFIG_STRING,
	  .required = true,
	  .offset = offsetof(struct drive_override_config, drive_id) },
	{ .name = "path_on_host",
	  .type = CONFIG_STRING,
	  .required = true,
	  .offset = offsetof(struct drive_override_config, path_on_host) },
};
OBJECT(config_drive_override_object, "drive override", drive_override_config,
       drive_override_fields);

#define LOAD(member) .name = #member, .offset = offsetof(struct snapshot_load_config, member)
#define OVERRIDES(type_, list, count, table)                                                \
	.name = #list, .offset = offsetof(struct type_, list), .type = CONFIG_LIST,         \
	.nullable = true, .object = &(table), .max = ARRAY_SIZE(((struct type_ *)0)->list), \
	.present_offset = offsetof(struct type_, count)
static const struct config_field snapshot_load_fields[] = {
	{ LOAD(snapshot_path), .type = CONFIG_STRING, .required = true },
	{ LOAD(mem_file_path), .type = CONFIG_STRING, .nullable = true, .deprecated = true },
	{ .name = "mem_backend",
	  WITHIN(snapshot_load_config, mem_backend, config_mem_backend_object) },
	{ LOAD(working_set_path), .type = CONFIG_STRING, .nullable = true },
	{ LOAD(resume_vm), .type = CONFIG_BOOL },
	{ LOAD(track_dirty_pages), .type = CONFIG_BOOL },
	{ LOAD(clock_realtime), .type = CONFIG_BOOL },
	{ LOAD(huge_pages), .type = CONFIG_ENUM, .nullable = true, .names = huge_pages_names,
	  .present_offset = offsetof(struct snapshot_load_config, has_huge_pages) },
	{ OVERRIDES(snapshot_load_config, network_overrides, network_override_count,
		    config_network_override_object) },
	{ OVERRIDES(snapshot_load_config, drive_overrides, drive_override_count,
		    config_drive_override_object) },
};
OBJECT(config_snapshot_load_object, "snapshot load", snapshot_load_config, snapshot_load_fields);

#define FORK(member) .name = #member, .offset = offsetof(struct snapshot_fork_config, member)
static const struct config_field snapshot_fork_fields[] = {
	{ FORK(api_socket_path), .type = CONFIG_STRING, .required = true },
	{ FORK(id), .type = CONFIG_STRING, .nullable = true },
	{ FORK(serial_out_path), .type = CONFIG_STRING, .nullable = true },
	{ FORK(log_path), .type = CONFIG_STRING, .nullable = true },
	{ FORK(metrics_path), .type = CONFIG_STRING, .nullable = true },
	{ FORK(resume_vm), .type = CONFIG_BOOL },
	{ OVERRIDES(snapshot_fork_config, network_overrides, network_override_count,
		    config_network_override_object) },
	{ OVERRIDES(snapshot_fork_config, drive_overrides, drive_override_count,
		    config_drive_override_object) },
};
OBJECT(config_snapshot_fork_object, "snapshot fork", snapshot_fork_config, snapshot_fork_fields);

void config_machine_defaults(struct machine_config *machine)
{
	*machine = (struct machine_config) {
		.vcpu_count = 1,
		.mem_size_mib = 128,
		.huge_pages = HUGE_PAGES_NONE,
	};
}

void config_drive_defaults(struct drive_config *drive)
{
	*drive = (struct drive_config) {
		.cache_type = CACHE_UNSAFE,
		.io_engine = IO_ENGINE_SYNC,
	};
}

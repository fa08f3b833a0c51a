/*
 * JSON configuration with hostile text: each table, the checks and the config file. What is
 * accepted and written again must be accepted again and be the same; what is refused must leave its
 * struct untouched and say why.
 */
#include <string.h>

#include "mayfly/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

union any_config {
	struct boot_source_config boot_source;
	struct machine_config machine;
	struct drive_config drive;
	struct drive_update_config drive_update;
	struct network_interface_config interface;
	struct network_interface_update_config interface_update;
	struct serial_config serial;
	struct logger_config logger;
	struct metrics_config metrics;
	struct action_config action;
	struct vm_state_config vm_state;
	struct snapshot_create_config snapshot_create;
	struct snapshot_load_config snapshot_load;
	struct snapshot_fork_config snapshot_fork;
};

static void require(bool condition)
{
	if (!condition)
		__builtin_trap();
}

static void run_checks(const struct config_object *object, const union any_config *config)
{
	struct error err = { 0 };
	int result = 0;

	if (object == &config_machine_object)
		result = config_machine_check(&config->machine, &err);
	else if (object == &config_drive_object)
		result = config_drive_check(&config->drive, &err);
	else if (object == &config_network_interface_object)
		result = config_network_interface_check(&config->interface, &err);
	else if (object == &config_logger_object)
		result = config_logger_check(&config->logger, &err);
	require((result < 0) == (err.message[0] != '\0'));
}

static void run_object(const struct config_object *object, const json_t *json, bool partial)
{
	static const union any_config zero;
	union any_config first, second, copy;
	struct error err = { 0 };
	json_t *written, *again;

	memset(&first, 0, sizeof(first));
	memset(&second, 0, sizeof(second));
	memset(&copy, 0, sizeof(copy));
	if (config_parse_object(object, json, partial, &first, &err) < 0) {
		require(err.message[0] != '\0');
		require(memcmp(&first, &zero, sizeof(first)) == 0);
		return;
	}
	if (!partial)
		run_checks(object, &first);
	/* What a PATCH leaves out may be outside its range here, since `first` had no defaults. */
	if (!partial || object == &config_drive_update_object) {
		written = config_format_object(object, &first);
		require(written != NULL);
		require(config_parse_object(object, written, partial, &second, &err) == 0);
		require(config_copy(object, &copy, &second) == 0);
		again = config_format_object(object, &copy);
		require(json_equal(written, again));
		json_decref(written);
		json_decref(again);
	}
	config_clear(object, &first);
	config_clear(object, &second);
	config_clear(object, &copy);
}

static void run_vm(const json_t *json)
{
	struct vm_config first, second;
	struct error err = { 0 };
	json_t *written, *again;

	if (config_parse_vm(json, NULL, &first, &err) < 0) {
		require(err.message[0] != '\0');
		return;
	}
	written = config_format_vm(&first);
	require(config_parse_vm(written, NULL, &second, &err) == 0);
	again = config_format_vm(&second);
	require(json_equal(written, again));
	json_decref(written);
	json_decref(again);
	config_vm_clear(&first);
	config_vm_clear(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct config_object *const objects[] = {
		&config_boot_source_object,
		&config_machine_object,
		&config_drive_object,
		&config_drive_update_object,
		&config_network_interface_object,
		&config_network_interface_update_object,
		&config_serial_object,
		&config_logger_object,
		&config_metrics_object,
		&config_action_object,
		&config_vm_state_object,
		&config_snapshot_create_object,
		&config_snapshot_load_object,
		&config_snapshot_fork_object,
	};
	struct error err = { 0 };
	json_t *json = config_parse_json((const char *)data, size, &err);

	if (!json) {
		require(err.message[0] != '\0');
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(objects); i++) {
		run_object(objects[i], json, false);
		run_object(objects[i], json, true);
	}
	run_vm(json);
	json_decref(json);
	return 0;
}

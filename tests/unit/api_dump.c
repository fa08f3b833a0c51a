/*
 * Prints as JSON what the API is: the configuration's tables (each field with its type, range and
 * default) and the routes. tests/integration/test_openapi.py holds it against api/openapi.yaml.
 */
#include <stdio.h>

#include "api/routes.h"
#include "mayfly/config.h"

static const char *const type_names[] = {
	[CONFIG_STRING] = "string", [CONFIG_BOOL] = "boolean",	  [CONFIG_UINT] = "integer",
	[CONFIG_ENUM] = "enum",	    [CONFIG_REFUSED] = "refused", [CONFIG_OBJECT] = "object",
	[CONFIG_LIST] = "array",
};

static json_t *dump_field(const struct config_field *field, json_t *default_value)
{
	json_t *json = json_pack("{s:s, s:b, s:b, s:b}", "type", type_names[field->type],
				 "required", field->required, "nullable", field->nullable,
				 "deprecated", field->deprecated);

	if (field->type == CONFIG_UINT) {
		json_object_set_new(json, "minimum", json_integer((json_int_t)field->min));
		json_object_set_new(json, "maximum", json_integer((json_int_t)field->max));
	}
	if (field->names) {
		json_t *names = json_array();

		for (size_t i = 0; field->names[i]; i++)
			json_array_append_new(names, json_string(field->names[i]));
		json_object_set_new(json, "enum", names);
	}
	if (field->type == CONFIG_LIST)
		json_object_set_new(json, "maxItems", json_integer((json_int_t)field->max));
	if (field->object)
		json_object_set_new(json, "objects", json_pack("[s]", field->object->name));
	if (default_value && !field->required)
		json_object_set(json, "default", default_value);
	return json;
}

static void dump_object(json_t *all, const struct config_object *object, const void *defaults)
{
	json_t *fields = json_object(), *values = config_format_object(object, defaults);

	for (size_t i = 0; i < object->field_count; i++) {
		const struct config_field *field = &object->fields[i];
		json_t *same_name = json_object_get(fields, field->name);

		/* Two forms of one field. */
		if (same_name) {
			json_array_append_new(json_object_get(same_name, "objects"),
					      json_string(field->object->name));
			continue;
		}
		json_object_set_new(fields, field->name,
				    dump_field(field, json_object_get(values, field->name)));
	}
	json_decref(values);
	json_object_set_new(all, object->name, fields);
}

static json_t *dump_routes(void)
{
	static const char *const method_names[] = {
		[HTTP_GET] = "get", [HTTP_PUT] = "put", [HTTP_PATCH] = "patch"
	};
	json_t *routes = json_array();

	for (size_t i = 0; i < api_route_count; i++) {
		const struct api_route *route = &api_routes[i];
		json_t *json =
			json_pack("{s:s, s:s, s:b, s:b}", "method", method_names[route->method],
				  "path", route->path[0] ? route->path : "/", "has_id",
				  route->has_id, "partial", route->partial);

		if (route->body)
			json_object_set_new(json, "body", json_string(route->body->name));
		json_array_append_new(routes, json);
	}
	return routes;
}

int main(void)
{
	static const struct vm_config zero;
	struct action_config action = { ACTION_INSTANCE_START };
	struct vm_state_config state = { VM_STATE_PAUSED };
	struct drive_update_config drive_update = { 0 };
	struct network_interface_update_config interface_update = { 0 };
	struct rate_limiter_config rate_limiter = { 0 };
	struct token_bucket_config token_bucket = { 0 };
	struct snapshot_create_config create = { .snapshot_type = SNAPSHOT_FULL };
	struct snapshot_load_config load = { 0 };
	struct snapshot_fork_config fork = { 0 };
	struct machine_config machine;
	struct drive_config drive;
	json_t *objects = json_object(),
	       *all = json_pack("{s:o, s:o}", "objects", objects, "routes", dump_routes());

	config_machine_defaults(&machine);
	config_drive_defaults(&drive);
	dump_object(objects, &config_boot_source_object, &zero.boot_source);
	dump_object(objects, &config_machine_object, &machine);
	dump_object(objects, &config_drive_object, &drive);
	dump_object(objects, &config_drive_update_object, &drive_update);
	dump_object(objects, &config_network_interface_object, &zero.interfaces[0]);
	dump_object(objects, &config_network_interface_update_object, &interface_update);
	dump_object(objects, &config_rate_limiter_object, &rate_limiter);
	dump_object(objects, &config_token_bucket_object, &token_bucket);
	dump_object(objects, &config_serial_object, &zero.serial);
	dump_object(objects, &config_logger_object, &zero.logger);
	dump_object(objects, &config_metrics_object, &zero.metrics);
	dump_object(objects, &config_action_object, &action);
	dump_object(objects, &config_vm_state_object, &state);
	dump_object(objects, &config_snapshot_create_object, &create);
	dump_object(objects, &config_snapshot_load_object, &load);
	dump_object(objects, &config_snapshot_fork_object, &fork);
	dump_object(objects, &config_mem_backend_object, &load.mem_backend);
	dump_object(objects, &config_network_override_object, &load.network_overrides[0]);
	dump_object(objects, &config_drive_override_object, &load.drive_overrides[0]);
	json_dumpf(all, stdout, JSON_INDENT(1));
	putchar('\n');
	json_decref(all);
	return 0;
}

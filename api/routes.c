/*
 * The resources: which request calls what of vmm, and what is answered. Thin on purpose: a body is
 * parsed through its table (config), vmm decides whether it may be asked now and whether it makes
 * sense, and the outcome is 204, 200 with JSON, or 400 with {"fault_message": ...}.
 *
 * api/openapi.yaml describes the same to clients.
 */
#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "mayfly/api.h"
#include "routes.h"

/* One request on its way through a handler. */
struct api_call {
	const struct api_route *route;
	struct vmm *vmm;
	char path[HTTP_MAX_LINE_BYTES + 1];
	const char *id;		 /* the path's second part, for resources that have one */
	const json_t *body;	 /* PUT and PATCH */
	json_t *answer;		 /* GET; owned */
	struct api_later *later; /* NULL: an answer must be given at once */
	bool answers_later;
	bool deprecated;
};

#define DESERIALIZING "An error occurred when deserializing the json body of a request"
#define EMPTY_PATCH   "Empty PATCH request."

/* The body through its table. Values out of range have sentences of their own, form errors are
 * introduced. */
static int parse_body(struct api_call *call, void *out, struct error *err)
{
	const struct config_object *object = call->route->body;
	int result = config_parse_object(object, call->body, call->route->partial, out, err);

	if (result == -EINVAL)
		return error_prefix(err, DESERIALIZING);
	if (result == 0)
		call->deprecated = config_uses_deprecated(object, call->body);
	return result;
}

static int get_instance(struct api_call *call, struct error *err)
{
	call->answer = json_pack("{s:s, s:s, s:s, s:s}", "id", vmm_id(call->vmm), "state",
				 vmm_state_name(vmm_state(call->vmm)), "vmm_version",
				 MAYFLY_VERSION, "app_name", API_APP_NAME);
	return 0;
}

static int get_version(struct api_call *call, struct error *err)
{
	call->answer = json_pack("{s:s, s:s}", "firecracker_version", API_VERSION, "mayfly_version",
				 MAYFLY_VERSION);
	return 0;
}

static int get_vm_config(struct api_call *call, struct error *err)
{
	call->answer = config_format_vm(vmm_config(call->vmm));
	return 0;
}

static int get_machine_config(struct api_call *call, struct error *err)
{
	call->answer =
		config_format_object(&config_machine_object, &vmm_config(call->vmm)->machine);
	return 0;
}

static int put_action(struct api_call *call, struct error *err)
{
	struct action_config action = { 0 };
	int result = parse_body(call, &action, err);

	if (result < 0)
		return result;
	switch (action.action_type) {
	case ACTION_INSTANCE_START:
		return vmm_start(call->vmm, err);
	case ACTION_SEND_CTRL_ALT_DEL:
		return vmm_send_ctrl_alt_del(call->vmm, err);
	case ACTION_FLUSH_METRICS:
		return vmm_flush_metrics(call->vmm, err);
	}
	return error_set(err, EINVAL, "unknown action");
}

static int put_boot_source(struct api_call *call, struct error *err)
{
	struct boot_source_config config = { 0 };
	int result = parse_body(call, &config, err);

	if (result == 0)
		result = vmm_set_boot_source(call->vmm, &config, err);
	config_clear(&config_boot_source_object, &config);
	return result;
}

static int put_machine_config(struct api_call *call, struct error *err)
{
	struct machine_config config;
	int result;

	config_machine_defaults(&config);
	result = parse_body(call, &config, err);
	if (result == 0)
		result = vmm_set_machine(call->vmm, &config, err);
	config_clear(&config_machine_object, &config);
	return result;
}

/* Whether a PATCH asks for anything: null is the same as absent there. */
static bool changes_something(const json_t *body, const char *except)
{
	const char *name;
	json_t *value;

	if (!json_is_object(body))
		return true;
	/* jansson iterates through a non-const object, but changes nothing. */
	json_object_foreach((json_t *)(uintptr_t)body, name, value)
	{
		if (!json_is_null(value) && (!except || strcmp(name, except) != 0))
			return true;
	}
	return false;
}

static int patch_machine_config(struct api_call *call, struct error *err)
{
	struct machine_config config = { 0 };
	int result;

	if (config_copy(&config_machine_object, &config, &vmm_config(call->vmm)->machine) < 0)
		return error_set(err, ENOMEM, "out of memory for the machine configuration");
	result = parse_body(call, &config, err);
	if (result == 0 && !changes_something(call->body, NULL))
		result = error_set(err, EINVAL, EMPTY_PATCH);
	if (result == 0)
		result = vmm_set_machine(call->vmm, &config, err);
	config_clear(&config_machine_object, &config);
	return result;
}

static int check_ids_agree(const struct api_call *call, const char *id_in_body, struct error *err)
{
	if (strcmp(call->id, id_in_body) != 0)
		return error_set(err, EINVAL,
				 "The id from the path does not match the id from the body!");
	return 0;
}

static int put_drive(struct api_call *call, struct error *err)
{
	struct drive_config config;
	int result;

	config_drive_defaults(&config);
	result = parse_body(call, &config, err);
	if (result == 0)
		result = check_ids_agree(call, config.drive_id, err);
	if (result == 0)
		result = vmm_set_drive(call->vmm, &config, err);
	config_clear(&config_drive_object, &config);
	return result;
}

static int patch_drive(struct api_call *call, struct error *err)
{
	struct drive_update_config config = { 0 };
	int result = parse_body(call, &config, err);

	if (result == 0 && config.drive_id)
		result = check_ids_agree(call, config.drive_id, err);
	if (result == 0 && !changes_something(call->body, "drive_id"))
		result = error_set(err, EINVAL, EMPTY_PATCH);
	if (result == 0)
		result = vmm_patch_drive(call->vmm, call->id, &config, err);
	config_clear(&config_drive_update_object, &config);
	return result;
}

static int put_network_interface(struct api_call *call, struct error *err)
{
	struct network_interface_config config = { 0 };
	int result = parse_body(call, &config, err);

	if (result == 0)
		result = check_ids_agree(call, config.iface_id, err);
	if (result == 0)
		result = vmm_set_network_interface(call->vmm, &config, err);
	config_clear(&config_network_interface_object, &config);
	return result;
}

static int patch_network_interface(struct api_call *call, struct error *err)
{
	struct network_interface_update_config config = { 0 };
	int result = parse_body(call, &config, err);

	if (result == 0 && config.iface_id)
		result = check_ids_agree(call, config.iface_id, err);
	if (result == 0 && !changes_something(call->body, "iface_id"))
		result = error_set(err, EINVAL, EMPTY_PATCH);
	if (result == 0)
		result = vmm_patch_network_interface(call->vmm, call->id, &config, err);
	config_clear(&config_network_interface_update_object, &config);
	return result;
}

static int put_serial(struct api_call *call, struct error *err)
{
	struct serial_config config = { 0 };
	int result = parse_body(call, &config, err);

	if (result == 0)
		result = vmm_set_serial(call->vmm, &config, err);
	config_clear(&config_serial_object, &config);
	return result;
}

/* Unlike other PUTs it leaves alone what it does not name, as clients of this API expect. */
static int put_logger(struct api_call *call, struct error *err)
{
	struct logger_config config = { 0 };
	int result;

	if (config_copy(&config_logger_object, &config, &vmm_config(call->vmm)->logger) < 0)
		return error_set(err, ENOMEM, "out of memory for the logger configuration");
	result = parse_body(call, &config, err);
	if (result == 0)
		result = vmm_set_logger(call->vmm, &config, err);
	config_clear(&config_logger_object, &config);
	return result;
}

static int put_metrics(struct api_call *call, struct error *err)
{
	struct metrics_config config = { 0 };
	int result = parse_body(call, &config, err);

	if (result == 0)
		result = vmm_set_metrics(call->vmm, &config, err);
	config_clear(&config_metrics_object, &config);
	return result;
}

static int patch_vm(struct api_call *call, struct error *err)
{
	struct vm_state_config config = { 0 };
	/* A PATCH by its method only: the one field is required. */
	int result = parse_body(call, &config, err);

	if (result < 0)
		return result;
	return config.state == VM_STATE_PAUSED ? vmm_pause(call->vmm, err)
					       : vmm_resume(call->vmm, err);
}

static int put_snapshot_create(struct api_call *call, struct error *err)
{
	struct snapshot_create_config config = { .snapshot_type = SNAPSHOT_FULL };
	int result = parse_body(call, &config, err);

	if (result == 0)
		result = vmm_create_snapshot(call->vmm, &config, err);
	config_clear(&config_snapshot_create_object, &config);
	return result;
}

static int put_snapshot_load(struct api_call *call, struct error *err)
{
	struct snapshot_load_config config = { 0 };
	int result = parse_body(call, &config, err);

	if (result == 0)
		result = vmm_load_snapshot(call->vmm, &config, err);
	config_clear(&config_snapshot_load_object, &config);
	return result;
}

static json_t *format_report(const struct vmm_fork_report *report)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "pid", (json_int_t)report->process_id, "pause_us",
			 (json_int_t)report->pause_us, "copied_bytes",
			 (json_int_t)report->copied_bytes, "ready_us",
			 (json_int_t)report->ready_us);
}

static void on_forked(void *context, const struct vmm_fork_report *report, const struct error *err)
{
	struct api_later *later = context;
	struct http_response response = { 0 };

	if (err)
		answer_error(&response, 400, "fault_message", err->message);
	else
		answer_json(&response, format_report(report));
	later->on_answer(later, &response);
}

static int put_snapshot_fork(struct api_call *call, struct error *err)
{
	struct snapshot_fork_config config = { 0 };
	int result = parse_body(call, &config, err);

	if (result == 0 && !call->later)
		result = error_set(err, ENOTSUP, "nobody waits for an answer that takes longer");
	if (result == 0)
		result = vmm_fork(call->vmm, &config, on_forked, call->later, err);
	call->answers_later = result == 0;
	config_clear(&config_snapshot_fork_object, &config);
	return result;
}

const struct api_route api_routes[] = {
	{ HTTP_GET, "", get_instance },
	{ HTTP_GET, "/version", get_version },
	{ HTTP_PUT, "/actions", put_action, &config_action_object },
	{ HTTP_PUT, "/boot-source", put_boot_source, &config_boot_source_object },
	{ HTTP_GET, "/machine-config", get_machine_config },
	{ HTTP_PUT, "/machine-config", put_machine_config, &config_machine_object },
	{ HTTP_PATCH, "/machine-config", patch_machine_config, &config_machine_object,
	  .partial = true },
	{ HTTP_PUT, "/drives", put_drive, &config_drive_object, .has_id = true },
	{ HTTP_PATCH, "/drives", patch_drive, &config_drive_update_object, .has_id = true,
	  .partial = true },
	{ HTTP_PUT, "/network-interfaces", put_network_interface, &config_network_interface_object,
	  .has_id = true },
	{ HTTP_PATCH, "/network-interfaces", patch_network_interface,
	  &config_network_interface_update_object, .has_id = true, .partial = true },
	{ HTTP_PUT, "/serial", put_serial, &config_serial_object },
	{ HTTP_PUT, "/logger", put_logger, &config_logger_object },
	{ HTTP_PUT, "/metrics", put_metrics, &config_metrics_object },
	{ HTTP_PATCH, "/vm", patch_vm, &config_vm_state_object },
	{ HTTP_GET, "/vm/config", get_vm_config },
	{ HTTP_PUT, "/snapshot/create", put_snapshot_create, &config_snapshot_create_object },
	{ HTTP_PUT, "/snapshot/fork", put_snapshot_fork, &config_snapshot_fork_object },
	{ HTTP_PUT, "/snapshot/load", put_snapshot_load, &config_snapshot_load_object },
};

const size_t api_route_count = ARRAY_SIZE(api_routes);

/* Resources that clients of this API know and that are refused, with all that lies below them. */
static const struct {
	const char *path;
	bool later; /* a later version has it; else refused on purpose */
} refused_resources[] = {
	{ "/vsock", false },   { "/balloon", false }, { "/entropy", false },   { "/pmem", false },
	{ "/hotplug", false }, { "/mmds", true },     { "/cpu-config", true },
};

static int refuse_resource(const struct http_request *request, struct error *err)
{
	const char *path = request->path;

	for (size_t i = 0; i < ARRAY_SIZE(refused_resources); i++) {
		size_t length = strlen(refused_resources[i].path);

		if (strncmp(path, refused_resources[i].path, length) != 0 ||
		    (path[length] != '\0' && path[length] != '/'))
			continue;
		if (refused_resources[i].later)
			return error_set(err, ENOTSUP, "The resource %.128s is " CONFIG_NOT_YET ".",
					 path);
		return error_set(err, ENOTSUP,
				 "The resource %.128s is refused: " CONFIG_NOT_EMULATED, path);
	}
	if (request->method == HTTP_GET && strcmp(path, "/metrics") == 0)
		return error_set(err, ENOTSUP, "GET /metrics is " CONFIG_NOT_YET ".");
	return 0;
}

/*
 * The route of a path, whose id (the empty string when it is missing) is set to a part of `path`. A
 * slash at the end of the path is let pass, as clients of this API are used to.
 */
static const struct api_route *find_route(enum http_method method, char *path, const char **id)
{
	size_t length = strlen(path);

	if (path[length - 1] == '/')
		path[--length] = '\0';
	for (size_t i = 0; i < api_route_count; i++) {
		const struct api_route *route = &api_routes[i];
		size_t route_length = strlen(route->path);
		char *rest = path + route_length;

		if (route->method != method || strncmp(path, route->path, route_length) != 0)
			continue;
		if (*rest == '\0' || (route->has_id && *rest == '/' && !strchr(rest + 1, '/'))) {
			*id = *rest ? rest + 1 : rest;
			return route;
		}
	}
	return NULL;
}

static int check_body_presence(const struct http_request *request, struct error *err)
{
	if (request->method == HTTP_GET && request->body)
		return error_set(err, EINVAL, "GET request cannot have a body.");
	if (request->method == HTTP_PUT && !request->body)
		return error_set(err, EINVAL, "Empty PUT request.");
	if (request->method == HTTP_PATCH && !request->body)
		return error_set(err, EINVAL, EMPTY_PATCH);
	return 0;
}

static int call_handler(const struct http_request *request, struct api_call *call,
			struct error *err)
{
	json_t *body = NULL;
	int result;

	if (call->route->has_id) {
		result = config_id_check(call->id, err);
		if (result < 0)
			return result;
	}
	if (request->body) {
		body = config_parse_json(request->body, request->body_bytes, err);
		if (!body)
			return error_prefix(err, DESERIALIZING);
	}
	call->body = body;
	result = call->route->handler(call, err);
	json_decref(body);
	return result;
}

static int handle(struct api_call *call, const struct http_request *request, struct error *err)
{
	int result = refuse_resource(request, err);

	if (result == 0)
		result = check_body_presence(request, err);
	if (result < 0)
		return result;
	memcpy(call->path, request->path, sizeof(call->path));
	call->route = find_route(request->method, call->path, &call->id);
	if (!call->route)
		return error_set(err, EINVAL, "Invalid request method and/or path: %s %.512s.",
				 request->method_name, request->path);
	return call_handler(request, call, err);
}

void api_handle(struct vmm *vmm, const struct http_request *request, struct http_response *response)
{
	api_handle_later(vmm, request, NULL, response);
}

void api_handle_later(struct vmm *vmm, const struct http_request *request, struct api_later *later,
		      struct http_response *response)
{
	struct api_call call = { .vmm = vmm, .later = later };
	struct error err = { 0 };
	int result = handle(&call, request, &err);

	memset(response, 0, sizeof(*response));
	if (result < 0) {
		answer_error(response, 400, "fault_message", err.message);
		log_warn(vmm_log(vmm), "%s %.128s refused: %s", request->method_name, request->path,
			 err.message);
	} else if (call.answers_later) {
		log_info(vmm_log(vmm), "%s %.128s is under way", request->method_name,
			 request->path);
	} else {
		if (request->method == HTTP_GET)
			answer_json(response, call.answer);
		else
			response->status = 204;
		log_info(vmm_log(vmm), "%s %.128s answered with status %u", request->method_name,
			 request->path, response->status);
	}
	response->deprecated = call.deprecated;
	/* No resource takes HEAD, but the refusal must not be read as the next answer's beginning.
	 */
	response->head_only = strcmp(request->method_name, "HEAD") == 0;
}

/* The API's resources without sockets: api/routes.c against a double of vmm. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "mayfly/api.h"
#include "vmm_mock.h"

#define DESERIALIZE "An error occurred when deserializing the json body of a request: "

static struct vmm vmm;

static void set_up(void)
{
	vmm_mock_init(&vmm);
}

static void tear_down(void)
{
	vmm_mock_clear(&vmm);
}

TestSuite(routes, .init = set_up, .fini = tear_down);

static struct http_response ask(const char *method, const char *path, const char *body)
{
	struct http_request request = { .method = HTTP_OTHER, .minor_version = 1 };
	struct http_response response;

	if (strcmp(method, "GET") == 0)
		request.method = HTTP_GET;
	if (strcmp(method, "PUT") == 0)
		request.method = HTTP_PUT;
	if (strcmp(method, "PATCH") == 0)
		request.method = HTTP_PATCH;
	snprintf(request.method_name, sizeof(request.method_name), "%s", method);
	snprintf(request.path, sizeof(request.path), "%s", path);
	request.body = body ? strdup(body) : NULL;
	request.body_bytes = body ? strlen(body) : 0;
	vmm.calls[0] = '\0';
	api_handle(&vmm, &request, &response);
	free(request.body);
	return response;
}

/* 204 and nothing else, and exactly these calls of vmm. */
static void assert_done(const char *method, const char *path, const char *body, const char *calls)
{
	struct http_response response = ask(method, path, body);

	cr_assert_eq(response.status, 204u, "%s %s %s: %s", method, path, body, response.body);
	cr_assert_null(response.body);
	cr_assert_str_eq(vmm.calls, calls);
	http_response_clear(&response);
}

/* 400 with exactly this fault_message, and vmm not asked. */
static void assert_refused(const char *method, const char *path, const char *body,
			   const char *message)
{
	struct http_response response = ask(method, path, body);
	json_t *json;

	cr_assert_eq(response.status, 400u, "%s %s %s", method, path, body);
	cr_assert(response.body);
	cr_assert_eq(strlen(response.body), response.body_bytes);
	json = json_loads(response.body, 0, NULL);
	cr_assert(json, "%s", response.body);
	cr_assert_eq(json_object_size(json), 1u);
	cr_assert_str_eq(json_string_value(json_object_get(json, "fault_message")), message);
	cr_assert_str_eq(vmm.calls, "", "vmm was asked for %s %s", method, path);
	json_decref(json);
	http_response_clear(&response);
}

static void assert_answer(const char *path, const char *expected)
{
	struct http_response response = ask("GET", path, NULL);

	cr_assert_eq(response.status, 200u, "%s: %s", path, response.body);
	cr_assert_str_eq(response.body, expected);
	cr_assert_eq(response.body_bytes, strlen(expected));
	http_response_clear(&response);
}

Test(routes, instance_tells_id_and_state)
{
	assert_answer("/",
		      "{\"id\":\"mock\",\"state\":\"Not started\",\"vmm_version\":\"" MAYFLY_VERSION
		      "\",\"app_name\":\"Mayfly\"}");
	vmm.state = VMM_PAUSED;
	assert_answer("/", "{\"id\":\"mock\",\"state\":\"Paused\",\"vmm_version\":\"" MAYFLY_VERSION
			   "\",\"app_name\":\"Mayfly\"}");
}

Test(routes, version_tells_api_and_program)
{
	assert_answer("/version", "{\"firecracker_version\":\"" API_VERSION
				  "\",\"mayfly_version\":\"" MAYFLY_VERSION "\"}");
}

Test(routes, actions_reach_the_machine)
{
	assert_done("PUT", "/actions", "{\"action_type\":\"InstanceStart\"}", "start\n");
	assert_done("PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}", "ctrl_alt_del\n");
	assert_done("PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}", "flush_metrics\n");
	assert_refused("PUT", "/actions", "{\"action_type\":\"Stop\"}",
		       DESERIALIZE
		       "unknown variant `Stop`, expected one of `InstanceStart`, `SendCtrlAltDel`, "
		       "`FlushMetrics` for `action_type`");
}

Test(routes, pause_and_resume_reach_the_machine)
{
	assert_done("PATCH", "/vm", "{\"state\":\"Paused\"}", "pause\n");
	assert_done("PATCH", "/vm", "{\"state\":\"Resumed\"}", "resume\n");
	assert_refused("PATCH", "/vm", "{}", DESERIALIZE "missing field `state`");
	assert_refused("PATCH", "/vm", "{\"state\":null}",
		       DESERIALIZE "invalid type: null, expected a string for `state`");
}

Test(routes, network_interface_is_set)
{
	assert_done("PUT", "/network-interfaces/eth0",
		    "{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\"}",
		    "interface eth0 tap0 mac=- mtu=0\n");
	assert_done(
		"PUT", "/network-interfaces/eth0",
		"{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\",\"guest_mac\":\"AA:FC:00:00:00:01\",\"mtu\":1400}",
		"interface eth0 tap0 mac=AA:FC:00:00:00:01 mtu=1400\n");
	assert_refused("PUT", "/network-interfaces/eth1",
		       "{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\"}",
		       "The id from the path does not match the id from the body!");
	assert_refused("PUT", "/network-interfaces/eth0", "{\"iface_id\":\"eth0\"}",
		       DESERIALIZE "missing field `host_dev_name`");
	assert_refused("PUT", "/network-interfaces", "{}", "The ID cannot be empty.");
}

Test(routes, boot_source_is_set)
{
	assert_done("PUT", "/boot-source", "{\"kernel_image_path\":\"/k\"}",
		    "boot_source /k - -\n");
	assert_done("PUT", "/boot-source",
		    "{\"kernel_image_path\":\"/k\",\"initrd_path\":\"/i\",\"boot_args\":\"quiet\"}",
		    "boot_source /k /i quiet\n");
	assert_done("PUT", "/boot-source", "{\"kernel_image_path\":\"/k\",\"initrd_path\":null}",
		    "boot_source /k - -\n");
}

Test(routes, machine_config_put_sets_all_and_patch_some)
{
	assert_answer("/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":128,\"smt\":false,"
					 "\"track_dirty_pages\":false,\"huge_pages\":\"None\"}");
	assert_done(
		"PUT", "/machine-config",
		"{\"vcpu_count\":4,\"mem_size_mib\":512,\"smt\":true,\"track_dirty_pages\":true,"
		"\"huge_pages\":\"2M\"}",
		"machine 4 512 smt=1 dirty=1 huge=2 template=-\n");
	assert_done("PATCH", "/machine-config", "{\"mem_size_mib\":256}",
		    "machine 4 256 smt=1 dirty=1 huge=2 template=-\n");
	/* PUT goes back to the defaults of what it does not name. */
	assert_done("PUT", "/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":64}",
		    "machine 2 64 smt=0 dirty=0 huge=0 template=-\n");
	assert_answer("/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":64,\"smt\":false,"
					 "\"track_dirty_pages\":false,\"huge_pages\":\"None\"}");
	assert_refused("PATCH", "/machine-config", "{}", "Empty PATCH request.");
	assert_refused("PATCH", "/machine-config", "{\"smt\":null}", "Empty PATCH request.");
}

Test(routes, failed_machine_config_changes_nothing)
{
	assert_refused(
		"PATCH", "/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":0}",
		"The memory size (MiB) is either 0, or not a multiple of the configured page size.");
	cr_assert_eq(vmm.config.machine.vcpu_count, 1u);
}

Test(routes, deprecated_field_is_marked_in_the_answer)
{
	struct http_response response;

	response = ask("PUT", "/machine-config",
		       "{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"None\"}");
	cr_assert_eq(response.status, 204u);
	cr_assert(response.deprecated);
	response = ask("PATCH", "/machine-config", "{\"cpu_template\":\"None\"}");
	cr_assert(response.deprecated);
	response = ask("PUT", "/machine-config",
		       "{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":null}");
	cr_assert_eq(response.status, 204u);
	cr_assert_not(response.deprecated);
}

#define DRIVE(id) "{\"drive_id\":\"" id "\",\"path_on_host\":\"/x\",\"is_root_device\":true}"

Test(routes, drives_are_set_and_swapped)
{
	assert_done("PUT", "/drives/rootfs", DRIVE("rootfs"),
		    "drive rootfs /x root=1 ro=0 partuuid=- cache=0 engine=0\n");
	assert_done("PATCH", "/drives/rootfs", "{\"drive_id\":\"rootfs\",\"path_on_host\":\"/y\"}",
		    "patch_drive rootfs /y\n");
	assert_done("PATCH", "/drives/rootfs", "{\"path_on_host\":\"/y\"}",
		    "patch_drive rootfs /y\n");
	assert_refused("PATCH", "/drives/rootfs", "{\"drive_id\":\"rootfs\"}",
		       "Empty PATCH request.");
	assert_refused(
		"PATCH", "/drives/rootfs", "{\"is_read_only\":true}",
		DESERIALIZE
		"unknown field `is_read_only`, expected one of `drive_id`, `path_on_host`, `rate_limiter`");
}

Test(routes, rate_limiters_of_drives_are_changed)
{
	assert_done("PATCH", "/drives/a",
		    "{\"rate_limiter\":{\"ops\":{\"size\":7,\"refill_time\":100}}}",
		    "patch_drive a -\nops 7 100 0\n");
	assert_done(
		"PATCH", "/drives/a",
		"{\"path_on_host\":\"/y\",\"rate_limiter\":{\"bandwidth\":{\"size\":0,\"refill_time\":0}}}",
		"patch_drive a /y\nbandwidth 0 0 0\n");
	assert_done("PATCH", "/drives/a", "{\"rate_limiter\":{}}", "patch_drive a -\n");
	assert_refused("PATCH", "/drives/a", "{\"rate_limiter\":null}", "Empty PATCH request.");
	assert_refused("PATCH", "/drives/a", "{\"rate_limiter\":{\"ops\":{\"size\":7}}}",
		       DESERIALIZE "rate_limiter.ops: missing field `refill_time`");
}

Test(routes, rate_limiters_of_interfaces_are_changed)
{
	assert_done(
		"PATCH", "/network-interfaces/eth0",
		"{\"iface_id\":\"eth0\",\"rx_rate_limiter\":{\"bandwidth\":{\"size\":5,\"refill_time\":6}}}",
		"patch_interface eth0\nrx bandwidth 5 6 0\n");
	assert_done(
		"PATCH", "/network-interfaces/eth0",
		"{\"tx_rate_limiter\":{\"ops\":{\"size\":0,\"refill_time\":0}},\"rx_rate_limiter\":null}",
		"patch_interface eth0\ntx ops 0 0 0\n");
	assert_refused("PATCH", "/network-interfaces/eth0", "{\"iface_id\":\"eth0\"}",
		       "Empty PATCH request.");
	assert_refused("PATCH", "/network-interfaces/eth0",
		       "{\"iface_id\":\"eth1\",\"tx_rate_limiter\":{}}",
		       "The id from the path does not match the id from the body!");
	assert_refused(
		"PATCH", "/network-interfaces/eth0", "{\"host_dev_name\":\"tap0\"}",
		DESERIALIZE
		"unknown field `host_dev_name`, expected one of `iface_id`, `rx_rate_limiter`, "
		"`tx_rate_limiter`");
	assert_refused("PATCH", "/network-interfaces/eth0",
		       "{\"tx_rate_limiter\":{\"ops\":{\"size\":\"5\"}}}",
		       DESERIALIZE "tx_rate_limiter.ops: missing field `refill_time`");
}

Test(routes, ids_are_checked)
{
	static const char mismatch[] = "The id from the path does not match the id from the body!";
	static const char characters[] =
		"API Resource IDs can only contain alphanumeric characters and underscores.";

	assert_refused("PUT", "/drives/a", DRIVE("b"), mismatch);
	assert_refused("PATCH", "/drives/a", "{\"drive_id\":\"b\",\"path_on_host\":\"/y\"}",
		       mismatch);
	assert_refused("PUT", "/drives", DRIVE("a"), "The ID cannot be empty.");
	assert_refused("PUT", "/drives/", DRIVE("a"), "The ID cannot be empty.");
	assert_refused("PATCH", "/drives/", "{}", "The ID cannot be empty.");
	assert_refused("PUT", "/drives/a-b", DRIVE("a-b"), characters);
	assert_refused("PUT", "/drives/a%20b", DRIVE("a b"), characters);
	assert_refused("PUT", "/drives/a?b", DRIVE("a"), characters);
}

Test(routes, serial_logger_and_metrics_are_set)
{
	assert_done("PUT", "/serial", "{\"serial_out_path\":\"/s\"}", "serial /s\n");
	assert_done("PUT", "/serial", "{}", "serial -\n");
	assert_done("PUT", "/logger",
		    "{\"log_path\":\"/l\",\"level\":\"Info\",\"show_level\":true}",
		    "logger /l Info level=1 origin=0 -\n");
	assert_done("PUT", "/logger", "{}", "logger - - level=0 origin=0 -\n");
	assert_done("PUT", "/metrics", "{\"metrics_path\":\"/m\"}", "metrics /m\n");
}

Test(routes, configuration_is_told_in_the_shape_of_the_config_file)
{
	struct http_response response;
	struct vm_config config;
	struct error err;
	json_t *json;

	assert_done("PUT", "/boot-source", "{\"kernel_image_path\":\"/k\"}",
		    "boot_source /k - -\n");
	assert_done("PUT", "/drives/a", DRIVE("a"),
		    "drive a /x root=1 ro=0 partuuid=- cache=0 engine=0\n");
	response = ask("GET", "/vm/config", NULL);
	cr_assert_eq(response.status, 200u);
	cr_assert_str_eq(
		response.body,
		"{\"boot-source\":{\"kernel_image_path\":\"/k\",\"boot_protocol\":\"Auto\"},"
		"\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":128,\"smt\":false,"
		"\"track_dirty_pages\":false,\"huge_pages\":\"None\"},"
		"\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/x\",\"is_root_device\":true,"
		"\"is_read_only\":false,\"cache_type\":\"Unsafe\",\"io_engine\":\"Sync\"}],"
		"\"network-interfaces\":[]}");
	json = config_parse_json(response.body, response.body_bytes, &err);
	cr_assert_eq(config_parse_vm(json, NULL, &config, &err), 0, "%s", err.message);
	config_vm_clear(&config);
	json_decref(json);
	http_response_clear(&response);
}

Test(routes, methods_and_paths_that_do_not_exist_are_refused)
{
	assert_refused("DELETE", "/x", NULL, "Invalid request method and/or path: DELETE /x.");
	assert_refused("POST", "/actions", "{}",
		       "Invalid request method and/or path: POST /actions.");
	assert_refused("GET", "/none", NULL, "Invalid request method and/or path: GET /none.");
	assert_refused("GET", "/actions", NULL,
		       "Invalid request method and/or path: GET /actions.");
	assert_refused("GET", "/drives/a", NULL,
		       "Invalid request method and/or path: GET /drives/a.");
	assert_refused("GET", "//", NULL, "Invalid request method and/or path: GET //.");
	assert_refused("GET", "/version?x", NULL,
		       "Invalid request method and/or path: GET /version?x.");
	assert_refused("GET", "/machine-configuration", NULL,
		       "Invalid request method and/or path: GET /machine-configuration.");
	assert_refused("PUT", "/", "{}", "Invalid request method and/or path: PUT /.");
	assert_refused("PUT", "/vm", "{}", "Invalid request method and/or path: PUT /vm.");
	assert_refused("PUT", "/drives/a/b", "{}",
		       "Invalid request method and/or path: PUT /drives/a/b.");
	assert_refused("PATCH", "/boot-source", "{}",
		       "Invalid request method and/or path: PATCH /boot-source.");
}

Test(routes, slash_at_the_end_is_let_pass)
{
	struct http_response response = ask("GET", "/version/", NULL);

	cr_assert_eq(response.status, 200u);
	http_response_clear(&response);
}

Test(routes, bodies_are_where_they_belong)
{
	assert_refused("GET", "/machine-config", "{}", "GET request cannot have a body.");
	assert_refused("PUT", "/boot-source", NULL, "Empty PUT request.");
	assert_refused("PUT", "/drives/a", NULL, "Empty PUT request.");
	assert_refused("PATCH", "/machine-config", NULL, "Empty PATCH request.");
}

Test(routes, bad_json_is_refused_with_its_place)
{
	struct http_response response = ask("PUT", "/boot-source", "{\"kernel_image_path\": }");

	cr_assert_eq(response.status, 400u);
	cr_assert(strstr(response.body, DESERIALIZE), "%s", response.body);
	cr_assert(strstr(response.body, "at line 1 column 23"), "%s", response.body);
	http_response_clear(&response);
	assert_refused("PUT", "/boot-source", "5",
		       DESERIALIZE
		       "invalid type: integer `5`, expected a JSON object (boot-source)");
	assert_refused("PATCH", "/machine-config", "[]",
		       DESERIALIZE
		       "invalid type: sequence, expected a JSON object (machine-config)");
	assert_refused("PATCH", "/machine-config", "{\"vcpu_count\":1,\"vcpu_count\":1}",
		       DESERIALIZE "duplicate field `vcpu_count` at line 1 column 28");
}

#define ON_PURPOSE \
	"Mayfly does not emulate it. Its device model is virtio-net, virtio-blk, serial and i8042, on purpose."

Test(routes, devices_outside_the_model_are_refused_with_the_reason)
{
	static const char *const paths[] = {
		"/vsock",   "/balloon", "/balloon/statistics", "/balloon/hinting/start",
		"/entropy", "/pmem/a",	"/hotplug/memory"
	};
	char message[256];

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		snprintf(message, sizeof(message), "The resource %s is refused: " ON_PURPOSE,
			 paths[i]);
		assert_refused("PUT", paths[i], "{}", message);
		assert_refused("GET", paths[i], NULL, message);
		assert_refused("PATCH", paths[i], NULL, message);
	}
	assert_refused("PUT", "/drives/a",
		       "{\"drive_id\":\"a\",\"is_root_device\":false,\"socket\":\"/s\"}",
		       "The field `socket` asks for a vhost-user device: " ON_PURPOSE);
}

Test(routes, what_this_version_has_not_yet_is_refused_by_name)
{
	static const char *const paths[] = { "/mmds", "/mmds/config", "/cpu-config" };
	char message[256];

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		snprintf(message, sizeof(message),
			 "The resource %s is not supported by this version of Mayfly.", paths[i]);
		assert_refused("PUT", paths[i], "{}", message);
	}
	assert_refused("GET", "/metrics", NULL,
		       "GET /metrics is not supported by this version of Mayfly.");
}

Test(routes, refusal_of_the_machine_is_the_fault_message)
{
	static const struct {
		const char *method, *path, *body;
	} requests[] = {
		{ "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}" },
		{ "PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}" },
		{ "PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}" },
		{ "PUT", "/boot-source", "{\"kernel_image_path\":\"/k\"}" },
		{ "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":64}" },
		{ "PATCH", "/machine-config", "{\"vcpu_count\":1}" },
		{ "PUT", "/drives/a", DRIVE("a") },
		{ "PATCH", "/drives/a", "{\"path_on_host\":\"/y\"}" },
		{ "PUT", "/serial", "{}" },
		{ "PUT", "/logger", "{}" },
		{ "PUT", "/metrics", "{\"metrics_path\":\"/m\"}" },
		{ "PATCH", "/vm", "{\"state\":\"Paused\"}" },
		{ "PATCH", "/vm", "{\"state\":\"Resumed\"}" },
	};

	vmm.failure = "The \"reason\", with\nno break";
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		struct http_response response =
			ask(requests[i].method, requests[i].path, requests[i].body);

		cr_assert_eq(response.status, 400u, "%s", requests[i].path);
		cr_assert_str_eq(response.body,
				 "{\"fault_message\":\"The \\\"reason\\\", with\\nno break\"}");
		http_response_clear(&response);
	}
}

Test(routes, message_that_is_not_utf8_still_makes_a_json_answer)
{
	char cut[ERROR_MESSAGE_BYTES] = "file ";
	struct http_response response;

	/* A file's name may hold any byte. */
	vmm.failure = "cannot open /\xff\xfe: x";
	response = ask("PUT", "/serial", "{}");
	cr_assert_str_eq(response.body, "{\"fault_message\":\"cannot open /??: x\"}");
	http_response_clear(&response);
	/* A long message is cut anywhere. */
	while (strlen(cut) + 2 < sizeof(cut))
		strcat(cut, "\xc3\xa4");
	strcpy(cut + sizeof(cut) - 3, "x\xc3");
	vmm.failure = cut;
	response = ask("PUT", "/serial", "{}");
	cr_assert_eq(response.status, 400u);
	cr_assert(strstr(response.body, "\xc3\xa4"), "%s", response.body);
	cr_assert_null(strchr(response.body, '?'));
	http_response_clear(&response);
}

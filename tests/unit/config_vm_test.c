/* The config file and the answer to GET /vm/config: src/config_vm.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "mayfly/config.h"

static int parse(const char *text, struct vm_config *config, struct error *err)
{
	json_t *json = config_parse_json(text, strlen(text), err);
	int result;

	cr_assert(json, "%s: %s", text, err->message);
	result = config_parse_vm(json, NULL, config, err);
	json_decref(json);
	return result;
}

static void assert_refused(const char *text, const char *message)
{
	static const struct vm_config empty;
	struct vm_config config;
	struct error err = { 0 };

	cr_assert(parse(text, &config, &err) < 0, "accepted: %s", text);
	cr_assert_str_eq(err.message, message);
	cr_assert_eq(memcmp(&config, &empty, sizeof(config)), 0, "%s: something is left", text);
}

static const char whole[] =
	"{\"boot-source\":{\"kernel_image_path\":\"/k\",\"boot_args\":\"quiet\",\"boot_protocol\":\"PVH\"},"
	"\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":256,\"smt\":true,"
	"\"track_dirty_pages\":false,\"huge_pages\":\"Transparent\"},"
	"\"serial\":{\"serial_out_path\":\"/s\"},"
	"\"logger\":{\"log_path\":\"/l\",\"level\":\"Info\",\"show_level\":true,"
	"\"show_log_origin\":false},"
	"\"metrics\":{\"metrics_path\":\"/m\"},"
	"\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/a\",\"is_root_device\":true,"
	"\"is_read_only\":false,\"cache_type\":\"Unsafe\",\"io_engine\":\"Sync\"},"
	"{\"drive_id\":\"b\",\"path_on_host\":\"/b\",\"is_root_device\":false,"
	"\"is_read_only\":true,\"cache_type\":\"Writeback\",\"io_engine\":\"Async\"}],"
	"\"network-interfaces\":[]}";

Test(config_vm, every_section_is_read_and_written_back)
{
	struct vm_config config;
	struct error err;
	json_t *json;
	char *text;

	cr_assert_eq(parse(whole, &config, &err), 0, "%s", err.message);
	cr_assert(config.has_boot_source && config.has_serial && config.has_logger &&
		  config.has_metrics);
	cr_assert_str_eq(config.boot_source.kernel_image_path, "/k");
	cr_assert_eq(config.machine.vcpu_count, 2u);
	cr_assert_eq(config.drive_count, 2u);
	cr_assert_str_eq(config.drives[1].drive_id, "b");
	cr_assert_eq(config.drives[1].io_engine, IO_ENGINE_ASYNC);
	json = config_format_vm(&config);
	text = json_dumps(json, JSON_COMPACT);
	cr_assert_str_eq(text, whole);
	free(text);
	json_decref(json);
	config_vm_clear(&config);
}

Test(config_vm, empty_object_is_a_default_machine)
{
	struct vm_config config;
	struct error err;

	cr_assert_eq(parse("{\"serial\":null,\"vsock\":null,\"pmem\":[],\"network-interfaces\":[]}",
			   &config, &err),
		     0, "%s", err.message);
	cr_assert_not(config.has_boot_source || config.has_serial || config.has_logger ||
		      config.has_metrics);
	cr_assert_eq(config.machine.mem_size_mib, 128u);
	cr_assert_eq(config.drive_count, 0u);
	config_vm_clear(&config);
}

Test(config_vm, logger_section_leaves_what_it_does_not_name)
{
	char path[] = "/said/before", level[] = "Debug", module[] = "src";
	const struct logger_config before = { .log_path = path,
					      .level = level,
					      .module = module,
					      .show_level = true,
					      .show_log_origin = true };
	struct vm_config config;
	struct error err;
	json_t *json = json_pack("{s:{s:s, s:b}}", "logger", "level", "Error", "show_level", 0);

	cr_assert_eq(config_parse_vm(json, &before, &config, &err), 0, "%s", err.message);
	cr_assert_str_eq(config.logger.level, "Error");
	cr_assert_not(config.logger.show_level);
	cr_assert(config.logger.show_log_origin);
	cr_assert_str_eq(config.logger.log_path, "/said/before");
	cr_assert_str_eq(config.logger.module, "src");
	config_vm_clear(&config);
	json_decref(json);
}

Test(config_vm, no_logger_section_is_none_whatever_was_said_before)
{
	const struct logger_config before = { .show_level = true };
	struct vm_config config;
	struct error err;
	json_t *json = json_pack("{s:n}", "logger");

	cr_assert_eq(config_parse_vm(json, &before, &config, &err), 0, "%s", err.message);
	cr_assert_not(config.has_logger);
	config_vm_clear(&config);
	json_decref(json);
}

Test(config_vm, errors_name_section_entry_and_field)
{
	assert_refused(
		"[]",
		"invalid type: sequence, expected a JSON object with a microVM's configuration");
	assert_refused(
		"{\"boot_source\":{}}",
		"unknown section `boot_source`, expected one of `boot-source`, `machine-config`, `drives`, "
		"`network-interfaces`, "
		"`serial`, `logger`, `metrics`");
	assert_refused("{\"boot-source\":{}}",
		       "section `boot-source`: missing field `kernel_image_path`");
	assert_refused("{\"boot-source\":{\"kernel_image_path\":\"/k\"},\"drives\":{}}",
		       "section `drives`: invalid type: map, expected a sequence");
	assert_refused(
		"{\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/a\",\"is_root_device\":true},"
		"{\"drive_id\":7}]}",
		"section `drives`, entry 1: missing field `path_on_host`");
	assert_refused(
		"{\"machine-config\":{\"vcpu_count\":0,\"mem_size_mib\":128}}",
		"section `machine-config`: The vCPU number is invalid! The vCPU number can only be 1 or an even "
		"number when SMT is enabled. The value of `vcpu_count` is 0: it must be from 1 to 32.");
}

Test(config_vm, devices_that_do_not_exist_are_refused_with_the_reason)
{
	assert_refused(
		"{\"vsock\":{}}",
		"section `vsock`: Mayfly does not emulate it. Its device model is virtio-net, "
		"virtio-blk, serial and i8042, on purpose.");
	assert_refused("{\"mmds-config\":{}}",
		       "section `mmds-config`: not supported by this version of Mayfly.");
}

Test(config_vm, network_interfaces_go_in_and_out)
{
	static const char text[] =
		"{\"network-interfaces\":[{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\","
		"\"guest_mac\":\"06:00:ac:10:00:02\",\"mtu\":9000,\"rx_rate_limiter\":null,"
		"\"tx_rate_limiter\":{\"ops\":{\"size\":1,\"refill_time\":2}}},"
		"{\"iface_id\":\"eth1\",\"host_dev_name\":\"tap1\",\"mtu\":null}]}";
	static const char expected[] =
		"[{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\","
		"\"guest_mac\":\"06:00:ac:10:00:02\",\"mtu\":9000,\"tx_rate_limiter\":"
		"{\"ops\":{\"size\":1,\"refill_time\":2,\"one_time_burst\":0}}},"
		"{\"iface_id\":\"eth1\",\"host_dev_name\":\"tap1\"}]";
	struct vm_config config;
	struct error err = { 0 };
	char *written;
	json_t *json;

	cr_assert_eq(parse(text, &config, &err), 0, "%s", err.message);
	cr_assert_eq(config.interface_count, 2);
	cr_assert_eq(config.interfaces[0].mtu, 9000);
	cr_assert_eq(config.interfaces[1].mtu, 0, "not given");
	json = config_format_vm(&config);
	written = json_dumps(json_object_get(json, "network-interfaces"), JSON_COMPACT);
	cr_assert_str_eq(written, expected);
	free(written);
	json_decref(json);
	config_vm_clear(&config);
	assert_refused("{\"network-interfaces\":[{\"iface_id\":\"eth0\"}]}",
		       "section `network-interfaces`, entry 0: missing field `host_dev_name`");
	assert_refused(
		"{\"network-interfaces\":[{\"iface_id\":\"a\",\"host_dev_name\":\"t\",\"mtu\":0}]}",
		"section `network-interfaces`, entry 0: The value of `mtu` is 0: it must be from 68 to 65535.");
	assert_refused(
		"{\"network-interfaces\":[{\"iface_id\":\"a\",\"host_dev_name\":\"t\","
		"\"tx_rate_limiter\":{\"ops\":{\"size\":1}}}]}",
		"section `network-interfaces`, entry 0: tx_rate_limiter.ops: missing field `refill_time`");
}

Test(config_vm, more_drives_than_interrupt_lines_are_refused)
{
	char text[8192] = "{\"drives\":[", message[128];

	for (int i = 0; i <= CONFIG_MAX_DRIVES; i++)
		snprintf(
			text + strlen(text), sizeof(text) - strlen(text),
			"%s{\"drive_id\":\"d%d\",\"path_on_host\":\"/a\",\"is_root_device\":false}",
			i ? "," : "", i);
	strcat(text, "]}");
	snprintf(message, sizeof(message), "section `drives`: %d entries, %d at most are possible",
		 CONFIG_MAX_DRIVES + 1, CONFIG_MAX_DRIVES);
	assert_refused(text, message);
}

static char directory[] = "/tmp/mayfly-config-XXXXXX";
static char path[64];

static void make_directory(void)
{
	cr_assert(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/vm.json", directory);
}

static void remove_directory(void)
{
	unlink(path);
	rmdir(directory);
}

static void write_file(const char *text, size_t length)
{
	FILE *file = fopen(path, "w");

	cr_assert(file);
	cr_assert_eq(fwrite(text, 1, length, file), length);
	fclose(file);
}

static void assert_not_loaded(const char *of, const char *message)
{
	struct vm_config config;
	struct error err = { 0 };

	cr_assert(config_load_vm(of, NULL, &config, &err) < 0);
	cr_assert(strstr(err.message, of), "%s", err.message);
	cr_assert(strstr(err.message, message), "%s", err.message);
}

TestSuite(config_file, .init = make_directory, .fini = remove_directory);

Test(config_file, file_is_loaded)
{
	struct vm_config config;
	struct error err;

	write_file(whole, strlen(whole));
	cr_assert_eq(config_load_vm(path, NULL, &config, &err), 0, "%s", err.message);
	cr_assert_str_eq(config.drives[0].path_on_host, "/a");
	config_vm_clear(&config);
}

Test(config_file, what_is_no_config_file_is_refused_by_path)
{
	static char big[1100000];

	assert_not_loaded("/nonexistent/vm.json", "No such file or directory");
	assert_not_loaded(directory, "not a regular file");
	assert_not_loaded("/dev/zero", "not a regular file");
	write_file("", 0);
	assert_not_loaded(path, "at line 1");
	write_file("{\n  \"drives\": [,]\n}", 19);
	assert_not_loaded(path, "at line 2 column 14");
	write_file("{\"drives\":[{\"drive_id\":true}]}", 30);
	assert_not_loaded(path, "section `drives`, entry 0");
	memset(big, ' ', sizeof(big));
	write_file(big, sizeof(big));
	assert_not_loaded(path, "longer than 1048576 bytes");
}

Test(config_file, fifo_without_writer_does_not_hang)
{
	cr_assert_eq(mkfifo(path, 0600), 0);
	assert_not_loaded(path, "not a regular file");
}

/* The tables and what parses and writes through them: src/config_parse.c, config_json.c,
 * config_check.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "mayfly/config.h"

static json_t *json_of(const char *text)
{
	struct error err;
	json_t *json = config_parse_json(text, strlen(text), &err);

	cr_assert(json, "%s: %s", text, err.message);
	return json;
}

static void assert_not_json(const char *text, size_t length, const char *message)
{
	struct error err = { 0 };

	cr_assert_null(config_parse_json(text, length, &err));
	cr_assert(strstr(err.message, message), "%s: %s", text, err.message);
}

/* Parses `text` as a drive, a machine...: the result's code, and the message in `err`. */
static int parse(const struct config_object *object, const char *text, bool partial, void *out,
		 struct error *err)
{
	json_t *json = json_of(text);
	int result = config_parse_object(object, json, partial, out, err);

	json_decref(json);
	return result;
}

static void assert_refused(const struct config_object *object, const char *text, int code,
			   const char *message)
{
	unsigned char before[512], value[512] = { 0 };
	struct error err = { 0 };

	cr_assert(object->size_bytes <= sizeof(value));
	memcpy(before, value, sizeof(value));
	cr_assert_eq(parse(object, text, false, value, &err), -code, "%s: %s", text, err.message);
	cr_assert_str_eq(err.message, message);
	cr_assert_eq(memcmp(value, before, sizeof(value)), 0, "%s: the output was touched", text);
}

Test(config_json, broken_text_is_refused_with_line_and_column)
{
	assert_not_json("", 0, "at line 1 column 0");
	assert_not_json("{\"a\": 1", 7, "EOF while parsing a value at line 1 column 7");
	assert_not_json("{\n\"a\" 1}", 8, "at line 2 column 5");
	assert_not_json("{} x", 4, "trailing characters at line 1 column 4");
	assert_not_json("{'a': 1}", 8, "at line 1 column 2");
	assert_not_json("[1,]", 4, "at line 1 column 4");
	assert_not_json("99999999999999999999", 20, "number out of range");
	assert_not_json("\"\\u0000\"", 8, "a string holds the character \\u0000 at line 1");
	assert_not_json("{\"\\u0000\":1}", 12, "a string holds the character \\u0000 at line 1");
}

Test(config_json, duplicate_keys_are_refused_by_name)
{
	static const char text[] = "{\"a\": 1,\n \"a\": 2}";

	assert_not_json(text, strlen(text), "duplicate field `a` at line 2 column");
}

Test(config_json, bytes_that_are_not_utf8_are_refused)
{
	static const char *const texts[] = { "\"\xff\"", "\"\xc3(\"", "\"\xed\xa0\x80\"",
					     "\"\xf4\x90\x80\x80\"", "\xef\xbb\xbf{}" };

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_not_json(texts[i], strlen(texts[i]), "at line 1");
	assert_not_json("\"\xff\"", 3, "invalid UTF-8");
}

Test(config_json, deep_nesting_is_refused)
{
	char text[50000];

	memset(text, '[', sizeof(text));
	assert_not_json(text, sizeof(text), "recursion limit exceeded");
	for (size_t i = 0; i < sizeof(text); i += 5)
		memcpy(text + i, "{\"a\":", 5);
	assert_not_json(text, sizeof(text), "recursion limit exceeded");
}

Test(config, drive_is_read_and_written)
{
	static const char text[] =
		"{\"drive_id\":\"rootfs\",\"path_on_host\":\"/x\",\"is_root_device\":true,"
		"\"is_read_only\":true,\"partuuid\":\"6c3b2ad1-01\",\"cache_type\":\"Writeback\","
		"\"io_engine\":\"Async\"}";
	struct drive_config drive;
	struct error err;
	json_t *json;
	char *written;

	config_drive_defaults(&drive);
	cr_assert_eq(parse(&config_drive_object, text, false, &drive, &err), 0);
	cr_assert_str_eq(drive.drive_id, "rootfs");
	cr_assert_str_eq(drive.path_on_host, "/x");
	cr_assert_str_eq(drive.partuuid, "6c3b2ad1-01");
	cr_assert(drive.is_root_device && drive.is_read_only);
	cr_assert_eq(drive.cache_type, CACHE_WRITEBACK);
	cr_assert_eq(drive.io_engine, IO_ENGINE_ASYNC);
	json = config_format_object(&config_drive_object, &drive);
	written = json_dumps(json, JSON_COMPACT);
	cr_assert(strstr(written, "\"io_engine\":\"Async\""), "%s", written);
	cr_assert_eq(strlen(written), strlen(text), "%s", written);
	free(written);
	json_decref(json);
	config_clear(&config_drive_object, &drive);
	cr_assert_null(drive.drive_id);
}

Test(config, absent_fields_keep_their_defaults)
{
	struct drive_config drive;
	struct machine_config machine;
	struct error err;

	config_drive_defaults(&drive);
	cr_assert_eq(parse(&config_drive_object,
			   "{\"drive_id\":\"a\",\"path_on_host\":\"b\",\"is_root_device\":false,"
			   "\"partuuid\":null,\"cache_type\":null}",
			   false, &drive, &err),
		     0);
	cr_assert_null(drive.partuuid);
	cr_assert_eq(drive.cache_type, CACHE_UNSAFE);
	cr_assert_eq(drive.io_engine, IO_ENGINE_SYNC);
	cr_assert_not(drive.is_read_only);
	config_clear(&config_drive_object, &drive);
	config_machine_defaults(&machine);
	cr_assert_eq(machine.vcpu_count, 1u);
	cr_assert_eq(machine.mem_size_mib, 128u);
	cr_assert_eq(machine.huge_pages, HUGE_PAGES_NONE);
}

Test(config, partial_object_changes_what_it_names_only)
{
	struct machine_config machine = { .vcpu_count = 4,
					  .mem_size_mib = 512,
					  .cpu_template = strdup("None") };
	struct error err;

	cr_assert_eq(parse(&config_machine_object,
			   "{\"mem_size_mib\":256,\"smt\":null,\"vcpu_count\":null}", true,
			   &machine, &err),
		     0);
	cr_assert_eq(machine.vcpu_count, 4u);
	cr_assert_eq(machine.mem_size_mib, 256u);
	cr_assert_str_eq(machine.cpu_template, "None");
	cr_assert_eq(
		parse(&config_machine_object, "{\"cpu_template\":\"T2\"}", true, &machine, &err),
		0);
	cr_assert_str_eq(machine.cpu_template, "T2");
	config_clear(&config_machine_object, &machine);
}

Test(config, failure_leaves_the_struct_as_it_was)
{
	struct boot_source_config boot = { .kernel_image_path = strdup("/old"),
					   .boot_args = strdup("quiet") };
	struct error err;

	cr_assert_eq(parse(&config_boot_source_object,
			   "{\"kernel_image_path\":\"/new\",\"boot_args\":7}", false, &boot, &err),
		     -EINVAL);
	cr_assert_str_eq(boot.kernel_image_path, "/old");
	cr_assert_str_eq(boot.boot_args, "quiet");
	config_clear(&config_boot_source_object, &boot);
}

Test(config, unknown_fields_are_refused_by_name)
{
	assert_refused(&config_serial_object, "{\"x\":1}", EINVAL,
		       "unknown field `x`, expected `serial_out_path` or `rate_limiter`");
	assert_refused(
		&config_drive_update_object, "{\"x\":1}", EINVAL,
		"unknown field `x`, expected one of `drive_id`, `path_on_host`, `rate_limiter`");
	assert_refused(
		&config_boot_source_object, "{\"kernel_image_path\":\"/x\",\"a\\nb\":1}", EINVAL,
		"unknown field `a\nb`, expected one of `kernel_image_path`, `initrd_path`, `boot_args`, `boot_protocol`");
}

Test(config, long_names_do_not_crowd_out_the_message)
{
	char text[2048] = "{\"", expected[64];
	struct serial_config serial = { 0 };
	struct error err;

	for (int i = 0; i < 500; i++)
		strcat(text, "\xc3\xa4");
	strcat(text, "\":1}");
	cr_assert_eq(parse(&config_serial_object, text, false, &serial, &err), -EINVAL);
	strcpy(expected, "\xc3\xa4...`, expected `serial_out_path` or `rate_limiter`");
	cr_assert_str_eq(err.message + strlen(err.message) - strlen(expected), expected);
	cr_assert(strlen(err.message) < 200);
}

Test(config, missing_fields_are_refused_by_name)
{
	assert_refused(&config_boot_source_object, "{}", EINVAL,
		       "missing field `kernel_image_path`");
	assert_refused(&config_machine_object, "{\"vcpu_count\":1}", EINVAL,
		       "missing field `mem_size_mib`");
	assert_refused(&config_drive_object, "{\"drive_id\":\"a\",\"path_on_host\":\"b\"}", EINVAL,
		       "missing field `is_root_device`");
	assert_refused(&config_metrics_object, "{}", EINVAL, "missing field `metrics_path`");
	assert_refused(&config_action_object, "{}", EINVAL, "missing field `action_type`");
	assert_refused(&config_vm_state_object, "{}", EINVAL, "missing field `state`");
}

Test(config, wrong_types_are_refused)
{
#define MACHINE(vcpus) "{\"mem_size_mib\":128,\"vcpu_count\":" vcpus "}"
	assert_refused(&config_machine_object, MACHINE("\"x\""), EINVAL,
		       "invalid type: string \"x\", expected u64 for `vcpu_count`");
	assert_refused(&config_machine_object, MACHINE("1.5"), EINVAL,
		       "invalid type: floating point `1.5`, expected u64 for `vcpu_count`");
	assert_refused(&config_machine_object, MACHINE("true"), EINVAL,
		       "invalid type: boolean `true`, expected u64 for `vcpu_count`");
	assert_refused(&config_machine_object, MACHINE("null"), EINVAL,
		       "invalid type: null, expected u64 for `vcpu_count`");
	assert_refused(&config_machine_object, MACHINE("[]"), EINVAL,
		       "invalid type: sequence, expected u64 for `vcpu_count`");
	assert_refused(&config_machine_object, MACHINE("{}"), EINVAL,
		       "invalid type: map, expected u64 for `vcpu_count`");
	assert_refused(&config_machine_object, MACHINE("-1"), EINVAL,
		       "invalid value: integer `-1`, expected u64 for `vcpu_count`");
	assert_refused(&config_machine_object, "{\"mem_size_mib\":128,\"vcpu_count\":1,\"smt\":0}",
		       EINVAL, "invalid type: integer `0`, expected a boolean for `smt`");
	assert_refused(&config_boot_source_object, "{\"kernel_image_path\":5}", EINVAL,
		       "invalid type: integer `5`, expected a string for `kernel_image_path`");
	assert_refused(&config_action_object, "{\"action_type\":5}", EINVAL,
		       "invalid type: integer `5`, expected a string for `action_type`");
	assert_refused(&config_serial_object, "[]", EINVAL,
		       "invalid type: sequence, expected a JSON object (serial)");
	assert_refused(&config_serial_object, "null", EINVAL,
		       "invalid type: null, expected a JSON object (serial)");
#undef MACHINE
}

Test(config, unknown_variants_are_refused_with_the_known_ones)
{
	assert_refused(
		&config_action_object, "{\"action_type\":\"Explode\"}", EINVAL,
		"unknown variant `Explode`, expected one of `InstanceStart`, `SendCtrlAltDel`, "
		"`FlushMetrics` for `action_type`");
	assert_refused(&config_vm_state_object, "{\"state\":\"paused\"}", EINVAL,
		       "unknown variant `paused`, expected `Paused` or `Resumed` for `state`");
}

Test(config, values_out_of_range_are_refused)
{
#define MACHINE(vcpus, memory) "{\"vcpu_count\":" vcpus ",\"mem_size_mib\":" memory "}"
#define VCPU_MESSAGE \
	"The vCPU number is invalid! The vCPU number can only be 1 or an even number when SMT is enabled. "

	assert_refused(&config_machine_object, MACHINE("0", "128"), ERANGE,
		       VCPU_MESSAGE "The value of `vcpu_count` is 0: it must be from 1 to 32.");
	assert_refused(&config_machine_object, MACHINE("33", "128"), ERANGE,
		       VCPU_MESSAGE "The value of `vcpu_count` is 33: it must be from 1 to 32.");
	assert_refused(
		&config_machine_object, MACHINE("1", "0"), ERANGE,
		"The memory size (MiB) is either 0, or not a multiple of the configured page size.");
	assert_refused(&config_machine_object, MACHINE("1", "3"), ERANGE,
		       "The value of `mem_size_mib` is 3: it must be from 4 to 67108864.");
	assert_refused(
		&config_machine_object, MACHINE("1", "9223372036854775807"), ERANGE,
		"The value of `mem_size_mib` is 9223372036854775807: it must be from 4 to 67108864.");
#undef VCPU_MESSAGE
#undef MACHINE
}

Test(config, refused_fields_say_why_unless_they_are_null)
{
	struct drive_config drive = { 0 };
	struct error err;

	assert_refused(
		&config_drive_object,
		"{\"drive_id\":\"a\",\"is_root_device\":false,\"socket\":\"/s\"}", ENOTSUP,
		"The field `socket` asks for a vhost-user device: Mayfly does not emulate it. Its device model "
		"is virtio-net, virtio-blk, serial and i8042, on purpose.");
	assert_refused(&config_metrics_object, "{\"metrics_path\":\"/m\",\"properties\":{}}",
		       ENOTSUP,
		       "The field `properties` is not supported by this version of Mayfly.");
	assert_refused(&config_metrics_object, "{\"metrics_path\":\"/m\",\"emit_id\":true}",
		       ENOTSUP, "The field `emit_id` is not supported by this version of Mayfly.");
	cr_assert_eq(
		parse(&config_drive_object,
		      "{\"drive_id\":\"a\",\"path_on_host\":\"b\",\"is_root_device\":false,\"socket\":null,"
		      "\"rate_limiter\":null}",
		      false, &drive, &err),
		0);
	config_clear(&config_drive_object, &drive);
}

#define DRIVE_WITH(limiter)                                                                             \
	"{\"drive_id\":\"a\",\"path_on_host\":\"b\",\"is_root_device\":false,\"rate_limiter\":" limiter \
	"}"

/* Parsed, checked, written: the written limiter. */
static char *written_limiter(const struct config_object *object, const char *text, void *value)
{
	struct error err = { 0 };
	json_t *json;
	char *written;

	cr_assert_eq(parse(object, text, false, value, &err), 0, "%s: %s", text, err.message);
	json = config_format_object(object, value);
	written = json_dumps(json_object_get(json, "rate_limiter"), JSON_COMPACT | JSON_ENCODE_ANY);
	json_decref(json);
	return written;
}

static void assert_drive_limiter(const char *text, const char *expected)
{
	struct drive_config drive = { 0 };
	char *written = written_limiter(&config_drive_object, text, &drive);

	if (expected)
		cr_assert_str_eq(written, expected);
	else
		cr_assert_null(written);
	free(written);
	config_clear(&config_drive_object, &drive);
}

Test(config, rate_limiters_are_read_and_written)
{
	assert_drive_limiter(DRIVE_WITH("{\"ops\":{\"size\":1,\"refill_time\":2}}"),
			     "{\"ops\":{\"size\":1,\"refill_time\":2,\"one_time_burst\":0}}");
	assert_drive_limiter(
		DRIVE_WITH(
			"{\"bandwidth\":{\"size\":9223372036854775807,\"refill_time\":9223372036854,"
			"\"one_time_burst\":9223372036854775807},\"ops\":null}"),
		"{\"bandwidth\":{\"size\":9223372036854775807,\"refill_time\":9223372036854,"
		"\"one_time_burst\":9223372036854775807}}");
	assert_drive_limiter(
		DRIVE_WITH("{\"ops\":{\"size\":0,\"refill_time\":0,\"one_time_burst\":null}}"),
		"{\"ops\":{\"size\":0,\"refill_time\":0,\"one_time_burst\":0}}");
	assert_drive_limiter(DRIVE_WITH("{}"), "{}");
	assert_drive_limiter(DRIVE_WITH("null"), NULL);
}

Test(config, what_is_wrong_in_a_rate_limiter_is_named_with_its_path)
{
	static const struct {
		const char *limiter;
		int code;
		const char *message;
	} cases[] = {
		{ "7", EINVAL,
		  "rate_limiter: invalid type: integer `7`, expected a JSON object (rate limiter)" },
		{ "{\"iops\":{}}", EINVAL,
		  "rate_limiter: unknown field `iops`, expected `bandwidth` or `ops`" },
		{ "{\"ops\":[]}", EINVAL,
		  "rate_limiter.ops: invalid type: sequence, expected a JSON object (token bucket)" },
		{ "{\"bandwidth\":{\"size\":1}}", EINVAL,
		  "rate_limiter.bandwidth: missing field `refill_time`" },
		{ "{\"bandwidth\":{\"refill_time\":1}}", EINVAL,
		  "rate_limiter.bandwidth: missing field `size`" },
		{ "{\"ops\":{\"size\":1,\"refill_time\":1,\"burst\":1}}", EINVAL,
		  "rate_limiter.ops: unknown field `burst`, expected one of `size`, `refill_time`, `one_time_burst`" },
		{ "{\"ops\":{\"size\":\"1\",\"refill_time\":1}}", EINVAL,
		  "rate_limiter.ops: invalid type: string \"1\", expected u64 for `size`" },
		{ "{\"ops\":{\"size\":1.5,\"refill_time\":1}}", EINVAL,
		  "rate_limiter.ops: invalid type: floating point `1.5`, expected u64 for `size`" },
		{ "{\"ops\":{\"size\":null,\"refill_time\":1}}", EINVAL,
		  "rate_limiter.ops: invalid type: null, expected u64 for `size`" },
		{ "{\"ops\":{\"size\":1,\"refill_time\":-1}}", EINVAL,
		  "rate_limiter.ops: invalid value: integer `-1`, expected u64 for `refill_time`" },
		{ "{\"ops\":{\"size\":1,\"refill_time\":9223372036855}}", ERANGE,
		  "rate_limiter.ops: The value of `refill_time` is 9223372036855: it must be from 0 to 9223372036854." },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[256];

		snprintf(text, sizeof(text), DRIVE_WITH("%s"), cases[i].limiter);
		assert_refused(&config_drive_object, text, cases[i].code, cases[i].message);
	}
}

Test(config, bucket_of_a_patched_limiter_is_whole)
{
	struct drive_update_config update = { 0 };
	struct error err = { 0 };

	cr_assert_eq(parse(&config_drive_update_object, "{\"rate_limiter\":{\"ops\":{\"size\":1}}}",
			   true, &update, &err),
		     -EINVAL);
	cr_assert_str_eq(err.message, "rate_limiter.ops: missing field `refill_time`");
	cr_assert_eq(parse(&config_drive_update_object,
			   "{\"rate_limiter\":{\"ops\":{\"size\":0,\"refill_time\":0}}}", true,
			   &update, &err),
		     0);
	cr_assert(update.has_rate_limiter && update.rate_limiter.has_ops &&
		  !update.rate_limiter.has_bandwidth);
}

Test(config, serial_limiter_has_two_forms)
{
	struct serial_config serial = { 0 };
	struct rate_limiter_config limiter;
	char *written;

	written = written_limiter(
		&config_serial_object,
		"{\"rate_limiter\":{\"size\":10,\"refill_time\":20,\"one_time_burst\":30}}",
		&serial);
	cr_assert_str_eq(written, "{\"size\":10,\"refill_time\":20,\"one_time_burst\":30}");
	free(written);
	limiter = config_serial_limiter(&serial);
	cr_assert(limiter.has_bandwidth && !limiter.has_ops);
	cr_assert_eq(limiter.bandwidth.one_time_burst, 30);
	config_clear(&config_serial_object, &serial);

	written = written_limiter(&config_serial_object,
				  "{\"rate_limiter\":{\"ops\":{\"size\":10,\"refill_time\":20}}}",
				  &serial);
	cr_assert_str_eq(written,
			 "{\"ops\":{\"size\":10,\"refill_time\":20,\"one_time_burst\":0}}");
	free(written);
	limiter = config_serial_limiter(&serial);
	cr_assert(!limiter.has_bandwidth && limiter.has_ops);
	config_clear(&config_serial_object, &serial);

	limiter = config_serial_limiter(&serial);
	cr_assert(!limiter.has_bandwidth && !limiter.has_ops);
	assert_refused(
		&config_serial_object,
		"{\"rate_limiter\":{\"size\":1,\"refill_time\":1,\"ops\":null}}", EINVAL,
		"rate_limiter: unknown field `ops`, expected one of `size`, `refill_time`, `one_time_burst`");
	assert_refused(
		&config_serial_object, "{\"rate_limiter\":\"fast\"}", EINVAL,
		"rate_limiter: invalid type: string \"fast\", expected a JSON object (rate limiter)");
	assert_refused(&config_serial_object, "{\"limit\":1}", EINVAL,
		       "unknown field `limit`, expected `serial_out_path` or `rate_limiter`");
}

Test(config, merged_limiter_has_the_newer_buckets_and_none_that_limit_nothing)
{
	struct rate_limiter_config limiter = {
		.has_bandwidth = true, .bandwidth = { 1, 2, 3 }, .has_ops = true, .ops = { 4, 5, 6 }
	};
	struct rate_limiter_config nothing = { 0 }, ops = { .has_ops = true, .ops = { 7, 8, 9 } };
	struct rate_limiter_config zero = { .has_bandwidth = true, .bandwidth = { 0, 100, 100 } };

	config_rate_limiter_merge(&limiter, &nothing);
	cr_assert(limiter.has_bandwidth && limiter.has_ops);
	config_rate_limiter_merge(&limiter, &ops);
	cr_assert_eq(limiter.ops.size, 7);
	cr_assert_eq(limiter.bandwidth.size, 1);
	config_rate_limiter_merge(&limiter, &zero);
	cr_assert(!limiter.has_bandwidth && limiter.has_ops);
}

Test(config, deprecated_use_is_seen)
{
	json_t *used = json_of("{\"cpu_template\":\"None\"}"),
	       *null = json_of("{\"cpu_template\":null}");

	cr_assert(config_uses_deprecated(&config_machine_object, used));
	cr_assert_not(config_uses_deprecated(&config_machine_object, null));
	json_decref(used);
	json_decref(null);
}

Test(config, copy_owns_its_strings)
{
	struct drive_config from = { .drive_id = strdup("a"),
				     .path_on_host = strdup("b"),
				     .is_read_only = true };
	struct drive_config to = { .drive_id = strdup("old"), .partuuid = strdup("old") };

	cr_assert_eq(config_copy(&config_drive_object, &to, &from), 0);
	config_clear(&config_drive_object, &from);
	cr_assert_str_eq(to.drive_id, "a");
	cr_assert_str_eq(to.path_on_host, "b");
	cr_assert_null(to.partuuid);
	cr_assert(to.is_read_only);
	config_clear(&config_drive_object, &to);
}

static void assert_machine(struct machine_config machine, const char *message)
{
	struct error err = { 0 };
	int result = config_machine_check(&machine, &err);

	if (message) {
		cr_assert(result < 0);
		cr_assert(strstr(err.message, message), "%s", err.message);
	} else {
		cr_assert_eq(result, 0, "%s", err.message);
	}
}

Test(config_check, machine_fields_fit_each_other)
{
	static const char vcpus[] = "can only be 1 or an even number",
			  memory[] = "not a multiple of";
	char t2[] = "T2", none[] = "None";

	assert_machine((struct machine_config) { 1, 16 }, NULL);
	assert_machine((struct machine_config) { 32, 128, .smt = true }, NULL);
	assert_machine((struct machine_config) { 1, 128, .smt = true }, NULL);
	assert_machine((struct machine_config) { 3, 128 }, NULL);
	assert_machine((struct machine_config) { 3, 128, .smt = true }, vcpus);
	assert_machine((struct machine_config) { 33, 128 }, vcpus);
	assert_machine((struct machine_config) { 0, 128 }, vcpus);
	assert_machine((struct machine_config) { 1, 0 }, memory);
	assert_machine((struct machine_config) { 1, 3 }, "`mem_size_mib` is 3");
	assert_machine((struct machine_config) { 1, 4 }, NULL);
	assert_machine((struct machine_config) { 1, 17, .huge_pages = HUGE_PAGES_2M }, memory);
	assert_machine((struct machine_config) { 1, 17, .huge_pages = HUGE_PAGES_TRANSPARENT },
		       NULL);
	assert_machine((struct machine_config) { 1, 18, .huge_pages = HUGE_PAGES_2M }, NULL);
	assert_machine((struct machine_config) { 1, 18, .huge_pages = (enum huge_pages)3 },
		       "huge_pages");
	assert_machine((struct machine_config) { 1, 18, .cpu_template = none }, NULL);
	assert_machine((struct machine_config) { 1, 18, .cpu_template = t2 },
		       "CPU template `T2` is not supported");
}

Test(config_check, ids_are_letters_digits_and_underscores)
{
	char longest[CONFIG_MAX_ID_BYTES + 2];
	struct error err;

	memset(longest, 'a', sizeof(longest));
	longest[CONFIG_MAX_ID_BYTES] = '\0';
	cr_assert_eq(config_id_check(longest, &err), 0);
	longest[CONFIG_MAX_ID_BYTES] = 'a';
	longest[CONFIG_MAX_ID_BYTES + 1] = '\0';
	cr_assert_eq(config_id_check(longest, &err), -EINVAL);
	cr_assert(strstr(err.message, "64 at most"), "%s", err.message);
	cr_assert_eq(config_id_check("root_FS_0", &err), 0);
	cr_assert_eq(config_id_check("", &err), -EINVAL);
	cr_assert_str_eq(err.message, "The ID cannot be empty.");
	for (const char *const *id =
		     (const char *const[]) { "a-b", "a b", "a/b", "\xc3\xa4", "a.", NULL };
	     *id; id++) {
		cr_assert_eq(config_id_check(*id, &err), -EINVAL, "%s", *id);
		cr_assert_str_eq(
			err.message,
			"API Resource IDs can only contain alphanumeric characters and underscores.");
	}
}

static int check_drive(const char *id, const char *path, const char *partuuid, struct error *err)
{
	struct drive_config drive = { .drive_id = strdup(id),
				      .path_on_host = path ? strdup(path) : NULL,
				      .partuuid = partuuid ? strdup(partuuid) : NULL };
	int result = config_drive_check(&drive, err);

	config_clear(&config_drive_object, &drive);
	return result;
}

Test(config_check, drive_needs_id_and_path)
{
	struct error err;

	cr_assert_eq(check_drive("a", "/x", NULL, &err), 0);
	cr_assert_eq(check_drive("", "/x", NULL, &err), -EINVAL);
	cr_assert_eq(check_drive("a", "", NULL, &err), -EINVAL);
	cr_assert_str_eq(err.message, "drive a: path_on_host is empty");
	cr_assert_eq(check_drive("a", NULL, NULL, &err), -EINVAL);
}

Test(config_check, partuuid_is_a_gpt_or_an_mbr_one)
{
	static const char *const bad[] = { "",
					   "6c3b2ad1",
					   "6c3b2ad1-1",
					   "6c3b2ad1-001",
					   "6c3b2adg-01",
					   "0eaa91a0-0bfb-42f9-9a3a-7ba8e5d7e2c",
					   "0eaa91a0-0bfb-42f9-9a3a-7ba8e5d7e2c1/PARTNROFF=1",
					   "0eaa91a0_0bfb-42f9-9a3a-7ba8e5d7e2c1",
					   "6c3b2ad1-01 init=/bin/sh" };
	struct error err;

	cr_assert_eq(check_drive("a", "/x", "6C3b2ad1-01", &err), 0);
	cr_assert_eq(check_drive("a", "/x", "0eaa91a0-0bfb-42f9-9A3A-7ba8e5d7e2c1", &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert_eq(check_drive("a", "/x", bad[i], &err), -EINVAL, "%s", bad[i]);
		cr_assert(strstr(err.message, "drive a: partuuid `"), "%s", err.message);
		cr_assert(strstr(err.message, bad[i]), "%s", err.message);
	}
}

Test(config_check, log_level_is_a_known_word)
{
	char warning[] = "WARNING", loud[] = "Loud";
	struct logger_config logger = { .level = warning };
	struct error err;

	cr_assert_eq(config_logger_check(&logger, &err), 0);
	logger.level = loud;
	cr_assert_eq(config_logger_check(&logger, &err), -EINVAL);
	cr_assert(strstr(err.message, "`Loud`"), "%s", err.message);
	logger.level = NULL;
	cr_assert_eq(config_logger_check(&logger, &err), 0);
}

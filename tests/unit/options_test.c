#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "src/options.h"

#define MAX_WORDS 32

/* Parses "mayfly WORD WORD ...": words are separated by single spaces. */
static int parse(struct options *options, struct error *err, const char *words)
{
	static char text[1024];
	static char *argv[MAX_WORDS];
	int argc = 0;

	memset(err, 0, sizeof(*err));
	strcpy(text, words);
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	return options_parse(options, argc, argv, err);
}

static struct options good(const char *words)
{
	struct options options;
	struct error err;

	cr_assert_eq(parse(&options, &err, words), 0, "%s: %s", words, err.message);
	return options;
}

static const char *bad(const char *words)
{
	static struct error err;
	struct options options;

	cr_assert_lt(parse(&options, &err, words), 0, "%s was taken", words);
	config_vm_clear(&options.config);
	return err.message;
}

Test(options, without_words_the_api_listens_at_its_default_place)
{
	struct options options = good("mayfly");

	cr_assert_eq(options.command, OPTIONS_MONITOR);
	cr_assert_str_eq(options.api_socket, "/run/mayfly.socket");
	cr_assert_eq(options.max_payload_bytes, 51200);
}

Test(options, every_option_of_the_monitor_is_taken)
{
	struct options options = good(
		"mayfly --api-sock /a --id x-1 --config-file /c --log-path /l --level Debug --module src --show-level "
		"--show-log-origin --metrics-path /m --startup-trace /t --boot-timer --http-api-max-payload-size 100 --no-seccomp "
		"--start-time-us 5 --start-time-cpu-us 6 --parent-cpu-time-us 7");

	cr_assert_str_eq(options.api_socket, "/a");
	cr_assert_str_eq(options.id, "x-1");
	cr_assert_str_eq(options.config_file, "/c");
	cr_assert(options.has_logger);
	cr_assert_str_eq(options.logger.log_path, "/l");
	cr_assert_str_eq(options.logger.level, "Debug");
	cr_assert_str_eq(options.logger.module, "src");
	cr_assert(options.logger.show_level && options.logger.show_log_origin);
	cr_assert_str_eq(options.metrics_path, "/m");
	cr_assert_str_eq(options.startup_trace, "/t");
	cr_assert(options.boot_timer);
	cr_assert_eq(options.max_payload_bytes, 100);
	cr_assert_eq(options.start_time_us, 5);
}

Test(options, values_may_follow_an_equals_sign)
{
	cr_assert_str_eq(good("mayfly --api-sock=/a").api_socket, "/a");
}

Test(options, no_api_needs_a_config_file)
{
	cr_assert_null(good("mayfly --no-api --config-file /c").api_socket);
	cr_assert(strstr(bad("mayfly --no-api"), "--config-file"));
}

Test(options, wrong_use_says_what_to_type)
{
	cr_assert(strstr(bad("mayfly --colour"), "no option --colour"));
	cr_assert(strstr(bad("mayfly --colour"), "mayfly --help"));
	cr_assert(strstr(bad("mayfly --api-sock"), "--api-sock needs a value"));
	cr_assert(strstr(bad("mayfly --no-api=yes"), "--no-api takes no value"));
	cr_assert(strstr(bad("mayfly vmlinux"), "mayfly run --kernel vmlinux"));
	cr_assert(strstr(bad("mayfly --http-api-max-payload-size 0"), "from 1 to"));
	cr_assert(strstr(bad("mayfly --http-api-max-payload-size ten"), "'ten'"));
	cr_assert(strstr(bad("mayfly --start-time-us -5"), "'-5'"));
	cr_assert(strstr(bad("mayfly --start-time-cpu-us now"),
			 "--start-time-cpu-us takes a whole number"));
	cr_assert(strstr(bad("mayfly --parent-cpu-time-us=now"),
			 "--parent-cpu-time-us takes a whole number"));
	cr_assert(strstr(bad("mayfly -xh"), "no option -x."));
	cr_assert(strstr(bad("mayfly -x"), "no option -x."));
}

Test(options, a_level_or_an_id_that_cannot_be_is_wrong_use)
{
	cr_assert(strstr(bad("mayfly --level loud"), "--level: The log level `loud` is unknown"));
	cr_assert(strstr(bad("mayfly run --kernel k --level loud"), "--level"));
	cr_assert(strstr(bad("mayfly --id a_b"), "--id: the id 'a_b'"));
	cr_assert(strstr(bad("mayfly run --kernel k --id a/b"), "--id: the id 'a/b'"));
	cr_assert(strstr(bad("mayfly --id="), "--id: the id ''"));
}

Test(options, filters_come_from_a_file_or_are_left_out_not_both)
{
	struct options options = good("mayfly --seccomp-filter /f");

	cr_assert_str_eq(options.seccomp_filter, "/f");
	cr_assert_not(options.no_seccomp);
	options = good("mayfly run --kernel k --no-seccomp");
	cr_assert(options.no_seccomp);
	cr_assert_null(options.seccomp_filter);
	config_vm_clear(&options.config);
	cr_assert(strstr(bad("mayfly --seccomp-filter /f --no-seccomp"), "contradict"));
	cr_assert(strstr(bad("mayfly run --kernel k --no-seccomp --seccomp-filter /f"),
			 "contradict"));
}

Test(options, what_this_version_lacks_is_refused_by_name)
{
	cr_assert(strstr(bad("mayfly --metadata /m"), "--metadata is not supported"));
	cr_assert(strstr(bad("mayfly --mmds-size-limit 5"), "--mmds-size-limit is not supported"));
}

Test(options, snapshots_are_described_and_merged)
{
	cr_assert_eq(good("mayfly --snapshot-version").command, OPTIONS_SNAPSHOT_VERSION);
	cr_assert_eq(good("mayfly --describe-snapshot /s").command, OPTIONS_DESCRIBE_SNAPSHOT);
	cr_assert_str_eq(good("mayfly --describe-snapshot /s --json").describe_snapshot, "/s");
	cr_assert(good("mayfly --describe-snapshot /s --json").json);
	cr_assert(strstr(bad("mayfly --json"), "--json goes with --describe-snapshot"));
	cr_assert_eq(good("mayfly merge-memory a b").command, OPTIONS_MERGE_MEMORY);
	cr_assert_str_eq(good("mayfly merge-memory a b").merge_base, "a");
	cr_assert_str_eq(good("mayfly merge-memory a b").merge_diff, "b");
	cr_assert(strstr(bad("mayfly merge-memory a"), "Two files are needed"));
	cr_assert(strstr(bad("mayfly merge-memory a b c"), "Two files are needed"));
}

Test(options, merge_memory_has_options_of_its_own)
{
	cr_assert_eq(good("mayfly merge-memory --help").command, OPTIONS_MERGE_HELP);
	cr_assert_eq(good("mayfly merge-memory -h a b").command, OPTIONS_MERGE_HELP);
	cr_assert_eq(good("mayfly merge-memory --version").command, OPTIONS_VERSION);
	cr_assert_str_eq(good("mayfly merge-memory -- -a b").merge_base, "-a");
	cr_assert_str_eq(
		bad("mayfly merge-memory --force a b"),
		"There is no option --force. mayfly merge-memory --help lists all options.");
	cr_assert(strstr(bad("mayfly merge-memory"), "Two files are needed"));
}

Test(options, an_option_of_the_other_command_line_is_found_there)
{
	cr_assert(
		strstr(bad("mayfly run --prepare vcpu_count=1 --kernel k"),
		       "--prepare is no option of mayfly run, which boots a guest at once, but of "
		       "mayfly without 'run': mayfly --prepare ..."));
	cr_assert(strstr(bad("mayfly run --config-file=x"),
			 "mayfly --config-file ... (mayfly --help)"));
	cr_assert(strstr(bad("mayfly --kernel=vmlinux"),
			 "--kernel is an option of mayfly run: mayfly run --kernel FILE"));
	cr_assert(strstr(bad("mayfly --mem 1G"), "--mem is an option of mayfly run"));
	cr_assert(strstr(bad("mayfly run --kernel k --colour"), "There is no option --colour"));
	cr_assert(strstr(bad("mayfly run --no-seccomp=x"), "--no-seccomp takes no value"));
}

Test(options, a_word_that_is_no_command_says_where_it_leads)
{
	cr_assert(strstr(bad("mayfly audit-host"), "scripts/audit-host"));
	cr_assert_null(strstr(bad("mayfly audit-host"), "--kernel"));
	cr_assert(strstr(bad("mayfly jailer"), "mayfly-jailer --help"));
	cr_assert(strstr(bad("mayfly mayfly-uffd"), "mayfly-uffd --help"));
	cr_assert(strstr(bad("mayfly snapshot"), "PUT /snapshot/create"));
	cr_assert(strstr(bad("mayfly describe-snapshot /s"),
			 "an option: mayfly --describe-snapshot"));
	cr_assert(strstr(bad("mayfly version"), "an option: mayfly --version"));
	cr_assert(strstr(bad("mayfly --id a run"), "'run' comes first"));
	cr_assert(
		strstr(bad("mayfly vmlinux"), "no command: there are run, merge-memory and help"));
}

Test(options, help_and_version)
{
	cr_assert_eq(good("mayfly help run").command, OPTIONS_RUN_HELP);
	cr_assert_eq(good("mayfly help merge-memory").command, OPTIONS_MERGE_HELP);
	cr_assert(strstr(bad("mayfly help audit-host"), "not for 'audit-host'"));
	cr_assert_eq(good("mayfly --help").command, OPTIONS_HELP);
	cr_assert_eq(good("mayfly help").command, OPTIONS_HELP);
	cr_assert_eq(good("mayfly --version").command, OPTIONS_VERSION);
	cr_assert_eq(good("mayfly run --help").command, OPTIONS_RUN_HELP);
}

Test(options, run_fills_a_configuration)
{
	struct options options = good(
		"mayfly run --kernel k --initrd i --drive a,ro --drive b,async,root --cpus 4 --mem 2G -- quiet init=/x");
	struct vm_config *config = &options.config;

	cr_assert_eq(options.command, OPTIONS_RUN);
	cr_assert_null(options.api_socket);
	cr_assert_str_eq(config->boot_source.kernel_image_path, "k");
	cr_assert_str_eq(config->boot_source.initrd_path, "i");
	cr_assert(strstr(config->boot_source.boot_args, "console=ttyS0"));
	cr_assert(strstr(config->boot_source.boot_args, " quiet init=/x"));
	cr_assert_eq(config->machine.vcpu_count, 4);
	cr_assert_eq(config->machine.mem_size_mib, 2048);
	cr_assert_eq(config->drive_count, 2);
	cr_assert_str_eq(config->drives[0].path_on_host, "a");
	cr_assert(config->drives[0].is_read_only && !config->drives[0].is_root_device);
	cr_assert_str_eq(config->drives[1].path_on_host, "b");
	cr_assert(config->drives[1].is_root_device);
	cr_assert_eq(config->drives[1].io_engine, IO_ENGINE_ASYNC);
	cr_assert_str_eq(config->drives[1].drive_id, "drive1");
	config_vm_clear(config);
}

Test(options, the_first_drive_is_the_root_unless_something_else_is)
{
	struct options options = good("mayfly run --kernel k --drive a --drive b");

	cr_assert(options.config.drives[0].is_root_device);
	config_vm_clear(&options.config);
	options = good("mayfly run --kernel k --drive a --drive b,root");
	cr_assert_not(options.config.drives[0].is_root_device);
	config_vm_clear(&options.config);
	options = good("mayfly run --kernel k --initrd i --drive a");
	cr_assert_not(options.config.drives[0].is_root_device);
	config_vm_clear(&options.config);
	options = good("mayfly run --kernel k --drive a -- root=/dev/vda1");
	cr_assert_not(options.config.drives[0].is_root_device);
	config_vm_clear(&options.config);
}

Test(options, run_takes_network_interfaces)
{
	struct options options = good(
		"mayfly run --kernel k --tap tap0 --tap t1,mac=06:00:ac:10:00:02,mtu=9000 --tap t2,mtu=1400");
	struct network_interface_config *interfaces = options.config.interfaces;

	cr_assert_eq(options.config.interface_count, 3);
	cr_assert_str_eq(interfaces[0].iface_id, "eth0");
	cr_assert_str_eq(interfaces[0].host_dev_name, "tap0");
	cr_assert_null(interfaces[0].guest_mac);
	cr_assert_eq(interfaces[0].mtu, 0);
	cr_assert_str_eq(interfaces[1].iface_id, "eth1");
	cr_assert_str_eq(interfaces[1].host_dev_name, "t1");
	cr_assert_str_eq(interfaces[1].guest_mac, "06:00:ac:10:00:02");
	cr_assert_eq(interfaces[1].mtu, 9000);
	cr_assert_eq(interfaces[2].mtu, 1400);
	config_vm_clear(&options.config);
	cr_assert(strstr(bad("mayfly run --kernel k --tap ,mtu=1400"),
			 "--tap needs the name of a TAP"));
	cr_assert(
		strstr(bad("mayfly run --kernel k --tap t,mtu=67"), "from 68 to 65535, not '67'"));
	cr_assert(strstr(bad("mayfly run --kernel k --tap t,speed=1"), "not 'speed=1'"));
	cr_assert(strstr(bad("mayfly run --kernel k --tap t,mac=a,mac=b"), "one mac="));
}

Test(options, a_comma_in_a_file_name_is_kept)
{
	struct options options = good("mayfly run --kernel k --drive a,b.img,ro");

	cr_assert_str_eq(options.config.drives[0].path_on_host, "a,b.img");
	config_vm_clear(&options.config);
}

Test(options, memory_sizes)
{
	static const struct {
		const char *text;
		uint64_t mib;
	} sizes[] = { { "256", 256 }, { "256M", 256 },	{ "256MiB", 256 },
		      { "3G", 3072 }, { "1GiB", 1024 }, { "4M", 4 } };
	char words[64];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct options options;

		strcpy(words, "mayfly run --kernel k --mem ");
		strcat(words, sizes[i].text);
		options = good(words);
		cr_assert_eq(options.config.machine.mem_size_mib, sizes[i].mib);
		config_vm_clear(&options.config);
	}
	cr_assert(strstr(bad("mayfly run --kernel k --mem 256K"), "'256K'"));
	cr_assert(strstr(bad("mayfly run --kernel k --mem -1"), "'-1'"));
	cr_assert(strstr(bad("mayfly run --kernel k --mem M"), "'M'"));
	cr_assert(strstr(bad("mayfly run --kernel k --mem 99999999999999999999"), "--mem"));
	cr_assert(strstr(bad("mayfly run --kernel k --mem 999999G"), "--mem takes at most 65536G"));
	cr_assert(strstr(bad("mayfly run --kernel k --mem 0"), "--mem takes at least 4M"));
	cr_assert(strstr(bad("mayfly run --kernel k --mem 3M"), "--mem takes at least 4M"));
}

Test(options, run_refuses_wrong_use_with_a_sentence)
{
	cr_assert(strstr(bad("mayfly run"), "mayfly run --kernel FILE"));
	cr_assert(strstr(bad("mayfly run --kernel a --kernel b"), "given once"));
	cr_assert(strstr(bad("mayfly run --kernel k --cpus 0"), "from 1 to 32"));
	cr_assert(strstr(bad("mayfly run --kernel k --cpus 33"), "from 1 to 32"));
	cr_assert(strstr(bad("mayfly run --kernel k --drive ,ro"), "--drive needs a file"));
	cr_assert(strstr(bad("mayfly run --kernel k quiet"), "-- quiet"));
	cr_assert(strstr(bad("mayfly run --kernel k --disk d"), "no option --disk"));
}

Test(options, more_drives_than_slots_are_refused)
{
	char words[1024] = "mayfly run --kernel k";

	for (int i = 0; i < CONFIG_MAX_DRIVES + 1; i++)
		strcat(words, i < 13 ? " --drive=a" : " --drive=b");
	cr_assert(strstr(bad(words), "at most"));
}

Test(options, a_machine_to_prepare_has_the_keys_of_the_machine_configuration)
{
	struct options options = good("mayfly --prepare vcpu_count=4,mem_size_mib=256,smt=true");

	cr_assert(options.prepare);
	cr_assert_eq(options.config.machine.vcpu_count, 4);
	cr_assert_eq(options.config.machine.mem_size_mib, 256);
	cr_assert(options.config.machine.smt);
	cr_assert_not(options.config.machine.track_dirty_pages);
	options = good("mayfly --prepare huge_pages=2M,track_dirty_pages=true");
	cr_assert_eq(options.config.machine.vcpu_count, 1);
	cr_assert_eq(options.config.machine.mem_size_mib, 128);
	cr_assert_eq(options.config.machine.huge_pages, HUGE_PAGES_2M);
	cr_assert(options.config.machine.track_dirty_pages);
	cr_assert_not(good("mayfly").prepare);
}

Test(options, what_cannot_be_prepared_is_refused_by_its_key)
{
	static const struct {
		const char *words, *message;
	} cases[] = {
		{ "vcpu_count=0", "--prepare vcpu_count=0: The vCPU number is invalid!" },
		{ "vcpu_count=33", "--prepare vcpu_count=33: The vCPU number is invalid!" },
		{ "vcpu_count=-1", "--prepare vcpu_count=-1: " },
		{ "vcpu_count=two", "vcpu_count" },
		{ "vcpu_count=1.5", "vcpu_count" },
		{ "vcpu_count=[1]", "vcpu_count" },
		{ "vcpu_count=", "vcpu_count" },
		{ "vcpu_count=null", "vcpu_count" },
		{ "mem_size_mib=0", "--prepare mem_size_mib=0: The memory size" },
		{ "mem_size_mib=99999999999999999999", "mem_size_mib" },
		{ "mem_size_mib=33,huge_pages=2M", "--prepare: The memory size" },
		{ "huge_pages=1G", "--prepare huge_pages=1G: " },
		{ "smt=yes", "--prepare smt=yes: " },
		{ "vcpus=1", "unknown field `vcpus`" },
		{ "vcpu_count=1,vcpu_count=2", "--prepare: vcpu_count is given twice." },
		{ "vcpu_count", "KEY=VALUE" },
		{ "vcpu_count=1,", "KEY=VALUE" },
		{ "vcpu_count=1 --prepare vcpu_count=1", "--prepare is given twice." },
		{ "vcpu_count=1 --config-file x", "--config-file starts at once" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char words[128];

		snprintf(words, sizeof(words), "mayfly --prepare %s", cases[i].words);
		cr_assert(strstr(bad(words), cases[i].message), "%s: %s", words, bad(words));
	}
}

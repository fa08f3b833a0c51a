/* The jailer's command line: words alone, before anything is looked at. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "jail/options.h"
#include "jail/paths.h"
#include "jail/room.h"

static struct jail_options options;
static struct error err;

static int parse(const char *words)
{
	static char copy[1024];
	static char *argv[64];
	int argc = 0;

	snprintf(copy, sizeof(copy), "mayfly-jailer %s", words);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	jail_options_clear(&options);
	err = (struct error) { 0 };
	return jail_options_parse(&options, argc, argv, &err);
}

#define WHOLE "--id a --exec-file /usr/bin/mayfly --uid 5 --gid 6 "

#define REFUSED(words, because)                                                        \
	do {                                                                           \
		cr_expect_lt(parse(words), 0, "%s", words);                            \
		cr_expect(strstr(err.message, because), "%s: %s", words, err.message); \
	} while (0)

Test(jail_options, all_of_them)
{
	cr_assert_eq(
		parse(WHOLE
		      "--chroot-base-dir /jails --netns /run/netns/x --daemonize --new-pid-ns "
		      "--cgroup memory.max=1G --cgroup pids.max=9 --cgroup-version 2 "
		      "--parent-cgroup a/b --resource-limit fsize=10 --resource-limit no-file=20 "
		      "--file /images/root:disk:ro --file kernel --strict -- --level Debug"),
		0, "%s", err.message);
	cr_expect_str_eq(options.id, "a");
	cr_expect_str_eq(options.exec_name, "mayfly");
	cr_expect_str_eq(options.base_dir, "/jails");
	cr_expect_eq(options.uid, 5);
	cr_expect_eq(options.gid, 6);
	cr_expect(options.daemonize && options.new_pid_ns && options.strict);
	cr_expect_eq(options.setting_count, 2);
	cr_expect_str_eq(options.settings[0].file, "memory.max");
	cr_expect_str_eq(options.settings[0].value, "1G");
	cr_expect_str_eq(options.settings[0].controller, "memory");
	cr_expect_eq(options.cgroup_version, 2);
	cr_expect_str_eq(options.parent_cgroup, "a/b");
	cr_expect_eq(options.fsize_bytes, 10);
	cr_expect_eq(options.no_file, 20);
	cr_expect_eq(options.file_count, 2);
	cr_expect_str_eq(options.files[0].host, "/images/root");
	cr_expect_str_eq(options.files[0].name, "disk");
	cr_expect(options.files[0].read_only);
	cr_expect_str_eq(options.files[1].name, "kernel");
	cr_expect_eq(options.monitor_argc, 2);
	cr_expect_str_eq(options.monitor_argv[1], "Debug");
}

Test(jail_options, what_is_not_said)
{
	cr_assert_eq(parse(WHOLE), 0, "%s", err.message);
	cr_expect_str_eq(options.base_dir, "/srv/jailer");
	cr_expect_eq(options.no_file, 2048);
	cr_expect_not(options.has_fsize);
	cr_expect_eq(options.cgroup_version, 0);
	cr_expect_str_eq(options.api_socket, "run/mayfly.socket");
	cr_expect_eq(options.monitor_argc, 0);
}

Test(jail_options, where_the_api_socket_will_be)
{
	cr_expect_eq(parse(WHOLE "-- --api-sock /api.sock"), 0);
	cr_expect_str_eq(options.api_socket, "api.sock");
	cr_expect_eq(parse(WHOLE "-- --api-sock=run/x"), 0);
	cr_expect_str_eq(options.api_socket, "run/x");
	cr_expect_eq(parse(WHOLE "-- --api-sock ../x"), 0);
	cr_expect_null(options.api_socket);
	cr_expect_eq(parse(WHOLE "-- --api-sock"), 0);
	cr_expect_str_eq(options.api_socket, "run/mayfly.socket");
}

Test(jail_options, refusals)
{
	REFUSED("--exec-file /x --uid 1 --gid 1", "--id is missing");
	REFUSED("--id a.b --exec-file /x", "the id 'a.b'");
	REFUSED("--id a --uid 1 --gid 1", "--exec-file is missing");
	REFUSED(WHOLE "--uid 0", "--uid 0");
	REFUSED(WHOLE "--gid 0", "--gid 0");
	REFUSED(WHOLE "--uid 4294967295", "4294967294");
	REFUSED(WHOLE "--uid 1x", "--uid takes");
	REFUSED("--id a --exec-file /a/../b --uid 1 --gid 1", "'..'");
	REFUSED("--id a --exec-file /a/ --uid 1 --gid 1", "does not end in a file's name");
	REFUSED("--id a --exec-file /dev --uid 1 --gid 1", "in the way of /dev");
	REFUSED(WHOLE "--cgroup-version 0", "takes 1 or 2");
	REFUSED(WHOLE "--resource-limit fsize", "--resource-limit takes");
	REFUSED(WHOLE "--resource-limit fsize=-1", "whole number");
	REFUSED(WHOLE "--resource-limit no-file=99999999999", "whole number");
	REFUSED(WHOLE "--parent-cgroup a//b", "--parent-cgroup");
	REFUSED(WHOLE "--file a:x --file b:x", "would both be 'x'");
	REFUSED(WHOLE "--file a:mayfly", "the jailer's own");
	REFUSED(WHOLE "--file a:mayfly/x", "the jailer's own");
	REFUSED(WHOLE "--file a:dev", "the jailer's own");
}

Test(jail_options, names_like_the_programs_are_free)
{
	cr_expect_eq(parse(WHOLE "--file a:mayfly2 --file b:device --file c:run/x"), 0, "%s",
		     err.message);
}

static int parse_file(const char *text, const char *host, const char *name, bool read_only)
{
	struct jail_file file;
	int result = jail_parse_file(&file, text, &err);

	if (result == 0) {
		cr_expect_str_eq(file.host, host);
		cr_expect_str_eq(file.name, name);
		cr_expect_eq(file.read_only, read_only);
	}
	jail_file_clear(&file);
	return result;
}

Test(jail_options, files)
{
	cr_expect_eq(parse_file("/a/b", "/a/b", "b", false), 0);
	cr_expect_eq(parse_file("/a/b:ro", "/a/b", "b", true), 0);
	cr_expect_eq(parse_file("b:/c/d", "b", "c/d", false), 0);
	cr_expect_eq(parse_file("b:ro:ro", "b", "ro", true), 0);
	cr_expect_lt(parse_file("", "", "", false), 0);
	cr_expect_lt(parse_file(":x", "", "", false), 0);
	cr_expect_lt(parse_file("a:", "", "", false), 0);
	cr_expect_lt(parse_file("a:b:c", "", "", false), 0);
	cr_expect_lt(parse_file("a:b:ro:ro", "", "", false), 0);
	cr_expect_lt(parse_file("a:b/../c", "", "", false), 0);
	cr_expect_lt(parse_file("a:b/", "", "", false), 0);
	cr_expect_lt(parse_file("/", "", "", false), 0);
	cr_expect_lt(parse_file("../a", "", "", false), 0);
}

static int parse_setting(const char *text)
{
	struct cgroup_setting setting;
	int result = jail_parse_setting(&setting, text, &err);

	jail_setting_clear(&setting);
	return result;
}

Test(jail_options, cgroup_settings)
{
	cr_expect_eq(parse_setting("io.max=8:0 rbps=1 wbps=2"), 0);
	cr_expect_eq(parse_setting("hugetlb.2MB.max=0"), 0);
	cr_expect_lt(parse_setting("memory.max"), 0);
	cr_expect_lt(parse_setting("=1"), 0);
	cr_expect_lt(parse_setting(".max=1"), 0);
	cr_expect_lt(parse_setting("max=1"), 0);
	cr_expect_lt(parse_setting("../x.y=1"), 0);
	cr_expect_lt(parse_setting("a/b.c=1"), 0);
	cr_expect_lt(parse_setting("cgroup.procs=0"), 0);
	cr_expect_lt(parse_setting("cgroup.subtree_control=+x"), 0);
	cr_expect_eq(parse_setting("cgroup.max.depth=0"), 0);
	cr_expect_lt(parse_setting("memory.max=1\n2"), 0);
	cr_expect_lt(parse_setting("memory.max="), 0);
}

Test(jail_paths, names)
{
	cr_expect(path_check_name("a"));
	cr_expect(path_check_name("a/b.c/..d/.e"));
	cr_expect_not(path_check_name(""));
	cr_expect_not(path_check_name("/a"));
	cr_expect_not(path_check_name("a/"));
	cr_expect_not(path_check_name("a//b"));
	cr_expect_not(path_check_name("a/./b"));
	cr_expect_not(path_check_name("a/.."));
	cr_expect_not(path_check_name(".."));
}

Test(jail_room, pids)
{
	cr_expect_eq(room_parse_pid("1"), 1);
	cr_expect_eq(room_parse_pid("4194304\n"), 4194304);
	cr_expect_eq(room_parse_pid(""), -1);
	cr_expect_eq(room_parse_pid("0"), -1);
	cr_expect_eq(room_parse_pid("-5"), -1);
	cr_expect_eq(room_parse_pid("5 6"), -1);
	cr_expect_eq(room_parse_pid("5\n6"), -1);
	cr_expect_eq(room_parse_pid("99999999999999999999"), -1);
}

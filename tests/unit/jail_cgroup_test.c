/* What the jailer understands of cgroup files: values read back, mounts, memberships. */
#include <criterion/criterion.h>
#include <string.h>

#include "jail/cgroup_private.h"

#define HOLDS(written, found) \
	cr_expect(cgroup_value_holds(written, found), "%s / %s", written, found)
#define HOLDS_NOT(written, found) \
	cr_expect_not(cgroup_value_holds(written, found), "%s / %s", written, found)

Test(jail_cgroup, a_value_reads_back_as_it_was_written)
{
	HOLDS("12", "12\n");
	HOLDS("max", "max\n");
	HOLDS("0-3", "0-3\n");
	HOLDS("default 50", "default 50\n");
	HOLDS_NOT("12", "13\n");
	HOLDS_NOT("12", "120\n");
	HOLDS_NOT("12", "");
	HOLDS_NOT("12", "\n");
	HOLDS_NOT("max", "12\n");
	HOLDS_NOT("12", "max\n");
}

Test(jail_cgroup, sizes_are_bytes_in_whole_pages)
{
	HOLDS("1G", "1073741824\n");
	HOLDS("64m", "67108864\n");
	HOLDS("5000", "4096\n");
	HOLDS("100000000", "99999744\n");
	HOLDS("1T", "1099511627776\n");
	HOLDS_NOT("1G", "1073741823\n");
	HOLDS_NOT("1G", "1G1\n");
	HOLDS_NOT("5000", "8192\n");
	HOLDS_NOT("100", "0\n");
	HOLDS_NOT("99999999999999999999G", "0\n");
	HOLDS_NOT("18446744073709551615K", "max\n");
}

Test(jail_cgroup, no_limit_has_three_names)
{
	HOLDS("-1", "9223372036854771712\n");
	HOLDS("max", "9223372036854771712\n");
	HOLDS("-1", "-1\n");
	HOLDS_NOT("-1", "9223372036854767616\n");
	HOLDS_NOT("9223372036854771712", "max\n");
}

Test(jail_cgroup, the_kernel_adds_words_that_were_left_out)
{
	HOLDS("50000", "50000 100000\n");
	HOLDS("50000 100000", "50000 100000\n");
	HOLDS("100", "default 100\n");
	HOLDS_NOT("50000 20000", "50000 100000\n");
	HOLDS_NOT("100000 50000", "50000 100000\n");
}

Test(jail_cgroup, a_line_for_each_device)
{
	const char *found = "8:16 rbps=max wbps=1048576 riops=max wiops=max\n"
			    "8:0 rbps=2097152 wbps=max riops=120 wiops=max\n";

	HOLDS("8:0 rbps=2097152 riops=120", found);
	HOLDS("8:0 rbps=2M", found);
	HOLDS("8:0 wbps=max", found);
	HOLDS_NOT("8:0 wbps=1048576", found);
	HOLDS_NOT("8:0 rbps=2097153", found);
	HOLDS_NOT("8:32 rbps=max", found);
	HOLDS_NOT("8:0 xbps=max", found);
}

Test(jail_cgroup, lists_of_cpus_are_sets)
{
	HOLDS("0,1,2,3", "0-3\n");
	HOLDS("3,0-2", "0-3\n");
	HOLDS("1,1-1", "1\n");
	HOLDS_NOT("0-3", "0-2\n");
	HOLDS_NOT("0-3", "0-3,5\n");
	HOLDS_NOT("0-", "0\n");
	HOLDS_NOT(",0", "0\n");
	HOLDS_NOT("0,", "0\n");
	HOLDS_NOT("0-1-2", "0-2\n");
	HOLDS_NOT("8192", "8193\n");
	HOLDS_NOT("99999999999", "1\n");
}

Test(jail_cgroup, an_empty_value_is_an_empty_file)
{
	HOLDS("", "\n");
	HOLDS(" ", "");
	HOLDS_NOT("", "0\n");
}

Test(jail_cgroup, mounts_of_v2)
{
	char path[PATH_MAX];

	cr_expect(cgroup_parse_mount(
		"30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 "
		"rw,nsdelegate\n",
		NULL, path));
	cr_expect_str_eq(path, "/sys/fs/cgroup");
	cr_expect(cgroup_parse_mount("30 25 0:26 / /a\\040b\\134c rw - cgroup2 none rw\n", NULL,
				     path));
	cr_expect_str_eq(path, "/a b\\c");
	cr_expect_not(
		cgroup_parse_mount("30 25 0:26 / /x rw - cgroup cgroup rw,memory\n", NULL, path));
	cr_expect_not(cgroup_parse_mount("30 25 0:26 / /x rw - cgroup2x none rw\n", NULL, path));
	cr_expect_not(cgroup_parse_mount("30 25 0:26 / /x rw\n", NULL, path));
	cr_expect_not(cgroup_parse_mount("30 - cgroup2 none rw\n", NULL, path));
	cr_expect_not(cgroup_parse_mount(" - cgroup2 ", NULL, path));
	cr_expect_not(cgroup_parse_mount("", NULL, path));
}

Test(jail_cgroup, mounts_of_v1_by_controller)
{
	const char *line =
		"35 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
	char path[PATH_MAX];

	cr_expect(cgroup_parse_mount(line, "cpu", path));
	cr_expect_str_eq(path, "/sys/fs/cgroup/cpu,cpuacct");
	cr_expect(cgroup_parse_mount(line, "cpuacct", path));
	cr_expect_not(cgroup_parse_mount(line, "cp", path));
	cr_expect_not(cgroup_parse_mount(line, "cpuset", path));
	cr_expect_not(cgroup_parse_mount(line, NULL, path));
	cr_expect_not(cgroup_parse_mount("35 32 0:30 / /x rw - cgroup", "cpu", path));
	cr_expect_not(cgroup_parse_mount("35 32 0:30 / /x rw - cgroup cpu", "cpu", path));
}

Test(jail_cgroup, a_mount_point_that_is_too_long)
{
	char line[2 * PATH_MAX] = "30 25 0:26 / /", path[PATH_MAX];
	size_t length = strlen(line);

	memset(line + length, 'x', PATH_MAX);
	strcat(line, " rw - cgroup2 none rw\n");
	cr_expect_not(cgroup_parse_mount(line, NULL, path));
}

Test(jail_cgroup, memberships)
{
	const char *text =
		"12:cpu,cpuacct:/user.slice\n3:memory:/a/b:c\n1:name=systemd:/\n0::/init.scope\n";
	char path[PATH_MAX];

	cr_expect(cgroup_parse_membership(text, "cpuacct", path));
	cr_expect_str_eq(path, "user.slice");
	cr_expect(cgroup_parse_membership(text, "memory", path));
	cr_expect_str_eq(path, "a/b:c");
	cr_expect(cgroup_parse_membership(text, NULL, path));
	cr_expect_str_eq(path, "init.scope");
	cr_expect_not(cgroup_parse_membership(text, "pids", path));
	cr_expect_not(cgroup_parse_membership("", NULL, path));
	cr_expect_not(cgroup_parse_membership("0::", NULL, path));
	cr_expect_not(cgroup_parse_membership("0:", NULL, path));
	cr_expect_not(cgroup_parse_membership("\n\n:::\n", "x", path));
}

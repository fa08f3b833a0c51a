#include "boot_helper.h"

#define LIMIT	 2048
#define DEVICE_0 "virtio_mmio.device=4K@0xc0101000:5"
#define DEVICE_1 "virtio_mmio.device=4K@0xc0102000:6"

static char *build(const char *user, const char *root, unsigned int devices)
{
	static char text[LIMIT];
	struct boot_request request = { .cmdline = user, .root_parameter = root };
	struct boot_platform platform = make_platform(1, devices);
	struct error err = { 0 };

	cr_assert_eq(boot_cmdline_build(&request, &platform, text, sizeof(text), &err), 0, "%s",
		     err.message);
	return text;
}

Test(boot_cmdline, parts_are_joined_by_one_space)
{
	cr_assert_str_eq(build("console=ttyS0 panic=1", NULL, 0), "console=ttyS0 panic=1");
	cr_assert_str_eq(build("a=1", " root=/dev/vda ro", 2),
			 "a=1 root=/dev/vda ro " DEVICE_0 " " DEVICE_1);
	cr_assert_str_eq(build("a=1 ", "root=/dev/vda ro", 1), "a=1 root=/dev/vda ro " DEVICE_0);
	cr_assert_str_eq(build("a  b", NULL, 0), "a  b");
}

Test(boot_cmdline, empty_parts_leave_nothing_behind)
{
	cr_assert_str_eq(build("", NULL, 0), "");
	cr_assert_str_eq(build(NULL, NULL, 0), "");
	cr_assert_str_eq(build("   ", "", 0), "");
	cr_assert_str_eq(build("", NULL, 1), DEVICE_0);
	cr_assert_str_eq(build("", " root=/dev/vda", 0), "root=/dev/vda");
}

Test(boot_cmdline, what_is_inits_stays_last)
{
	cr_assert_str_eq(build("a=1 -- b=2 c", " root=/dev/vda", 1),
			 "a=1 root=/dev/vda " DEVICE_0 " -- b=2 c");
	cr_assert_str_eq(build("-- b", NULL, 1), DEVICE_0 " -- b");
	cr_assert_str_eq(build("a --", NULL, 1), "a " DEVICE_0 " --");
	cr_assert_str_eq(build("a -- b -- c", NULL, 1), "a " DEVICE_0 " -- b -- c");
	cr_assert_str_eq(build("a \"--\" b", NULL, 1), "a " DEVICE_0 " \"--\" b");
}

Test(boot_cmdline, two_dashes_within_a_parameter_end_nothing)
{
	cr_assert_str_eq(build("a=-- b", NULL, 1), "a=-- b " DEVICE_0);
	cr_assert_str_eq(build("--a b--", NULL, 1), "--a b-- " DEVICE_0);
	cr_assert_str_eq(build("--- b", NULL, 1), "--- b " DEVICE_0);
	cr_assert_str_eq(build("dyndbg=\"file a -- b\" c", NULL, 1),
			 "dyndbg=\"file a -- b\" c " DEVICE_0);
	cr_assert_str_eq(build("\"a -- b\"", NULL, 1), "\"a -- b\" " DEVICE_0);
}

Test(boot_cmdline, a_device_that_the_user_names_is_not_named_again)
{
	cr_assert_str_eq(build(DEVICE_0, NULL, 1), DEVICE_0);
	cr_assert_str_eq(build(DEVICE_1 " x", NULL, 2), DEVICE_1 " x " DEVICE_0);
	cr_assert_str_eq(build("virtio_mmio.device=4K@0xc0001000:5", NULL, 1),
			 "virtio_mmio.device=4K@0xc0001000:5");
	cr_assert_str_eq(build("virtio-mmio.device=0x1000@0xC0101000:5:0", NULL, 1),
			 "virtio-mmio.device=0x1000@0xC0101000:5:0");
	cr_assert_str_eq(build("virtio_mmio.device=4K@3222278144:5", NULL, 1),
			 "virtio_mmio.device=4K@3222278144:5");
	cr_assert_str_eq(build("\"" DEVICE_0 "\"", NULL, 1), "\"" DEVICE_0 "\"");
	cr_assert_str_eq(build("virtio_mmio.device=\"4K@0xc0101000:5\"", NULL, 1),
			 "virtio_mmio.device=\"4K@0xc0101000:5\"");
}

Test(boot_cmdline, what_only_resembles_a_named_device_is_none)
{
	cr_assert_str_eq(build("virtio_mmio.device=4K@0xc0109000:5", NULL, 1),
			 "virtio_mmio.device=4K@0xc0109000:5 " DEVICE_0);
	cr_assert_str_eq(build("virtio_mmio.device", NULL, 1), "virtio_mmio.device " DEVICE_0);
	cr_assert_str_eq(build("virtio_mmio.device=", NULL, 1), "virtio_mmio.device= " DEVICE_0);
	cr_assert_str_eq(build("virtio_mmio.device=4K@", NULL, 1),
			 "virtio_mmio.device=4K@ " DEVICE_0);
	cr_assert_str_eq(build("virtio_mmio.device=4K@ 0xc0101000", NULL, 1),
			 "virtio_mmio.device=4K@ 0xc0101000 " DEVICE_0);
	cr_assert_str_eq(build("virtio_mmio.device=4K 0@0xc0101000", NULL, 1),
			 "virtio_mmio.device=4K 0@0xc0101000 " DEVICE_0);
	cr_assert_str_eq(build("x" DEVICE_0, NULL, 1), "x" DEVICE_0 " " DEVICE_0);
	cr_assert_str_eq(build("virtio_mmio.device=4K@0xfffffffffffffffffffff:5", NULL, 1),
			 "virtio_mmio.device=4K@0xfffffffffffffffffffff:5 " DEVICE_0);
	cr_assert_str_eq(build("-- " DEVICE_0, NULL, 1), DEVICE_0 " -- " DEVICE_0);
}

/* Exactly as long as allowed is taken; one more is refused and nothing is written behind the end.
 */
Test(boot_cmdline, the_limit_is_exact)
{
	struct boot_request request = { .cmdline = "ab", .root_parameter = "cd" };
	struct boot_platform platform = make_platform(1, 1);
	const char *whole = "ab cd " DEVICE_0;
	const size_t needed = strlen(whole) + 1;
	char text[128];
	struct error err;

	for (size_t bytes = 0; bytes <= sizeof(text); bytes++) {
		memset(text, '#', sizeof(text));
		if (bytes >= needed) {
			cr_assert_eq(boot_cmdline_build(&request, &platform, text, bytes, &err), 0);
			cr_assert_str_eq(text, whole);
		} else {
			cr_assert_eq(boot_cmdline_build(&request, &platform, text, bytes, &err),
				     -EINVAL);
			cr_assert(strstr(err.message, "command line is too long: 40 bytes"), "%s",
				  err.message);
		}
		for (size_t i = bytes < needed ? bytes : needed; i < sizeof(text); i++)
			cr_assert_eq(text[i], '#', "%zu bytes: byte %zu was written", bytes, i);
	}
}

Test(boot_cmdline, control_characters_are_refused)
{
	static const char *const wrong[] = { "a\nb", "a\tb", "\x01", "a\x7f", "a\r" };
	struct boot_platform platform = make_platform(1, 0);
	char text[64];
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct boot_request request = { .cmdline = wrong[i] };

		cr_assert_eq(boot_cmdline_build(&request, &platform, text, sizeof(text), &err),
			     -EINVAL);
		cr_assert(strstr(err.message, "command line holds a control character"), "%s",
			  err.message);
		request = (struct boot_request) { .cmdline = "", .root_parameter = wrong[i] };
		cr_assert_eq(boot_cmdline_build(&request, &platform, text, sizeof(text), &err),
			     -EINVAL);
		cr_assert(strstr(err.message, "root parameter holds a control character"), "%s",
			  err.message);
	}
	cr_assert_str_eq(build("name=\xc3\xa4", NULL, 0), "name=\xc3\xa4");
}

Test(boot_cmdline, every_device_of_the_largest_machine_is_named)
{
	char *text = build("x", NULL, LAYOUT_MAX_VIRTIO_DEVICES);
	unsigned int count = 0;

	for (char *next = text; (next = strstr(next, "virtio_mmio.device=")); next++)
		count++;
	cr_assert_eq(count, LAYOUT_MAX_VIRTIO_DEVICES);
	cr_assert(strstr(text, " virtio_mmio.device=4K@0xc0113000:23"), "%s", text);
}

#include "boot_helper.h"

static const struct boot_request plain = { .cmdline = "console=ttyS0" };

static int load(struct boot_request request, struct memory *memory, struct boot_entry *entry,
		struct error *err)
{
	struct boot_platform platform = make_platform(2, 3);

	memset(err, 0, sizeof(*err));
	return boot_load(memory, &request, &platform, entry, err);
}

/* The path cannot be used, as kernel and as initrd; `text` follows the role. */
static void assert_refused(const char *path, int code, const char *text)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct test_file kernel = make_file("kernel", &image, sizeof(image));
	struct boot_request request = plain;
	struct boot_entry entry;
	struct error err;
	char wanted[256];

	request.kernel_path = path;
	snprintf(wanted, sizeof(wanted), "The kernel file %s", text);
	cr_assert_eq(load(request, &memory, &entry, &err), -code, "%s", err.message);
	cr_assert_eq(strncmp(err.message, wanted, strlen(wanted)), 0, "\"%s\" expected: %s", wanted,
		     err.message);
	cr_assert(strstr(err.message, path), "%s is not named: %s", path, err.message);
	request.kernel_path = kernel.path;
	request.initrd_path = path;
	snprintf(wanted, sizeof(wanted), "The initrd file %s", text);
	cr_assert_eq(load(request, &memory, &entry, &err), -code, "%s", err.message);
	cr_assert_eq(strncmp(err.message, wanted, strlen(wanted)), 0, "\"%s\" expected: %s", wanted,
		     err.message);
	cr_assert(strstr(err.message, path), "%s is not named: %s", path, err.message);
	memory_destroy(&memory);
}

Test(boot_load, a_missing_file_is_refused_with_the_text_that_clients_match)
{
	assert_refused("/nonexistent/file", ENOENT,
		       "cannot be opened: No such file or directory (os error 2)");
	assert_refused("", ENOENT, "cannot be opened: No such file or directory (os error 2)");
}

Test(boot_load, a_directory_is_refused)
{
	assert_refused("/proc/self", EISDIR, "/proc/self is a directory");
}

Test(boot_load, a_device_is_refused)
{
	assert_refused("/dev/null", EINVAL, "/dev/null is not a regular file");
}

Test(boot_load, a_fifo_is_refused_without_waiting, .timeout = 60)
{
	char directory[] = "/tmp/mayfly-fifo-XXXXXX", path[64], text[128];

	cr_assert(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/fifo", directory);
	snprintf(text, sizeof(text), "%s is not a regular file", path);
	cr_assert_eq(mkfifo(path, 0600), 0);
	assert_refused(path, EINVAL, text);
	unlink(path);
	rmdir(directory);
}

Test(boot_load, an_empty_file_is_refused)
{
	struct test_file file = make_file("empty", "", 0);
	char text[64];

	snprintf(text, sizeof(text), "%s is empty", file.path);
	assert_refused(file.path, ENOEXEC, text);
}

Test(boot_load, what_is_no_kernel_is_refused_with_advice)
{
	static const struct {
		const char *bytes;
		size_t length;
		const char *text;
	} wrong[] = {
		{ "x", 1, "is neither an ELF file nor a bzImage" },
		{ "\x7f\x45L", 3, "is neither an ELF file nor a bzImage" },
		{ "#!/bin/sh\n", 10, "is neither an ELF file nor a bzImage" },
		{ "\x1f\x8b\x08", 3, "is compressed with gzip: unpack it first (gzip -d)" },
		{ "\xfd\x37zXZ", 6, "is compressed with xz" },
		{ "\x28\xb5\x2f\xfd", 4, "is compressed with zstd" },
		{ "BZh91AY", 7, "is compressed with bzip2" },
		{ "MZ                                                      ARM\x64", 60,
		  "is a kernel for 64-bit ARM" },
	};
	struct memory memory = make_memory(GUEST_BYTES);
	struct boot_entry entry;
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		cr_assert_eq(load_kernel_bytes(&memory, wrong[i].bytes, wrong[i].length, plain,
					       &entry, &err),
			     -ENOEXEC);
		cr_assert(strstr(err.message, wrong[i].text), "\"%s\" expected: %s", wrong[i].text,
			  err.message);
	}
	memory_destroy(&memory);
}

static struct boot_params load_initrd(struct memory *memory, size_t bytes)
{
	struct elf_image image = make_elf();
	struct test_file kernel = make_file("kernel", &image, sizeof(image));
	struct boot_request request = plain;
	struct boot_params zero_page;
	struct boot_entry entry;
	struct error err;
	uint8_t *content = malloc(bytes);
	struct test_file initrd;

	memset(content, 0xa5, bytes);
	initrd = make_file("initrd", content, bytes);
	free(content);
	request.kernel_path = kernel.path;
	request.initrd_path = initrd.path;
	request.protocol = BOOT_PROTOCOL_LINUX;
	cr_assert_eq(load(request, memory, &entry, &err), 0, "%s", err.message);
	cr_assert(memory_read(memory, LAYOUT_ZERO_PAGE, &zero_page, sizeof(zero_page)));
	cr_assert_eq(zero_page.hdr.ramdisk_size, bytes);
	close(initrd.fd);
	close(kernel.fd);
	return zero_page;
}

Test(boot_load, the_initrd_is_mapped_at_the_end_of_memory)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct boot_params zero_page = load_initrd(&memory, 2 * PAGE_SIZE_BYTES + 5);
	uint64_t gpa = GUEST_BYTES - 3 * PAGE_SIZE_BYTES;
	uint8_t bytes[PAGE_SIZE_BYTES];

	cr_assert_eq(zero_page.hdr.ramdisk_image, gpa);
	cr_assert(is_mapped_from(&memory, gpa, "initrd"));
	cr_assert(is_mapped_from(&memory, gpa + PAGE_SIZE_BYTES, "initrd"));
	cr_assert(memory_read(&memory, gpa + 2 * PAGE_SIZE_BYTES, bytes, sizeof(bytes)));
	for (size_t i = 0; i < sizeof(bytes); i++)
		cr_assert_eq(bytes[i], i < 5 ? 0xa5 : 0, "byte %zu", i);
	memory_destroy(&memory);
}

Test(boot_load, the_initrd_stays_below_the_mmio_gap)
{
	struct memory memory = make_memory(LAYOUT_MMIO_GAP_START + GIB);
	struct boot_params zero_page = load_initrd(&memory, 5);

	cr_assert_eq(zero_page.hdr.ramdisk_image, LAYOUT_MMIO_GAP_START - PAGE_SIZE_BYTES);
	memory_destroy(&memory);
}

Test(boot_load, an_initrd_that_just_fits_touches_the_kernels_end)
{
	struct memory memory = make_memory(16 * MIB);
	uint64_t end = align_up(ELF_DATA_GPA + ELF_DATA_MEMORY, PAGE_SIZE_BYTES);
	struct boot_params zero_page = load_initrd(&memory, 16 * MIB - end);

	cr_assert_eq(zero_page.hdr.ramdisk_image, end);
	memory_destroy(&memory);
}

Test(boot_load, an_initrd_one_page_larger_is_refused)
{
	struct memory memory = make_memory(16 * MIB);
	struct elf_image image = make_elf();
	struct test_file kernel = make_file("kernel", &image, sizeof(image));
	struct test_file initrd = make_file("initrd", "x", 1);
	struct boot_request request = plain;
	struct boot_entry entry;
	struct error err;
	uint64_t end = align_up(ELF_DATA_GPA + ELF_DATA_MEMORY, PAGE_SIZE_BYTES);

	request.kernel_path = kernel.path;
	request.initrd_path = initrd.path;
	cr_assert_eq(ftruncate(initrd.fd, (off_t)(16 * MIB - end + 1)), 0);
	cr_assert_eq(load(request, &memory, &entry, &err), -ENOEXEC);
	cr_assert(strstr(err.message, "The initrd file /proc/self/fd/"), "%s", err.message);
	cr_assert(strstr(err.message, "does not fit: it has"), "%s", err.message);
	/* Absurdly large, without that much on the disk. */
	cr_assert_eq(ftruncate(initrd.fd, INT64_MAX), 0);
	cr_assert_eq(load(request, &memory, &entry, &err), -ENOEXEC);
	cr_assert(strstr(err.message, "does not fit: it has"), "%s", err.message);
	memory_destroy(&memory);
}

Test(boot_load, a_kernel_at_the_end_of_memory_has_its_initrd_below)
{
	struct memory memory = make_memory(16 * MIB);
	struct elf_image image = make_elf();
	struct test_file initrd = make_file("initrd", "070701", 6);
	struct boot_request request = { .cmdline = "",
					.initrd_path = initrd.path,
					.protocol = BOOT_PROTOCOL_LINUX };
	struct boot_params zero_page;
	struct boot_entry entry;
	struct error err;

	image.data.p_paddr = 16 * MIB - ELF_DATA_MEMORY;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err), 0,
		     "%s", err.message);
	cr_assert(memory_read(&memory, LAYOUT_ZERO_PAGE, &zero_page, sizeof(zero_page)));
	cr_assert_eq(zero_page.hdr.ramdisk_image, ELF_TEXT_GPA - PAGE_SIZE_BYTES);
	memory_destroy(&memory);
}

Test(boot_load, the_command_line_reaches_the_guest)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct test_file kernel = make_file("kernel", &image, sizeof(image));
	struct boot_request request = { .kernel_path = kernel.path,
					.cmdline = "a -- b",
					.root_parameter = " root=/dev/vda ro" };
	struct boot_entry entry;
	struct error err;
	char text[256];

	cr_assert_eq(load(request, &memory, &entry, &err), 0, "%s", err.message);
	cr_assert(memory_read(&memory, LAYOUT_CMDLINE, text, sizeof(text)));
	cr_assert_str_eq(
		text,
		"a root=/dev/vda ro virtio_mmio.device=4K@0xc0101000:5 virtio_mmio.device=4K@0xc0102000:6 virtio_mmio.device=4K@0xc0103000:7 -- b");
	memory_destroy(&memory);
}

/* Linux has room for 2048 bytes with the NUL, whichever protocol it is booted by; a unikernel for
 * what there is. */
Test(boot_load, a_command_line_that_is_too_long_is_refused)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct boot_request request = { .protocol = BOOT_PROTOCOL_LINUX };
	struct boot_entry entry;
	struct error err;
	static char text[LAYOUT_CMDLINE_BYTES + 1];

	request.cmdline = text;
	memset(text, 'x', 2047);
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err), 0,
		     "%s", err.message);
	text[2047] = 'x';
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err),
		     -EINVAL);
	cr_assert(strstr(err.message, "command line is too long: 2048 bytes"), "%s", err.message);

	request.protocol = BOOT_PROTOCOL_PVH;
	memset(text, 'x', LAYOUT_CMDLINE_BYTES - 1);
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err), 0,
		     "%s", err.message);
	text[LAYOUT_CMDLINE_BYTES - 1] = 'x';
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err),
		     -EINVAL);
	memory_destroy(&memory);
}

Test(boot_load, no_descriptor_is_left_open)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct test_file kernel = make_file("kernel", &image, sizeof(image));
	struct boot_request request = { .kernel_path = kernel.path,
					.initrd_path = kernel.path,
					.cmdline = "" };
	int next = dup(kernel.fd), after;
	struct boot_entry entry;
	struct error err;

	close(next);
	cr_assert_eq(load(request, &memory, &entry, &err), 0, "%s", err.message);
	request.initrd_path = "/proc/self";
	cr_assert_eq(load(request, &memory, &entry, &err), -EISDIR);
	request.kernel_path = "/dev/null";
	cr_assert_eq(load(request, &memory, &entry, &err), -EINVAL);
	after = dup(kernel.fd);
	cr_assert_eq(after, next);
	memory_destroy(&memory);
}

Test(boot_load, more_than_the_layout_has_room_for_is_refused)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct boot_platform platform = make_platform(0, 0);
	struct boot_request request = plain;
	struct boot_entry entry;
	struct error err;

	request.kernel_path = "/nonexistent";
	cr_assert_eq(boot_load(&memory, &request, &platform, &entry, &err), -EINVAL);
	cr_assert(strstr(err.message, "0 vCPUs"), "%s", err.message);
	platform.vcpu_count = LAYOUT_MAX_VCPUS + 1;
	cr_assert_eq(boot_load(&memory, &request, &platform, &entry, &err), -EINVAL);
	cr_assert(strstr(err.message, "33 vCPUs"), "%s", err.message);
	platform.vcpu_count = 1;
	platform.virtio_count = LAYOUT_MAX_VIRTIO_DEVICES + 1;
	cr_assert_eq(boot_load(&memory, &request, &platform, &entry, &err), -EINVAL);
	cr_assert(strstr(err.message, "20 virtio devices"), "%s", err.message);
	memory_destroy(&memory);
}

/* Each writer looks itself whether the memory is there: the smallest guest is no promise of theirs.
 */
Test(boot_load, tables_that_memory_has_no_room_for_are_refused)
{
	struct memory memory = make_memory(PAGE_SIZE_BYTES);
	struct boot_platform platform = make_platform(1, 1);
	struct boot_kernel kernel = { .end = 0x200000 };
	struct boot_initrd initrd = { 0 };
	struct boot_request request = { .kernel_path = "/nonexistent", .cmdline = "" };
	struct boot_entry entry;
	struct error err;

	cr_assert_eq(acpi_write(&memory, &platform, &err), -EINVAL);
	cr_assert(strstr(err.message, "no memory at 0xe0000 for its ACPI tables"), "%s",
		  err.message);
	cr_assert_eq(mptable_write(&memory, &platform, &err), -EINVAL);
	cr_assert(strstr(err.message, "no memory at 0x9fc00 for its MP table"), "%s", err.message);
	cr_assert_eq(pvh_write(&memory, &kernel, &initrd, &entry, &err), -EINVAL);
	cr_assert(strstr(err.message, "no memory at 0x6000 for the PVH start info"), "%s",
		  err.message);
	cr_assert_eq(linux64_write(&memory, &kernel, &initrd, &entry, &err), -EINVAL);
	cr_assert(strstr(err.message, "no memory at 0x7000 for its zero page"), "%s", err.message);
	cr_assert_eq(boot_load(&memory, &request, &platform, &entry, &err), -EINVAL);
	cr_assert(strstr(err.message, "needs more than 1 MiB of memory"), "%s", err.message);
	memory_destroy(&memory);
	memory = make_memory(LAYOUT_PAGE_TABLES);
	cr_assert_eq(linux64_write(&memory, &kernel, &initrd, &entry, &err), -EINVAL);
	cr_assert(strstr(err.message, "no memory at 0x9000 for its first page tables"), "%s",
		  err.message);
	memory_destroy(&memory);
	memory = make_memory(16 * MIB);
	kernel.end = 4 * GIB + 1;
	cr_assert_eq(linux64_write(&memory, &kernel, &initrd, &entry, &err), -EINVAL);
	cr_assert(strstr(err.message, "the kernel ends at 0x100000001"), "%s", err.message);
	memory_destroy(&memory);
}

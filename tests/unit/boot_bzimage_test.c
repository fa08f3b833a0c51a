#include "boot_helper.h"

/* A bzImage of two setup sectors and a payload of 0x1400 bytes, with room behind it as signed
 * kernels have. */
#define SETUP_BYTES	(3 * 512)
#define PAYLOAD_BYTES	0x1400
#define SIGNATURE_BYTES 64
#define PREF_ADDRESS	0x1000000
#define INIT_SIZE	0x800000

struct bzimage {
	uint8_t boot_sector[0x1f1];
	struct setup_header header;
	uint8_t setup_rest[SETUP_BYTES - 0x1f1 - sizeof(struct setup_header)];
	uint8_t payload[PAYLOAD_BYTES];
	uint8_t signature[SIGNATURE_BYTES];
} __attribute__((packed));

static const struct boot_request plain = { .cmdline = "console=ttyS0" };

static struct bzimage make_bzimage(void)
{
	struct bzimage image = { .header = {
					 .setup_sects = 2,
					 .syssize = PAYLOAD_BYTES / 16,
					 .boot_flag = 0xaa55,
					 .jump = 0x6aeb, /* the header ends at 0x26c */
					 .header = 0x53726448,
					 .version = 0x020f,
					 .loadflags = LOADED_HIGH,
					 .initrd_addr_max = 0x7fffffff,
					 .kernel_alignment = 0x200000,
					 .relocatable_kernel = 1,
					 .min_alignment = 21,
					 .xloadflags = XLF_KERNEL_64,
					 .cmdline_size = 2047,
					 .pref_address = PREF_ADDRESS,
					 .init_size = INIT_SIZE,
				 } };

	for (size_t i = 0; i < PAYLOAD_BYTES; i++)
		image.payload[i] = (uint8_t)(1 + i % 251);
	memset(image.signature, 0xee, sizeof(image.signature));
	return image;
}

static void assert_refused(const struct bzimage *image, size_t length, const char *text)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct boot_entry entry;
	struct error err;

	cr_assert_eq(load_kernel_bytes(&memory, image, length, plain, &entry, &err), -ENOEXEC,
		     "\"%s\": %s", text, err.message);
	cr_assert(strstr(err.message, text), "\"%s\" expected: %s", text, err.message);
	cr_assert_eq(strncmp(err.message, "The kernel file /proc/self/fd/", 30), 0, "%s",
		     err.message);
	memory_destroy(&memory);
}

Test(boot_bzimage, the_payload_goes_to_its_address_and_nothing_else_is_changed)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	struct boot_entry entry;
	struct error err;
	const uint8_t *guest;

	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(entry.protocol, BOOT_PROTOCOL_LINUX);
	cr_assert_eq(entry.rip, PREF_ADDRESS + 0x200);
	cr_assert_eq(entry.kernel_end, PREF_ADDRESS + INIT_SIZE);
	guest = memory_span(&memory, LAYOUT_HIGH_MEMORY, GUEST_BYTES - LAYOUT_HIGH_MEMORY);
	for (uint64_t gpa = LAYOUT_HIGH_MEMORY; gpa < GUEST_BYTES; gpa++) {
		uint8_t expected = 0;

		if (gpa >= PREF_ADDRESS && gpa < PREF_ADDRESS + PAYLOAD_BYTES)
			expected = image.payload[gpa - PREF_ADDRESS];
		if (guest[gpa - LAYOUT_HIGH_MEMORY] != expected)
			cr_assert_fail("byte 0x%llx is 0x%02x, not 0x%02x", (unsigned long long)gpa,
				       guest[gpa - LAYOUT_HIGH_MEMORY], expected);
	}
	memory_destroy(&memory);
}

Test(boot_bzimage, a_payload_at_a_page_boundary_is_mapped)
{
	enum {
		SECTORS = 7,
		BYTES = (SECTORS + 1) * 512 + 0x2000
	};
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	uint8_t *file = calloc(1, BYTES);
	struct boot_entry entry;
	struct error err;

	image.header.setup_sects = SECTORS;
	image.header.syssize = 0x2000 / 16;
	memcpy(file, &image, SETUP_BYTES);
	cr_assert_eq(load_kernel_bytes(&memory, file, BYTES, plain, &entry, &err), 0, "%s",
		     err.message);
	cr_assert(is_mapped_from(&memory, PREF_ADDRESS, "kernel"));
	cr_assert(is_mapped_from(&memory, PREF_ADDRESS + 0x1000, "kernel"));
	cr_assert_not(is_mapped_from(&memory, PREF_ADDRESS + 0x2000, "kernel"));
	free(file);
	memory_destroy(&memory);
}

Test(boot_bzimage, a_setup_sects_of_zero_means_four)
{
	enum {
		BYTES = 5 * 512 + PAYLOAD_BYTES
	};
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	uint8_t *file = calloc(1, BYTES);
	struct boot_entry entry;
	struct error err;
	uint8_t first;

	image.header.setup_sects = 0;
	memcpy(file, &image, SETUP_BYTES);
	memcpy(file + 5 * 512, image.payload, PAYLOAD_BYTES);
	cr_assert_eq(load_kernel_bytes(&memory, file, BYTES, plain, &entry, &err), 0, "%s",
		     err.message);
	cr_assert(memory_read(&memory, PREF_ADDRESS, &first, 1));
	cr_assert_eq(first, image.payload[0]);
	free(file);
	memory_destroy(&memory);
}

Test(boot_bzimage, the_zero_page_has_the_kernels_header)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	struct boot_params zero_page;
	struct boot_entry entry;
	struct error err;

	image.header.hardware_subarch = 3;
	image.header.kernel_info_offset = 0x12345678;
	image.setup_rest[0] = 0x77; /* behind the header: code of the setup part, which must not get
				       into the zero page */
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert(memory_read(&memory, LAYOUT_ZERO_PAGE, &zero_page, sizeof(zero_page)));
	cr_assert_eq(zero_page.hdr.header, 0x53726448);
	cr_assert_eq(zero_page.hdr.version, 0x020f);
	cr_assert_eq(zero_page.hdr.hardware_subarch, 3);
	cr_assert_eq(zero_page.hdr.kernel_info_offset, 0x12345678);
	cr_assert_eq(zero_page.hdr.type_of_loader, 0xff);
	cr_assert_eq(zero_page.hdr.cmd_line_ptr, LAYOUT_CMDLINE);
	cr_assert_eq(zero_page.sentinel, 0);
	cr_assert_eq(zero_page._pad7[0], 0);
	memory_destroy(&memory);
}

Test(boot_bzimage, a_shorter_header_ends_where_it_says)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	struct boot_params zero_page;
	struct boot_entry entry;
	struct error err;

	image.header.version = 0x020c;
	image.header.jump = 0x66eb;		      /* ends at 0x268, before kernel_info_offset */
	image.header.kernel_info_offset = 0x90909090; /* so this is code */
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert(memory_read(&memory, LAYOUT_ZERO_PAGE, &zero_page, sizeof(zero_page)));
	cr_assert_eq(zero_page.hdr.kernel_info_offset, 0);
	cr_assert_eq(zero_page.hdr.init_size, INIT_SIZE);
	memory_destroy(&memory);
}

Test(boot_bzimage, truncation_anywhere_is_refused)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	struct test_file file = make_file("kernel", &image, sizeof(image));
	struct boot_platform platform = make_platform(1, 0);
	struct boot_request request = plain;
	struct boot_entry entry;
	struct error err;

	request.kernel_path = file.path;
	for (size_t length = SETUP_BYTES + PAYLOAD_BYTES - 1; length > 0; length--) {
		cr_assert_eq(ftruncate(file.fd, (off_t)length), 0);
		cr_assert_eq(boot_load(&memory, &request, &platform, &entry, &err), -ENOEXEC,
			     "length %zu", length);
		cr_assert(length < 0x206 || strstr(err.message, "truncated"), "length %zu: %s",
			  length, err.message);
	}
	memory_destroy(&memory);
}

static const struct {
	size_t offset;
	size_t bytes;
	uint64_t value;
	const char *text;
} wrong_fields[] = {
#define FIELD(member, wrong, text)                                                   \
	{                                                                            \
		offsetof(struct bzimage, header.member),                             \
			sizeof(((struct bzimage *)NULL)->header.member), wrong, text \
	}
	FIELD(header, 0x53726449, "neither an ELF file nor a bzImage"),
	FIELD(boot_flag, 0xaa54, "boot flag is 0xaa54, not 0xaa55"),
	FIELD(version, 0x020b, "boot protocol 2.11, which is too old: 2.12 (Linux 3.8)"),
	FIELD(version, 0x0105, "boot protocol 1.05"),
	FIELD(version, 0, "boot protocol 0.00"),
	FIELD(jump, 0x5beb, "setup header that ends at 0x25d"),
	FIELD(jump, 0x00eb, "setup header that ends at 0x202"),
	FIELD(xloadflags, 0, "no 64-bit entry point"),
	FIELD(xloadflags, (uint16_t)~XLF_KERNEL_64, "no 64-bit entry point"),
	FIELD(loadflags, 0, "is a zImage"),
	FIELD(kernel_alignment, 0, "alignment of 0x0"),
	FIELD(kernel_alignment, 0x300000, "alignment of 0x300000, which is no power of two"),
	FIELD(pref_address, 0, "loaded at 0x0, which is no page at or above 1 MiB"),
	FIELD(pref_address, 0xff000, "loaded at 0xff000"),
	FIELD(pref_address, PREF_ADDRESS + 1, "which is no page"),
	FIELD(pref_address, UINT64_MAX - 0xfff, "is to be loaded at"),
	FIELD(pref_address, GUEST_BYTES, "is to be loaded at 64 MiB: the guest has only 64 MiB"),
	FIELD(pref_address, LAYOUT_MMIO_GAP_START, "is to be loaded at 3072 MiB"),
	FIELD(pref_address, LAYOUT_MMIO_GAP_END, "is to be loaded at 4096 MiB"),
	FIELD(pref_address, GUEST_BYTES - 0x1000, "needs the memory up to 72 MiB"),
	FIELD(init_size, GUEST_BYTES - PREF_ADDRESS + 1,
	      "needs the memory up to 65 MiB to unpack itself: the guest has 64 MiB"),
	FIELD(init_size, UINT32_MAX, "needs the memory up to 4112 MiB"),
	FIELD(kernel_alignment, 0x80000000, "needs the memory up to 2056 MiB"),
	FIELD(syssize, 0, "protected-mode part of 0 bytes"),
	FIELD(syssize, 0x20,
	      "protected-mode part of 512 bytes, which ends before its 64-bit entry"),
	FIELD(syssize, (PAYLOAD_BYTES + SIGNATURE_BYTES) / 16 + 1,
	      "truncated: its protected-mode part"),
	FIELD(syssize, UINT32_MAX, "truncated: its protected-mode part"),
	FIELD(setup_sects, 255, "truncated: its protected-mode part"),
#undef FIELD
};

Test(boot_bzimage, each_wrong_field_is_refused_by_name)
{
	for (size_t i = 0; i < ARRAY_SIZE(wrong_fields); i++) {
		struct bzimage image = make_bzimage();

		memcpy((uint8_t *)&image + wrong_fields[i].offset, &wrong_fields[i].value,
		       wrong_fields[i].bytes);
		assert_refused(&image, sizeof(image), wrong_fields[i].text);
	}
}

Test(boot_bzimage, pvh_is_refused)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	struct boot_request request = plain;
	struct boot_entry entry;
	struct error err;

	request.protocol = BOOT_PROTOCOL_PVH;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err),
		     -ENOEXEC);
	cr_assert(strstr(err.message, "is a bzImage, which has no PVH entry"), "%s", err.message);
	memory_destroy(&memory);
}

Test(boot_bzimage, init_size_may_end_with_the_memory)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	struct boot_entry entry;
	struct error err;

	image.header.init_size = GUEST_BYTES - PREF_ADDRESS;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(entry.kernel_end, GUEST_BYTES);
	memory_destroy(&memory);
}

Test(boot_bzimage, the_kernels_limit_of_the_command_line_is_kept)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	struct boot_request request = { .cmdline = "12345678" };
	struct boot_entry entry;
	struct error err;

	image.header.cmdline_size = 8;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err), 0,
		     "%s", err.message);
	request.cmdline = "123456789";
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err),
		     -EINVAL);
	cr_assert(strstr(err.message, "command line is too long: 9 bytes"), "%s", err.message);
	cr_assert(strstr(err.message, "takes 8"), "%s", err.message);
	memory_destroy(&memory);
}

Test(boot_bzimage, the_initrd_stays_below_the_kernels_limit)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct bzimage image = make_bzimage();
	struct test_file initrd = make_file("initrd", "070701", 6);
	struct boot_request request = { .cmdline = "", .initrd_path = initrd.path };
	struct boot_params zero_page;
	struct boot_entry entry;
	struct error err;

	image.header.initrd_addr_max = 0x2ffffff;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err), 0,
		     "%s", err.message);
	cr_assert(memory_read(&memory, LAYOUT_ZERO_PAGE, &zero_page, sizeof(zero_page)));
	cr_assert_eq(zero_page.hdr.ramdisk_image, 0x2fff000);
	cr_assert_eq(zero_page.hdr.ramdisk_size, 6);

	/* Not above the kernel: then below it. */
	image.header.initrd_addr_max = PREF_ADDRESS + INIT_SIZE - 1;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err), 0,
		     "%s", err.message);
	cr_assert(memory_read(&memory, LAYOUT_ZERO_PAGE, &zero_page, sizeof(zero_page)));
	cr_assert_eq(zero_page.hdr.ramdisk_image, PREF_ADDRESS - 0x1000);

	/* Nowhere. */
	image.header.initrd_addr_max = LAYOUT_HIGH_MEMORY;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err),
		     -ENOEXEC);
	cr_assert(strstr(err.message, "The initrd file /proc/self/fd/"), "%s", err.message);
	cr_assert(strstr(err.message, "does not fit"), "%s", err.message);
	memory_destroy(&memory);
}

#include "boot_helper.h"

static const struct boot_request plain = { .cmdline = "console=ttyS0" };

static struct boot_request with_protocol(enum boot_protocol protocol)
{
	struct boot_request request = plain;

	request.protocol = protocol;
	return request;
}

/* The image is refused, by every protocol, with a message that names the file and holds `text`. */
static void assert_refused(const struct elf_image *image, size_t length, const char *text)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct boot_entry entry;
	struct error err;

	for (int protocol = BOOT_PROTOCOL_ANY; protocol <= BOOT_PROTOCOL_PVH; protocol++) {
		int result = load_kernel_bytes(&memory, image, length,
					       with_protocol((enum boot_protocol)protocol), &entry,
					       &err);

		cr_assert_eq(result, -ENOEXEC, "\"%s\" expected, result %d: %s", text, result,
			     err.message);
		cr_assert(strstr(err.message, text), "\"%s\" expected: %s", text, err.message);
		cr_assert_eq(strncmp(err.message, "The kernel file /proc/self/fd/", 30), 0, "%s",
			     err.message);
	}
	memory_destroy(&memory);
}

Test(boot_elf, segments_are_placed_and_nothing_else_is_changed)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	const uint8_t *bytes = (const uint8_t *)&image;
	struct boot_entry entry;
	struct error err;
	const uint8_t *guest;

	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image),
				       with_protocol(BOOT_PROTOCOL_LINUX), &entry, &err),
		     0, "%s", err.message);
	cr_assert_eq(entry.protocol, BOOT_PROTOCOL_LINUX);
	cr_assert_eq(entry.rip, ELF_ENTRY);
	cr_assert_eq(entry.kernel_end, ELF_DATA_GPA + ELF_DATA_MEMORY);
	guest = memory_span(&memory, LAYOUT_HIGH_MEMORY, GUEST_BYTES - LAYOUT_HIGH_MEMORY);
	for (uint64_t gpa = LAYOUT_HIGH_MEMORY; gpa < GUEST_BYTES; gpa++) {
		uint8_t expected = 0;

		if (gpa >= ELF_TEXT_GPA && gpa < ELF_TEXT_GPA + ELF_TEXT_BYTES)
			expected = bytes[ELF_TEXT_AT + gpa - ELF_TEXT_GPA];
		else if (gpa >= ELF_DATA_GPA && gpa < ELF_DATA_GPA + ELF_DATA_BYTES)
			expected = bytes[ELF_DATA_AT + gpa - ELF_DATA_GPA];
		if (guest[gpa - LAYOUT_HIGH_MEMORY] != expected)
			cr_assert_fail("byte 0x%llx is 0x%02x, not 0x%02x", (unsigned long long)gpa,
				       guest[gpa - LAYOUT_HIGH_MEMORY], expected);
	}
	memory_destroy(&memory);
}

Test(boot_elf, whole_pages_are_mapped_from_the_file)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct boot_entry entry;
	struct error err;

	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert(is_mapped_from(&memory, ELF_TEXT_GPA, "kernel"));
	cr_assert_not(is_mapped_from(&memory, ELF_TEXT_GPA + 0x1000, "kernel"),
		      "half a page is not the kernel's");
	cr_assert_not(is_mapped_from(&memory, ELF_DATA_GPA, "kernel"));
	/* The data's only whole page: mid-page at both ends, yet congruent. */
	cr_assert(is_mapped_from(&memory, align_up(ELF_DATA_GPA, PAGE_SIZE_BYTES), "kernel"));
	memory_destroy(&memory);
}

Test(boot_elf, guest_writes_do_not_reach_the_file)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct test_file file = make_file("kernel", &image, sizeof(image));
	struct boot_platform platform = make_platform(1, 0);
	struct boot_request request = plain;
	struct boot_entry entry;
	struct error err;
	uint8_t byte = 0xee, read_back;

	request.kernel_path = file.path;
	cr_assert_eq(boot_load(&memory, &request, &platform, &entry, &err), 0, "%s", err.message);
	cr_assert(memory_write(&memory, ELF_TEXT_GPA, &byte, 1));
	cr_assert_eq(pread(file.fd, &read_back, 1, ELF_TEXT_AT), 1);
	cr_assert_eq(read_back, 1 + ELF_TEXT_AT % 251);
	memory_destroy(&memory);
}

Test(boot_elf, pvh_note_decides_unless_the_kernel_is_a_linux)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct boot_entry entry;
	struct error err;

	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(entry.protocol, BOOT_PROTOCOL_PVH);
	cr_assert_eq(entry.rip, ELF_PVH_ENTRY);

	/* Linux: its own note takes the place of GNU's. */
	image.note.gnu_header = (Elf64_Nhdr) { .n_namesz = 6, .n_descsz = 1, .n_type = 0x100 };
	memcpy(image.note.gnu_owner, "Linux", 6);
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(entry.protocol, BOOT_PROTOCOL_LINUX);
	cr_assert_eq(entry.rip, ELF_ENTRY);
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image),
				       with_protocol(BOOT_PROTOCOL_PVH), &entry, &err),
		     0, "%s", err.message);
	cr_assert_eq(entry.protocol, BOOT_PROTOCOL_PVH);

	/* Without any note. */
	image.notes.p_type = PT_NULL;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(entry.protocol, BOOT_PROTOCOL_LINUX);
	memory_destroy(&memory);
}

Test(boot_elf, pvh_entry_of_four_bytes_is_taken)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct boot_entry entry;
	struct error err;

	image.note.header.n_descsz = 4;
	image.note.value |= 0xdeadULL << 32; /* padding, not of the value */
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(entry.rip, ELF_PVH_ENTRY);
	memory_destroy(&memory);
}

Test(boot_elf, notes_aligned_to_eight_are_understood)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct boot_entry entry;
	struct error err;
	struct {
		Elf64_Nhdr gnu; /* padded to 16, then to 24 */
		char gnu_owner[4];
		uint8_t gnu_value[4];
		uint8_t padding[4];
		Elf64_Nhdr xen;
		char xen_owner[4];
		uint32_t value;
	} notes = { .gnu = { 4, 4, 5 },
		    .gnu_owner = "GNU",
		    .xen = { 4, 4, 18 },
		    .xen_owner = "Xen",
		    .value = ELF_PVH_ENTRY };

	memcpy(&image.note, &notes, sizeof(notes));
	image.notes.p_align = 8;
	image.notes.p_filesz = sizeof(notes);
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(entry.rip, ELF_PVH_ENTRY);
	memory_destroy(&memory);
}

Test(boot_elf, pvh_without_a_note_is_refused)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct boot_entry entry;
	struct error err;

	image.note.header.n_type = 17;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image),
				       with_protocol(BOOT_PROTOCOL_PVH), &entry, &err),
		     -ENOEXEC);
	cr_assert(strstr(err.message, "no PVH entry note"), "%s", err.message);
	memory_destroy(&memory);
}

/* Every byte of the image belongs to a structure, so no shorter file is whole. */
Test(boot_elf, truncation_anywhere_is_refused)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct test_file file = make_file("kernel", &image, sizeof(image));
	struct boot_platform platform = make_platform(1, 0);
	struct boot_entry entry;
	struct error err;

	for (int protocol = BOOT_PROTOCOL_ANY; protocol <= BOOT_PROTOCOL_PVH; protocol++) {
		struct boot_request request = with_protocol((enum boot_protocol)protocol);

		request.kernel_path = file.path;
		for (size_t length = 1; length < sizeof(image); length++) {
			cr_assert_eq(ftruncate(file.fd, 0), 0);
			cr_assert_eq(pwrite(file.fd, &image, length, 0), (ssize_t)length);
			cr_assert_eq(boot_load(&memory, &request, &platform, &entry, &err),
				     -ENOEXEC, "length %zu", length);
			cr_assert(length < 4 || strstr(err.message, "truncated"), "length %zu: %s",
				  length, err.message);
		}
	}
	memory_destroy(&memory);
}

/* One field set wrong; `text` is what the message must say. */
static const struct {
	size_t offset;
	size_t bytes;
	uint64_t value;
	const char *text;
} wrong_fields[] = {
#define FIELD(member, wrong, text)                                                              \
	{                                                                                       \
		offsetof(struct elf_image, member), sizeof(((struct elf_image *)NULL)->member), \
			wrong, text                                                             \
	}
	FIELD(header.e_ident[EI_CLASS], ELFCLASS32, "32-bit ELF"),
	FIELD(header.e_ident[EI_CLASS], 7, "unknown class 7"),
	FIELD(header.e_ident[EI_DATA], ELFDATA2MSB, "big-endian"),
	FIELD(header.e_ident[EI_DATA], 0, "unknown byte order 0"),
	FIELD(header.e_ident[EI_VERSION], 9, "unknown version"),
	FIELD(header.e_version, 2, "unknown version 2"),
	FIELD(header.e_machine, EM_AARCH64, "another machine (e_machine 183)"),
	FIELD(header.e_machine, EM_386, "another machine (e_machine 3)"),
	FIELD(header.e_type, ET_REL, "type 1, a relocatable object"),
	FIELD(header.e_type, ET_CORE, "type 4"),
	FIELD(header.e_phnum, 0, "no ELF program headers"),
	FIELD(header.e_phnum, 65, "65 ELF program headers: at most 64"),
	FIELD(header.e_phnum, 0xffff, "65535 ELF program headers"),
	FIELD(header.e_phentsize, 55, "program headers of 55 bytes instead of 56"),
	FIELD(header.e_phentsize, 0, "program headers of 0 bytes"),
	FIELD(header.e_phoff, ELF_IMAGE_BYTES - 100, "truncated: its table of program headers"),
	FIELD(header.e_phoff, UINT64_MAX - 8, "truncated: its table of program headers"),
	FIELD(text.p_filesz, ELF_TEXT_BYTES + 1,
	      "segment 0 with more bytes in the file (0x1801) than in memory (0x1800)"),
	FIELD(text.p_offset, UINT64_MAX - 0x1000, "truncated: its ELF segment 0"),
	FIELD(text.p_offset, ELF_IMAGE_BYTES - ELF_TEXT_BYTES + 1, "truncated: its ELF segment 0"),
	FIELD(text.p_paddr, 0, "segment 0 at 0x0: what is below 1 MiB"),
	FIELD(text.p_paddr, LAYOUT_HIGH_MEMORY - 1, "segment 0 at 0xfffff: what is below 1 MiB"),
	FIELD(text.p_paddr, UINT64_MAX - 0x1000, "wrap around"),
	FIELD(data.p_memsz, UINT64_MAX, "wrap around"),
	FIELD(text.p_paddr, GUEST_BYTES - ELF_TEXT_BYTES + 1,
	      "segment 0 that needs memory from 0x3ffe801 to 0x4000001"),
	FIELD(text.p_paddr, LAYOUT_MMIO_GAP_START, "segment 0 that needs memory from 0xc0000000"),
	FIELD(text.p_paddr, LAYOUT_MMIO_GAP_END, "segment 0 that needs memory from 0x100000000"),
	FIELD(data.p_memsz, GUEST_BYTES, "segment 1 that needs memory"),
	FIELD(data.p_paddr, ELF_TEXT_GPA + ELF_TEXT_BYTES - 1,
	      "segments 0 and 1 that overlap at 0x2017ff"),
	FIELD(data.p_paddr, ELF_TEXT_GPA - 1, "segments 0 and 1 that overlap at 0x200000"),
#undef FIELD
};

Test(boot_elf, each_wrong_field_is_refused_by_name)
{
	for (size_t i = 0; i < ARRAY_SIZE(wrong_fields); i++) {
		struct elf_image image = make_elf();

		memcpy((uint8_t *)&image + wrong_fields[i].offset, &wrong_fields[i].value,
		       wrong_fields[i].bytes);
		assert_refused(&image, sizeof(image), wrong_fields[i].text);
	}
}

Test(boot_elf, nothing_to_load_is_refused)
{
	struct elf_image image = make_elf();

	image.text.p_type = PT_NULL;
	image.data.p_type = PT_NULL;
	assert_refused(&image, sizeof(image), "no ELF segment to load");
	image = make_elf();
	image.text.p_filesz = image.text.p_memsz = 0;
	image.data.p_filesz = image.data.p_memsz = 0;
	assert_refused(&image, sizeof(image), "no ELF segment to load");
}

Test(boot_elf, segments_that_touch_are_taken)
{
	struct memory memory = make_memory(GUEST_BYTES);
	struct elf_image image = make_elf();
	struct boot_entry entry;
	struct error err;

	image.data.p_paddr = ELF_TEXT_GPA + ELF_TEXT_BYTES;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	image.data.p_paddr = ELF_TEXT_GPA - ELF_DATA_MEMORY;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	image.data.p_paddr = GUEST_BYTES - ELF_DATA_MEMORY;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(entry.kernel_end, GUEST_BYTES);
	memory_destroy(&memory);
}

Test(boot_elf, a_segment_in_the_mmio_gap_is_refused_in_a_guest_with_memory_on_both_sides)
{
	struct memory memory = make_memory(LAYOUT_MMIO_GAP_START + 64 * MIB);
	struct elf_image image = make_elf();
	struct boot_entry entry;
	struct error err;

	image.text.p_paddr = LAYOUT_MMIO_GAP_START - 0x1000;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err),
		     -ENOEXEC);
	cr_assert(strstr(err.message, "below its MMIO gap ends at 0xc0000000"), "%s", err.message);
	image.text.p_paddr = LAYOUT_MMIO_GAP_END;
	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), plain, &entry, &err),
		     -ENOEXEC);
	cr_assert(strstr(err.message, "below its MMIO gap ends at 0xc0000000"), "%s", err.message);
	memory_destroy(&memory);
}

Test(boot_elf, an_entry_outside_of_code_is_refused)
{
	static const uint64_t wrong[] = { 0,
					  ELF_TEXT_GPA - 1,
					  ELF_TEXT_GPA + ELF_TEXT_BYTES,
					  ELF_DATA_GPA + ELF_DATA_BYTES, /* in what is only zero */
					  0xffffffff80000000ULL + ELF_ENTRY,
					  UINT64_MAX };
	struct memory memory = make_memory(GUEST_BYTES);
	struct boot_entry entry;
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct elf_image image = make_elf();

		image.header.e_entry = wrong[i];
		cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image),
					       with_protocol(BOOT_PROTOCOL_LINUX), &entry, &err),
			     -ENOEXEC);
		cr_assert(strstr(err.message, "has its entry point at 0x"), "%s", err.message);
		cr_assert(strstr(err.message, "in none of its segments"), "%s", err.message);
		image.note.value = wrong[i];
		cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image),
					       with_protocol(BOOT_PROTOCOL_PVH), &entry, &err),
			     -ENOEXEC);
		cr_assert(strstr(err.message, "has its PVH entry at 0x"), "%s", err.message);
	}
	memory_destroy(&memory);
}

Test(boot_elf, broken_notes_are_refused)
{
	struct elf_image image = make_elf();

	image.note.header.n_descsz = 9;
	assert_refused(&image, sizeof(image), "truncated ELF note at offset 0x18 of segment 2");
	image = make_elf();
	image.note.header.n_descsz = UINT32_MAX;
	assert_refused(&image, sizeof(image), "truncated ELF note");
	image = make_elf();
	image.note.header.n_namesz = UINT32_MAX;
	assert_refused(&image, sizeof(image), "truncated ELF note");
	image = make_elf();
	image.note.gnu_header.n_descsz = 0x1000;
	assert_refused(&image, sizeof(image), "truncated ELF note at offset 0x0");
	image = make_elf();
	image.note.header.n_descsz = 2;
	assert_refused(&image, sizeof(image), "PVH entry note of 2 bytes instead of 4 or 8");
	image = make_elf();
	image.note.header.n_descsz = 0;
	assert_refused(&image, sizeof(image), "PVH entry note of 0 bytes");
	image = make_elf();
	image.notes.p_offset = ELF_IMAGE_BYTES - 1;
	assert_refused(&image, sizeof(image), "truncated: its ELF notes");
	image = make_elf();
	image.notes.p_filesz = UINT64_MAX;
	assert_refused(&image, sizeof(image), "bytes of ELF notes in segment 2: at most 65536");
}

#include <string.h>

#include "boot_helper.h"
#include "mayfly/vmgenid.h"

static void read_id(const struct memory *memory, uint8_t id[VMGENID_BYTES])
{
	cr_assert(memory_read(memory, LAYOUT_VMGENID, id, VMGENID_BYTES));
}

Test(vmgenid, every_renewal_gives_another_id_in_all_of_its_bytes)
{
	struct memory memory = make_memory(2 * MIB);
	uint8_t last[VMGENID_BYTES], seen[VMGENID_BYTES] = { 0 };
	struct vmgenid vmgenid;
	struct error err = { 0 };

	vmgenid_init(&vmgenid);
	read_id(&memory, last);
	for (unsigned int round = 0; round < 64; round++) {
		uint8_t id[VMGENID_BYTES];

		cr_assert_eq(vmgenid_renew(&vmgenid, &memory, &err), 0, "%s", err.message);
		read_id(&memory, id);
		cr_assert_neq(memcmp(id, last, sizeof(id)), 0);
		memcpy(last, id, sizeof(last));
		for (unsigned int i = 0; i < VMGENID_BYTES; i++)
			seen[i] |= id[i];
	}
	for (unsigned int i = 0; i < VMGENID_BYTES; i++)
		cr_assert_eq(seen[i], 0xff, "byte %u has bits that never change", i);
	memory_destroy(&memory);
}

Test(vmgenid, nothing_beside_the_id_is_written)
{
	struct memory memory = make_memory(2 * MIB);
	uint8_t *page = memory_span(&memory, LAYOUT_VMGENID - 64, PAGE_SIZE_BYTES);
	struct vmgenid vmgenid;
	struct error err = { 0 };

	memset(page, '#', PAGE_SIZE_BYTES);
	vmgenid_init(&vmgenid);
	cr_assert_eq(vmgenid_renew(&vmgenid, &memory, &err), 0, "%s", err.message);
	for (unsigned int i = 0; i < PAGE_SIZE_BYTES; i++) {
		if (i < 64 || i >= 64 + VMGENID_BYTES)
			cr_assert_eq(page[i], '#', "byte %u was written", i);
	}
	memory_destroy(&memory);
}

Test(vmgenid, a_place_outside_guest_memory_is_refused)
{
	struct memory memory = make_memory(2 * MIB);
	const struct vmgenid nowhere[] = { { .gpa = 2 * MIB },
					   { .gpa = 2 * MIB - VMGENID_BYTES + 1 },
					   { .gpa = UINT64_MAX } };
	struct error err = { 0 };

	for (unsigned int i = 0; i < ARRAY_SIZE(nowhere); i++) {
		cr_assert_eq(vmgenid_renew(&nowhere[i], &memory, &err), -EINVAL);
		cr_assert(strstr(err.message, "VM generation id"), "%s", err.message);
	}
	memory_destroy(&memory);
}

static struct state_section saved(struct state_writer *writer, struct state_file *file,
				  const struct vmgenid *vmgenid)
{
	struct state_section section;
	struct error err = { 0 };

	state_writer_init(writer);
	vmgenid_save(vmgenid, writer);
	cr_assert_eq(state_writer_finish(writer, &err), 0, "%s", err.message);
	cr_assert_eq(state_file_parse(file, writer->bytes, writer->used_bytes, &err), 0, "%s",
		     err.message);
	cr_assert_eq(state_find(file, VMGENID_SECTION, "", VMGENID_VERSION, &section, &err), 0,
		     "%s", err.message);
	return section;
}

static int restore(const struct vmgenid *from, struct vmgenid *to, struct error *err)
{
	struct memory memory = make_memory(2 * MIB);
	struct state_writer writer;
	struct state_file file;
	struct state_section section = saved(&writer, &file, from);
	int result = vmgenid_restore(to, &memory, &section, err);

	state_file_close(&file);
	state_writer_destroy(&writer);
	memory_destroy(&memory);
	return result;
}

Test(vmgenid, a_restored_guest_keeps_the_place_that_its_tables_name)
{
	const struct vmgenid other = { .gpa = 0x123450, .gsi = 9 };
	struct vmgenid back = { 0 };
	struct error err = { 0 };

	cr_assert_eq(restore(&other, &back, &err), 0, "%s", err.message);
	cr_assert_eq(back.gpa, other.gpa);
	cr_assert_eq(back.gsi, other.gsi);
}

Test(vmgenid, a_restored_place_that_cannot_be_is_refused_by_its_field)
{
	const struct {
		struct vmgenid vmgenid;
		const char *field;
	} bad[] = {
		{ { .gpa = 2 * MIB, .gsi = 3 }, "gpa" },
		{ { .gpa = UINT64_MAX - 8, .gsi = 3 }, "gpa" },
		{ { .gpa = LAYOUT_VMGENID, .gsi = LAYOUT_IO_APIC_PINS }, "gsi" },
		{ { .gpa = LAYOUT_VMGENID, .gsi = UINT32_MAX }, "gsi" },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vmgenid back;
		struct error err = { 0 };

		cr_assert_lt(restore(&bad[i].vmgenid, &back, &err), 0);
		cr_assert(strstr(err.message, VMGENID_SECTION), "%s", err.message);
		cr_assert(strstr(err.message, bad[i].field), "%s", err.message);
	}
}

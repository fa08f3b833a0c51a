#include "boot_helper.h"

static uint16_t get16(const uint8_t *bytes)
{
	return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static uint32_t get32(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static uint8_t sum(const uint8_t *bytes, size_t length)
{
	uint8_t total = 0;

	for (size_t i = 0; i < length; i++)
		total = (uint8_t)(total + bytes[i]);
	return total;
}

/* Searches as MP 1.4 section 4 says: the EBDA's first KiB by its segment, at multiples of 16. */
static const uint8_t *find_floating_pointer(const struct memory *memory)
{
	const uint8_t *segment = memory_span(memory, 0x40e, 2);
	const uint8_t *ebda = memory_span(memory, (uint64_t)get16(segment) << 4, 1024);

	for (size_t i = 0; i < 1024; i += 16) {
		if (memcmp(ebda + i, "_MP_", 4) == 0)
			return ebda + i;
	}
	return NULL;
}

static const uint8_t *find_table(const struct memory *memory)
{
	const uint8_t *pointer = find_floating_pointer(memory), *table;
	uint32_t gpa;

	cr_assert(pointer);
	cr_assert_eq(pointer[8], 1, "one paragraph");
	cr_assert_eq(pointer[9], 4, "MP 1.4");
	cr_assert_eq(sum(pointer, 16), 0);
	cr_assert_eq(pointer[11], 0, "has a table");
	cr_assert_eq(pointer[12], 0, "virtual wire");
	gpa = get32(pointer + 4);
	table = memory_span(memory, gpa, 44);
	cr_assert_eq(memcmp(table, "PCMP", 4), 0);
	cr_assert_geq(gpa, LAYOUT_EBDA);
	cr_assert_leq(gpa + get16(table + 4), LAYOUT_EBDA + LAYOUT_EBDA_BYTES);
	cr_assert_eq(table[6], 4);
	cr_assert_eq(sum(table, get16(table + 4)), 0);
	cr_assert_eq(get32(table + 36), LAYOUT_LOCAL_APIC);
	return table;
}

static void check_table(unsigned int vcpu_count)
{
	struct memory memory = make_memory(16 * MIB);
	struct boot_platform platform = make_platform(vcpu_count, 0);
	unsigned int counts[5] = { 0 }, entries = 0;
	const uint8_t *table, *end;
	uint32_t lines = 0;
	struct error err = { 0 };
	uint8_t last_type = 0;

	cr_assert_eq(mptable_write(&memory, &platform, &err), 0, "%s", err.message);
	table = find_table(&memory);
	end = table + get16(table + 4);
	for (const uint8_t *entry = table + 44; entry < end; entry += entry[0] == 0 ? 20 : 8) {
		cr_assert_lt(entry[0], 5);
		cr_assert_geq(entry[0], last_type, "entries are sorted by type");
		last_type = entry[0];
		switch (entry[0]) {
		case 0:
			cr_assert_eq(entry[1], counts[0], "APIC id");
			cr_assert_eq(entry[3], counts[0] == 0 ? 3 : 1,
				     "enabled, the first is the bootstrap processor");
			break;
		case 1:
			cr_assert_eq(memcmp(entry + 2, "ISA   ", 6), 0);
			break;
		case 2:
			cr_assert_eq(entry[1], 0, "the id that KVM's register reads");
			cr_assert_eq(entry[3], 1, "enabled");
			cr_assert_eq(get32(entry + 4), LAYOUT_IO_APIC);
			break;
		case 3:
			cr_assert_eq(entry[1], 0, "INT");
			cr_assert_eq(get16(entry + 2), 5, "edge, active high");
			cr_assert_eq(entry[5], entry[7], "line n is pin n");
			cr_assert_eq(entry[6], 0, "of the only IO-APIC");
			cr_assert_lt(entry[7], LAYOUT_IO_APIC_PINS);
			lines |= 1U << entry[7];
			break;
		default:
			cr_assert_eq(entry[1], counts[4] == 0 ? 3 : 1, "ExtINT, then NMI");
			cr_assert_eq(entry[6], counts[4] == 0 ? 0 : 0xff,
				     "of the boot processor, of all");
			cr_assert_eq(entry[7], counts[4], "LINT0, then LINT1");
		}
		counts[entry[0]]++;
		entries++;
	}
	cr_assert_eq(entries, get16(table + 34));
	cr_assert_eq(counts[0], vcpu_count);
	cr_assert_eq(counts[1], 1);
	cr_assert_eq(counts[2], 1);
	cr_assert_eq(counts[3], LAYOUT_IO_APIC_PINS - 1);
	cr_assert_eq(lines, 0xffffff & ~(1U << 2), "every line but the cascade");
	cr_assert_eq(counts[4], 2);
	memory_destroy(&memory);
}

Test(boot_mptable, one_processor)
{
	check_table(1);
}

Test(boot_mptable, the_most_processors_fit_into_the_ebda)
{
	check_table(LAYOUT_MAX_VCPUS);
}

Test(boot_mptable, any_number_of_processors)
{
	for (unsigned int i = 2; i < LAYOUT_MAX_VCPUS; i++)
		check_table(i);
}

Test(boot_mptable, low_memory_ends_where_the_ebda_begins)
{
	struct memory memory = make_memory(16 * MIB);
	struct boot_platform platform = make_platform(1, 0);
	const uint8_t *kib = memory_span(&memory, 0x413, 2);
	struct error err = { 0 };

	cr_assert_eq(mptable_write(&memory, &platform, &err), 0, "%s", err.message);
	cr_assert_eq(get16(kib) * KIB, LAYOUT_EBDA);
	memory_destroy(&memory);
}

Test(boot_mptable, too_many_processors_are_refused)
{
	struct memory memory = make_memory(16 * MIB);
	struct boot_platform platform = make_platform(LAYOUT_MAX_VCPUS + 1, 0);
	struct error err = { 0 };

	cr_assert_eq(mptable_write(&memory, &platform, &err), -EINVAL);
	cr_assert(strstr(err.message, "33 vCPUs"), "%s", err.message);
	memory_destroy(&memory);
}

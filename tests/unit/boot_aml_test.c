#include "boot_helper.h"
#include "src/boot/aml.h"

static uint8_t buffer[(1 << 20) + 64];

static struct aml make_aml(size_t capacity)
{
	memset(buffer, '#', sizeof(buffer));
	return (struct aml) { .bytes = buffer, .capacity = capacity };
}

/* Decodes a PkgLength as ACPI 6.5, 20.2.4 describes it; returns how many bytes it has. */
static unsigned int decode_package_length(const uint8_t *bytes, size_t *length)
{
	unsigned int following = bytes[0] >> 6;

	*length = following ? bytes[0] & 0xf : bytes[0] & 0x3f;
	for (unsigned int i = 1; i <= following; i++)
		*length |= (size_t)bytes[i] << (4 + 8 * (i - 1));
	return following + 1;
}

/* A scope of `body` bytes behind its name. */
static void check_scope(size_t body)
{
	struct aml aml = make_aml(sizeof(buffer));
	size_t scope = aml_open_scope(&aml, "\\_SB_"), length = 0;
	unsigned int bytes;

	for (size_t i = 0; i < body; i++)
		aml_byte(&aml, (uint8_t)i);
	aml_close(&aml, scope);
	cr_assert_not(aml.overflow);
	cr_assert_eq(buffer[0], 0x10);
	bytes = decode_package_length(buffer + 1, &length);
	cr_assert_eq(length, bytes + 5 + body, "%zu bytes: length %zu", body, length);
	cr_assert_eq(aml.used, 1 + length);
	cr_assert_eq(memcmp(buffer + 1 + bytes, "\\_SB_", 5), 0);
	for (size_t i = 0; i < body; i++)
		cr_assert_eq(buffer[1 + bytes + 5 + i], (uint8_t)i);
	cr_assert_eq(buffer[aml.used], '#', "nothing behind the end");
}

Test(boot_aml, package_lengths_are_right_where_they_grow)
{
	static const size_t borders[] = { 0, 64, 4096, 1 << 20 };

	for (size_t i = 0; i < ARRAY_SIZE(borders); i++) {
		for (size_t body = borders[i] < 20 ? 0 : borders[i] - 20; body < borders[i] + 4;
		     body++)
			check_scope(body);
	}
}

static void write_device(struct aml *aml)
{
	size_t device = aml_open_device(aml, "DEV_"), resources, method;

	aml_name_eisa_id(aml, "_HID", "PNP0C0F");
	aml_name_integer(aml, "_UID", 200);
	aml_name_string(aml, "_STR", "abc");
	resources = aml_open_resources(aml);
	aml_resource_io(aml, 0x1234, 5);
	aml_resource_memory(aml, 0x12345678, 0x9abcdef0);
	aml_resource_interrupt(aml, 0x01020304);
	aml_close_resources(aml, resources);
	aml_name_address(aml, "ADDR", 0x1122334455667788);
	method = aml_open_method(aml, "_EVT", 1);
	aml_notify(aml, "DEV_", 0x81);
	aml_close(aml, method);
	aml_close(aml, device);
}

Test(boot_aml, terms_are_as_the_standard_encodes_them)
{
	/* clang-format off */
	static const uint8_t expected[] = {
		0x5b, 0x82, 0x49, 0x06, 'D', 'E', 'V', '_',
		0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x0c, 0x0f,
		0x08, '_', 'U', 'I', 'D', 0x0a, 200,
		0x08, '_', 'S', 'T', 'R', 0x0d, 'a', 'b', 'c', 0,
		0x08, '_', 'C', 'R', 'S', 0x11, 0x22, 0x0a, 0x1f,
		0x47, 0x01, 0x34, 0x12, 0x34, 0x12, 0x01, 0x05,
		0x86, 0x09, 0x00, 0x01, 0x78, 0x56, 0x34, 0x12, 0xf0, 0xde, 0xbc, 0x9a,
		0x89, 0x06, 0x00, 0x03, 0x01, 0x04, 0x03, 0x02, 0x01,
		0x79, 0x00,
		0x08, 'A', 'D', 'D', 'R', 0x12, 0x0c, 0x02,
		0x0c, 0x88, 0x77, 0x66, 0x55, 0x0c, 0x44, 0x33, 0x22, 0x11,
		0x14, 0x0d, '_', 'E', 'V', 'T', 0x09, 0x86, 'D', 'E', 'V', '_', 0x0a, 0x81,
	};
	/* clang-format on */
	struct aml aml = make_aml(sizeof(buffer));

	write_device(&aml);
	cr_assert_not(aml.overflow);
	cr_assert_eq(aml.used, sizeof(expected), "%zu bytes", aml.used);
	for (size_t i = 0; i < sizeof(expected); i++)
		cr_assert_eq(buffer[i], expected[i], "byte %zu is 0x%02x, not 0x%02x", i, buffer[i],
			     expected[i]);
}

Test(boot_aml, what_does_not_fit_is_noticed_and_nothing_is_written_behind_the_end)
{
	struct aml whole = make_aml(sizeof(buffer));

	write_device(&whole);
	for (size_t capacity = 0; capacity <= whole.used; capacity++) {
		struct aml aml = make_aml(capacity);

		write_device(&aml);
		cr_assert_eq(aml.overflow, capacity < whole.used, "capacity %zu", capacity);
		for (size_t i = capacity; i < capacity + 64; i++)
			cr_assert_eq(buffer[i], '#', "capacity %zu: byte %zu was written", capacity,
				     i);
	}
}

Test(boot_aml, too_many_resources_for_one_buffer_are_noticed)
{
	struct aml aml = make_aml(sizeof(buffer));
	size_t resources = aml_open_resources(&aml);

	for (unsigned int i = 0; i < 32; i++)
		aml_resource_io(&aml, 0, 1);
	aml_close_resources(&aml, resources);
	cr_assert(aml.overflow);
}

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "mayfly/state.h"

static struct state_writer writer;
static struct state_file file;
static struct state_section section;
static struct error err;

/* A new process for each test: what lies here is zero. */
static void teardown(void)
{
	state_file_close(&file);
	state_writer_destroy(&writer);
}

TestSuite(state, .fini = teardown);

/* A file with a bit of everything. */
static void write_sample(void)
{
	state_writer_init(&writer);
	state_begin(&writer, "serial", "", 3);
	state_put_u8(&writer, 0x12);
	state_put_u16(&writer, 0x3456);
	state_put_u32(&writer, 0x789abcde);
	state_put_u64(&writer, 0x0123456789abcdef);
	state_put_string(&writer, "ttyS0");
	state_put_bytes(&writer, "\1\2\3", 3);
	state_end(&writer);
	state_begin(&writer, "vcpu", "0", 1);
	state_put_u8(&writer, 1);
	state_end(&writer);
	state_begin(&writer, "vcpu", "1", 1);
	state_end(&writer);
	cr_assert_eq(state_writer_finish(&writer, &err), 0, "%s", err.message);
}

static void parse(void)
{
	cr_assert_eq(state_file_parse(&file, writer.bytes, writer.used_bytes, &err), 0, "%s",
		     err.message);
}

static void parse_sample(void)
{
	write_sample();
	parse();
}

static void find(const char *name, const char *instance)
{
	cr_assert_eq(state_find(&file, name, instance, 3, &section, &err), 0, "%s", err.message);
}

Test(state, fields_come_back_in_the_order_in_which_they_were_written)
{
	uint8_t bytes[3];
	char text[6];

	parse_sample();
	cr_assert_eq(file.entry_count, 3);
	find("serial", "");
	cr_assert_eq(section.version, 3);
	cr_assert_eq(state_get_u8(&section), 0x12);
	cr_assert_eq(state_get_u16(&section), 0x3456);
	cr_assert_eq(state_get_u32(&section), 0x789abcde);
	cr_assert_eq(state_get_u64(&section), 0x0123456789abcdef);
	state_get_string(&section, text, sizeof(text));
	cr_assert_str_eq(text, "ttyS0");
	state_get_bytes(&section, bytes, sizeof(bytes));
	cr_assert_arr_eq(bytes, "\1\2\3", 3);
	cr_assert_eq(state_done(&section, &err), 0, "%s", err.message);
}

Test(state, numbers_are_little_endian_on_the_disk)
{
	state_writer_init(&writer);
	state_begin(&writer, "a", "b", 1);
	state_put_u32(&writer, 0x11223344);
	state_end(&writer);
	cr_assert_eq(state_writer_finish(&writer, &err), 0);
	cr_assert_arr_eq(writer.bytes + 16 + 16, "ab\x44\x33\x22\x11", 6);
}

Test(state, reading_past_the_end_gives_zero_and_is_told_with_the_section)
{
	parse_sample();
	find("vcpu", "0");
	cr_assert_eq(state_get_u32(&section), 0);
	cr_assert_eq(state_get_u8(&section), 0, "nothing is read behind a failure");
	cr_assert_eq(state_done(&section, &err), -EINVAL);
	cr_assert_str_eq(err.message, "section vcpu 0: it ends early");
}

Test(state, bytes_left_over_are_refused)
{
	parse_sample();
	find("vcpu", "0");
	cr_assert_eq(state_done(&section, &err), -EINVAL);
	cr_assert_str_eq(err.message, "section vcpu 0: it is longer than what is known of it");
}

Test(state, the_first_refusal_stays)
{
	parse_sample();
	find("serial", "");
	state_refuse(&section, "divisor", "it is %d", 0);
	state_refuse(&section, "other", "later");
	cr_assert(state_failed(&section));
	cr_assert_eq(state_done(&section, &err), -EINVAL);
	cr_assert_str_eq(err.message, "section serial: divisor: it is 0");
}

Test(state, a_bool_is_zero_or_one)
{
	parse_sample();
	find("vcpu", "0");
	cr_assert(state_get_bool(&section, "on"));
	cr_assert_eq(state_done(&section, &err), 0);
	find("serial", "");
	state_get_bool(&section, "on");
	cr_assert_eq(state_done(&section, &err), -EINVAL);
	cr_assert_str_eq(err.message, "section serial: on: it is 18, neither 0 nor 1");
}

/* A section "t" whose only field are these bytes. */
static void one_field(const char *bytes, uint32_t length)
{
	state_writer_init(&writer);
	state_begin(&writer, "t", "", 1);
	state_put_bytes(&writer, bytes, length);
	state_end(&writer);
	cr_assert_eq(state_writer_finish(&writer, &err), 0);
	parse();
	find("t", "");
}

Test(state, bytes_of_another_length_are_refused)
{
	static const uint32_t lengths[] = { 0, 3, 5 };

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		uint8_t bytes[4] = { 1, 1, 1, 1 };

		one_field("abcde", lengths[i]);
		state_get_bytes(&section, bytes, sizeof(bytes));
		cr_assert_arr_eq(bytes, "\0\0\0", 4);
		cr_assert_eq(state_done(&section, NULL), -EINVAL);
		state_file_close(&file);
		state_writer_destroy(&writer);
	}
}

Test(state, a_text_that_does_not_fit_or_has_a_zero_in_it_is_refused)
{
	static const struct {
		const char *text;
		uint32_t length;
		int result;
	} cases[] = {
		{ "abc", 3, 0 }, { "", 0, 0 }, { "abcd", 4, -EINVAL }, { "a\0c", 3, -EINVAL }
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[4];

		one_field(cases[i].text, cases[i].length);
		state_get_string(&section, text, sizeof(text));
		cr_assert_eq(state_done(&section, NULL), cases[i].result, "case %zu", i);
		cr_assert_str_eq(text, cases[i].result ? "" : cases[i].text);
		state_file_close(&file);
		state_writer_destroy(&writer);
	}
}

Test(state, a_section_of_a_newer_version_is_refused_by_name)
{
	parse_sample();
	cr_assert_eq(state_find(&file, "serial", "", 2, &section, &err), -ENOTSUP);
	cr_assert_str_eq(err.message, "section serial: it has version 3, and this Mayfly knows "
				      "versions up to 2: a newer one wrote it");
	cr_assert_eq(state_find(&file, "vcpu", "7", 1, &section, &err), -ENOENT);
	cr_assert_str_eq(err.message, "section vcpu 7 is missing");
}

Test(state, a_section_that_nobody_took_is_refused_by_name)
{
	parse_sample();
	find("serial", "");
	find("vcpu", "0");
	cr_assert_eq(state_file_check_taken(&file, &err), -ENOTSUP);
	cr_assert(strstr(err.message, "section vcpu 1"), "%s", err.message);
	find("vcpu", "1");
	cr_assert_eq(state_file_check_taken(&file, &err), 0);
}

Test(state, every_flipped_bit_is_found)
{
	write_sample();
	for (size_t i = 0; i < writer.used_bytes * 8; i++) {
		err.message[0] = '\0';
		writer.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
		cr_assert_lt(state_file_parse(&file, writer.bytes, writer.used_bytes, &err), 0,
			     "bit %zu of byte %zu", i % 8, i / 8);
		cr_assert_neq(err.message[0], '\0');
		writer.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
	}
}

Test(state, every_cut_and_every_extra_byte_is_found)
{
	uint8_t *longer;

	write_sample();
	for (size_t length = 0; length < writer.used_bytes; length++) {
		/* A copy of just that length: a byte read beyond it is found by a sanitizer. */
		uint8_t *cut = malloc(length + 1);

		memcpy(cut, writer.bytes, length);
		cr_assert_lt(state_file_parse(&file, cut, length, &err), 0, "%zu bytes", length);
		free(cut);
	}
	longer = calloc(1, writer.used_bytes + 1);
	memcpy(longer, writer.bytes, writer.used_bytes);
	cr_assert_eq(state_file_parse(&file, longer, writer.used_bytes + 1, &err), -EINVAL);
	cr_assert_str_eq(err.message, "there is something behind its end");
	free(longer);
}

Test(state, a_cut_section_is_named)
{
	state_writer_init(&writer);
	state_begin(&writer, "vcpu", "3", 1);
	state_put_u64(&writer, 1);
	state_end(&writer);
	cr_assert_eq(state_writer_finish(&writer, NULL), 0);
	/* In its body; in its name, which is then not known; in its head. */
	cr_assert_lt(state_file_parse(&file, writer.bytes, 16 + 16 + 5 + 7, &err), 0);
	cr_assert_str_eq(err.message, "section vcpu 3: it is cut, or damaged");
	cr_assert_lt(state_file_parse(&file, writer.bytes, 16 + 16 + 4, &err), 0);
	cr_assert_str_eq(err.message, "it is cut, or damaged, in section number 0");
	cr_assert_lt(state_file_parse(&file, writer.bytes, 16 + 15, &err), 0);
	cr_assert_str_eq(err.message, "it is cut in section number 0");
}

Test(state, a_newer_format_is_refused_by_its_version)
{
	write_sample();
	writer.bytes[8] = STATE_FORMAT_VERSION + 1;
	cr_assert_eq(state_file_parse(&file, writer.bytes, writer.used_bytes, &err), -ENOTSUP);
	cr_assert_str_eq(err.message, "its format has version 2, and this Mayfly knows versions up "
				      "to 1: a newer one wrote it");
}

Test(state, a_section_that_is_there_twice_is_refused)
{
	state_writer_init(&writer);
	for (unsigned int i = 0; i < 2; i++) {
		state_begin(&writer, "net", "eth0", 1);
		state_end(&writer);
	}
	cr_assert_eq(state_writer_finish(&writer, &err), 0);
	cr_assert_eq(state_file_parse(&file, writer.bytes, writer.used_bytes, &err), -EINVAL);
	cr_assert_str_eq(err.message, "section net eth0 is there twice");
}

Test(state, each_of_many_sections_is_found)
{
	char name[8];

	state_writer_init(&writer);
	for (uint32_t i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "%u", i);
		state_begin(&writer, "many", name, 1);
		state_put_u32(&writer, i);
		state_end(&writer);
	}
	cr_assert_eq(state_writer_finish(&writer, &err), 0);
	cr_assert_eq(state_file_parse(&file, writer.bytes, writer.used_bytes, &err), 0, "%s",
		     err.message);
	cr_assert_eq(file.entry_count, 100);
	for (uint32_t i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "%u", i);
		cr_assert_eq(state_find(&file, "many", name, 1, &section, &err), 0);
		cr_assert_eq(state_get_u32(&section), i);
	}
}

Test(state, what_a_module_does_out_of_order_is_told_at_the_end)
{
	state_writer_init(&writer);
	state_put_u8(&writer, 1);
	cr_assert_eq(state_writer_finish(&writer, &err), -EINVAL);
	state_writer_destroy(&writer);
	state_writer_init(&writer);
	state_begin(&writer, "a", "", 1);
	cr_assert_eq(state_writer_finish(&writer, &err), -EINVAL, "a section is still open");
}

Test(state, checksum_is_that_of_the_standard)
{
	uint8_t zeroes[32] = { 0 };

	/* RFC 3720, B.4. */
	cr_assert_eq(state_crc32c(0, zeroes, sizeof(zeroes)), 0x8a9136aau);
	cr_assert_eq(state_crc32c(0, "123456789", 9), 0xe3069283u);
	cr_assert_eq(state_crc32c(state_crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
}

Test(state, the_processors_checksum_is_that_of_the_loop)
{
	uint8_t bytes[67];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 37);
	for (size_t length = 0; length <= sizeof(bytes); length++)
		cr_assert_eq(state_crc32c(0, bytes, length),
			     state_crc32c_bitwise(0, bytes, length));
}

Test(state, a_file_that_is_none_is_refused_with_its_path)
{
	cr_assert_eq(state_file_open(&file, "/nonexistent/state", &err), -ENOENT);
	cr_assert_str_eq(err.message, "state file /nonexistent/state: it cannot be opened: "
				      "No such file or directory (os error 2)");
	cr_assert_eq(state_file_open(&file, "/dev/null", &err), -EINVAL);
	cr_assert_str_eq(err.message, "state file /dev/null: it is no regular file");
}

#include <string.h>

#include "i8042_registers.h"

#define OBF	0x01
#define SYSTEM	0x04
#define COMMAND 0x08
#define KEYLOCK 0x10
#define AUX	0x20

static int resets;

static void count_reset(void *context)
{
	cr_assert_eq(context, &resets);
	/* The machine may ask for anything in here: the lock is not held. */
	cr_assert_eq(pthread_mutex_trylock(&i8042.lock), 0);
	pthread_mutex_unlock(&i8042.lock);
	resets++;
}

static void setup(void)
{
	struct error err = { 0 };

	resets = 0;
	cr_assert_eq(i8042_init(&i8042, count_reset, &resets, &err), 0, "%s", err.message);
}

static void teardown(void)
{
	i8042_destroy(&i8042);
	i8042_destroy(&i8042);
}

TestSuite(i8042, .init = setup, .fini = teardown);

static uint8_t answer(void)
{
	cr_assert(status() & OBF, "an answer is there at once");
	return data();
}

static void expect(const uint8_t *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint8_t byte = answer();

		cr_assert_eq(byte, bytes[i], "byte %zu is %02x instead of %02x", i, byte, bytes[i]);
	}
	cr_assert_not(status() & OBF, "and nothing more");
}

#define EXPECT(...) \
	expect((const uint8_t[]) { __VA_ARGS__ }, sizeof((const uint8_t[]) { __VA_ARGS__ }))

static uint8_t command_byte(void)
{
	command(0x20);
	return answer();
}

static void set_command_byte(uint8_t value)
{
	command(0x60);
	write_data(value);
}

Test(i8042, answers_its_two_ports_and_none_between)
{
	cr_assert_eq(i8042.data.base, 0x60);
	cr_assert_eq(i8042.data.length, 1);
	cr_assert_eq(i8042.command.base, 0x64);
	cr_assert_eq(i8042.command.length, 1);
}

Test(i8042, power_on_state_is_what_firmware_leaves)
{
	cr_assert_eq(status(), SYSTEM | KEYLOCK);
	cr_assert_eq(command_byte(), 0x65);
	cr_assert_eq(edges(), 1);
}

Test(i8042, status_tells_which_port_was_written_last)
{
	command(0xae);
	cr_assert_eq(status() & COMMAND, COMMAND);
	write_data(0xee);
	cr_assert_eq(status() & COMMAND, 0);
}

Test(i8042, empty_buffer_repeats_its_last_byte)
{
	command(0xaa);
	cr_assert_eq(data(), 0x55);
	cr_assert_eq(data(), 0x55);
}

Test(i8042, self_tests)
{
	command(0xaa);
	EXPECT(0x55);
	command(0xab);
	EXPECT(0x00);
}

Test(i8042, command_byte_and_ram_keep_what_is_written)
{
	set_command_byte(0x70);
	cr_assert_eq(command_byte(), 0x70);
	cr_assert_eq(status() & SYSTEM, 0, "the system flag follows the command byte");
	for (uint8_t i = 1; i < 32; i++) {
		command((uint8_t)(0x60 + i));
		write_data((uint8_t)(i * 5));
	}
	for (uint8_t i = 1; i < 32; i++) {
		command((uint8_t)(0x20 + i));
		EXPECT((uint8_t)(i * 5));
	}
}

Test(i8042, mouse_port_refuses_at_once)
{
	/* Linux's probe: loopback must not come back marked as the mouse's, the line test must
	 * fail. */
	command(0xd3);
	write_data(0x5a);
	cr_assert_eq(status() & (OBF | AUX), OBF);
	EXPECT(0x5a);
	command(0xa9);
	EXPECT(0x01);
	command(0xa8);
	cr_assert_eq(command_byte() & 0x20, 0x20, "cannot be switched on");
	set_command_byte(0x45);
	cr_assert_eq(command_byte() & 0x20, 0x20);
	command(0xd4);
	write_data(0xf2);
	cr_assert_eq(status() & (OBF | AUX | 0x40), OBF | AUX | 0x40, "a time-out of the mouse");
	EXPECT(0xfe);
}

Test(i8042, keyboard_clock_is_switched_by_commands_and_by_writing_to_it)
{
	command(0xad);
	cr_assert_eq(command_byte() & 0x10, 0x10);
	command(0xae);
	cr_assert_eq(command_byte() & 0x10, 0);
	command(0xad);
	write_data(0xee);
	EXPECT(0xee);
	cr_assert_eq(command_byte() & 0x10, 0);
}

Test(i8042, ports_can_be_read_and_written)
{
	command(0xd0);
	EXPECT(0x03);
	command(0xd1);
	write_data(0x01);
	command(0xd0);
	EXPECT(0x01);
	command(0xc0);
	EXPECT(0x80);
	command(0xe0);
	EXPECT(0x00);
	command(0xd2);
	write_data(0x99);
	EXPECT(0x99);
	cr_assert_eq(resets, 0);
}

Test(i8042, every_way_to_pulse_the_reset_line_resets)
{
	int expected = 0;

	for (unsigned int value = 0xf0; value <= 0xff; value++) {
		command((uint8_t)value);
		expected += !(value & 1);
		cr_assert_eq(resets, expected, "command %02x", value);
	}
	command(0xd1);
	write_data(0xfe);
	cr_assert_eq(resets, expected + 1);
	cr_assert_eq(i8042.metrics.resets, (uint64_t)expected + 1);
}

Test(i8042, reset_as_data_is_no_reset)
{
	write_data(0xfe);
	cr_assert_eq(resets, 0);
}

Test(i8042, unknown_commands_are_passed_over)
{
	static const uint8_t unknown[] = { 0x00, 0x1f, 0x40, 0x80, 0xa4,
					   0xac, 0xc1, 0xcf, 0xd5, 0xef };

	for (size_t i = 0; i < sizeof(unknown); i++) {
		command(unknown[i]);
		cr_assert_not(status() & OBF, "command %02x", unknown[i]);
	}
	write_data(0xee);
	EXPECT(0xee);
}

Test(i8042, command_in_place_of_an_argument_starts_over)
{
	command(0x60);
	command(0xaa);
	EXPECT(0x55);
	write_data(0xee);
	EXPECT(0xee);
	write_data(0xed);
	EXPECT(0xfa);
	write_data(0xf4);
	EXPECT(0xfa);
	write_data(0x02);
	EXPECT(0xfe);
}

Test(i8042, keyboard_answers_what_drivers_ask)
{
	write_data(0xff);
	EXPECT(0xfa, 0xaa);
	write_data(0xf2);
	EXPECT(0xfa, 0xab, 0x41);
	write_data(0xf5);
	EXPECT(0xfa);
	write_data(0xf6);
	EXPECT(0xfa);
	write_data(0xf4);
	EXPECT(0xfa);
	write_data(0xee);
	EXPECT(0xee);
	write_data(0xed);
	EXPECT(0xfa);
	write_data(0x07);
	EXPECT(0xfa);
	write_data(0xf3);
	EXPECT(0xfa);
	write_data(0x00);
	EXPECT(0xfa);
	write_data(0xf0);
	EXPECT(0xfa);
	write_data(0x00);
	EXPECT(0xfa, 0x41);
	write_data(0xf0);
	EXPECT(0xfa);
	write_data(0x03);
	EXPECT(0xfa);
	write_data(0x12);
	EXPECT(0xfe);
	write_data(0xea);
	EXPECT(0xfe);
}

Test(i8042, untranslated_keyboard_gives_its_own_codes)
{
	set_command_byte(0x25);
	write_data(0xf2);
	EXPECT(0xfa, 0xab, 0x83);
	write_data(0xf0);
	EXPECT(0xfa);
	write_data(0x00);
	EXPECT(0xfa, 0x02);
}

Test(i8042, each_byte_of_an_answer_makes_its_edge)
{
	/* A driver that takes one byte an interrupt. */
	write_data(0xf2);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(data(), 0xfa);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(data(), 0xab);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(data(), 0x41);
	cr_assert_eq(edges(), 0);
}

Test(i8042, interrupts_follow_the_command_byte)
{
	set_command_byte(0x64);
	write_data(0xee);
	cr_assert_eq(edges(), 0);
	set_command_byte(0x65);
	cr_assert_eq(edges(), 1, "a byte that waits is announced when interrupts are enabled");
	cr_assert_eq(answer(), 0xee);
}

Test(i8042, answers_nobody_reads_do_not_pile_up)
{
	for (int i = 0; i < 1000; i++) {
		command(0xaa);
		write_data(0xf2);
	}
	cr_assert_gt(i8042.metrics.dropped_bytes, 0);
	/* What a driver flushes at most before it takes the controller for broken. */
	for (int i = 0; i < 16 && (status() & OBF); i++)
		data();
	cr_assert_not(status() & OBF);
}

Test(i8042, full_queues_are_within_what_a_driver_flushes)
{
	int flushed = 0;

	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	for (int i = 0; i < 100; i++)
		command(0xaa);
	for (; status() & OBF; flushed++)
		data();
	cr_assert_leq(flushed, 16);
}

Test(i8042, ctrl_alt_del_is_typed_in_translated_codes)
{
	static const uint8_t codes[] = { 0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d };

	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	for (size_t i = 0; i < sizeof(codes); i++) {
		cr_assert_eq(edges(), 1);
		cr_assert_eq(answer(), codes[i]);
	}
	cr_assert_not(status() & OBF);
	cr_assert_eq(edges(), 0);
	cr_assert_eq(i8042.metrics.ctrl_alt_dels, 1);
}

Test(i8042, ctrl_alt_del_is_typed_in_set_2_when_translation_is_off)
{
	set_command_byte(0x25);
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	EXPECT(0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14);
}

Test(i8042, keys_wait_while_the_keyboards_clock_is_off)
{
	command(0xad);
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	cr_assert_not(status() & OBF);
	command(0xaa);
	EXPECT(0x55);
	edges();
	command(0xae);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(answer(), 0x1d);
}

Test(i8042, answer_goes_before_keys_and_both_are_announced)
{
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	cr_assert_eq(edges(), 1);
	command(0xab);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(answer(), 0x00);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(answer(), 0x1d);
}

Test(i8042, second_ctrl_alt_del_is_refused_until_the_first_is_taken)
{
	struct error err = { 0 };

	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, &err), -EBUSY);
	cr_assert_eq(err.code, EBUSY);
	cr_assert(strstr(err.message, "keyboard"), "%s", err.message);
	EXPECT(0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d);
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
}

Test(i8042, switched_off_keyboard_refuses_keys_until_it_is_on_again)
{
	write_data(0xf5);
	EXPECT(0xfa);
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), -EBUSY);
	write_data(0xf4);
	EXPECT(0xfa);
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	write_data(0xff);
	EXPECT(0xfa, 0xaa);
}

/* The i8042 in a state file: devices/i8042.c. */
#include "i8042_registers.h"
#include "saved_state.h"

#define SECTION "i8042"

/* Where fields are in the section. */
enum {
	RAM_LENGTH = 0,
	OUTPUT_PORT = 36,
	COMMAND = 37,
	KEYBOARD = 38,
	LAST_WRITE = 39,
	SCANNING = 40,
	ANSWERS = 41, /* a count, then two bytes each */
};

static struct saved_state saved;

static void on_reset(void *context)
{
	(void)context;
}

static void setup(void)
{
	cr_assert_eq(i8042_init(&i8042, on_reset, NULL, NULL), 0);
}

static void teardown(void)
{
	saved_state_destroy(&saved);
	i8042_destroy(&i8042);
}

TestSuite(i8042_state, .init = setup, .fini = teardown);

static void save(void)
{
	state_writer_init(&saved.writer);
	i8042_save(&i8042, &saved.writer);
	saved_state_read(&saved);
}

static void make_anew(void)
{
	i8042_destroy(&i8042);
	cr_assert_eq(i8042_init(&i8042, on_reset, NULL, NULL), 0);
}

static int try_to_restore(void *context, struct state_file *file, struct error *err)
{
	(void)context;
	make_anew();
	return i8042_restore(&i8042, file, err);
}

static void restore(void)
{
	struct error err = { 0 };

	cr_assert_eq(try_to_restore(NULL, &saved.file, &err), 0, "%s", err.message);
	cr_assert_eq(edges(), 0);
	i8042_resume(&i8042);
}

Test(i8042_state, keys_that_were_typed_are_read_afterwards)
{
	static const uint8_t rest[] = { 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d };

	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	cr_assert_eq(data(), 0x1d);
	save();
	restore();
	for (size_t i = 0; i < sizeof(rest); i++) {
		cr_assert_eq(edges(), 1, "an interrupt for each, the first one too");
		cr_assert_eq(data(), rest[i]);
	}
	cr_assert_eq(edges(), 0);
}

Test(i8042_state, command_that_waits_for_its_data_gets_it)
{
	command(0x65); /* write RAM 5 */
	save();
	restore();
	write_data(0x99);
	command(0x25);
	cr_assert_eq(data(), 0x99);
}

Test(i8042_state, keyboard_argument_is_still_due)
{
	write_data(0xf0);
	cr_assert_eq(data(), 0xfa);
	save();
	restore();
	write_data(0); /* which set? */
	cr_assert_eq(data(), 0xfa);
	cr_assert_eq(data(), 0x41);
}

Test(i8042_state, switches_and_marks_are_as_they_were)
{
	uint8_t before;

	write_data(0xf5); /* no keys */
	data();
	command(0xd4); /* to the mouse port, which is not there */
	write_data(1);
	command(0xd1); /* the output port, half written */
	before = status();
	save();
	restore();
	cr_assert_eq(status(), before);
	cr_assert_eq(data(), 0xfe);
	write_data(0x01); /* A20 off */
	command(0xd0);
	cr_assert_eq(data(), 0x01);
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), -EBUSY);
}

Test(i8042_state, values_that_cannot_be_are_refused_by_name)
{
	static const struct wrong_value wrong[] = {
		{ RAM_LENGTH, 4, 31, "" },
		{ OUTPUT_PORT, 1, 0x00, "output port" },
		{ OUTPUT_PORT, 1, 0x11, "output port" },
		/* It would write behind the RAM. */
		{ COMMAND, 1, 0x80, "controller command" },
		{ COMMAND, 1, 0xff, "controller command" },
		{ COMMAND, 1, 0x5f, "controller command" },
		{ KEYBOARD, 1, 0xee, "keyboard command" },
		{ LAST_WRITE, 1, 2, "last write" },
		{ SCANNING, 1, 2, "scanning" },
		{ ANSWERS, 1, I8042_ANSWERS + 1, "answers" },
		{ ANSWERS, 1, 0xff, "answers" },
		{ ANSWERS + 2, 1, 0x80, "answers" },
	};

	write_data(0xee); /* echo */
	save();
	saved_state_refuses(&saved, SECTION, "", wrong, ARRAY_SIZE(wrong), try_to_restore, NULL);
}

Test(i8042_state, section_that_ends_early_or_late_is_refused)
{
	cr_assert_eq(i8042_send_ctrl_alt_del(&i8042, NULL), 0);
	write_data(0xee);
	save();
	saved_state_refuses_cuts(&saved, SECTION, try_to_restore, NULL);
}

/* The serial port in a state file: devices/serial_state.c; and the console over a restored one. */
#include <stdio.h>
#include <unistd.h>

#include "console_helper.h"
#include "saved_state.h"

#define SECTION "serial"

/* Where registers are in the section: in this order, a byte each. */
enum {
	IER,
	FCR,
	LCR,
	MCR,
	MSR,
	LSR,
	SCR,
	DLL,
	DLM,
	THR_PENDING,
	RTS_SEEN,
	LSR_POLLS,
	FIFO_LENGTH
};

static struct rig rig;
static struct saved_state saved;

static void setup(void)
{
	cr_assert(rig_init(&rig));
}

static void teardown(void)
{
	saved_state_destroy(&saved);
	rig_destroy(&rig);
}

TestSuite(serial_state, .init = setup, .fini = teardown);

static void save(void)
{
	state_writer_init(&saved.writer);
	serial_save(&rig.serial, &saved.writer);
	saved_state_read(&saved);
}

/* Another process, as it were. */
static void make_anew(void)
{
	serial_destroy(&rig.serial);
	cr_assert_eq(serial_init(&rig.serial, NULL), 0);
}

static int try_to_restore(void *context, struct state_file *file, struct error *err)
{
	(void)context;
	make_anew();
	return serial_restore(&rig.serial, file, err);
}

static void restore(void)
{
	struct error err = { 0 };

	cr_assert_eq(try_to_restore(NULL, &saved.file, &err), 0, "%s", err.message);
}

static uint64_t signals_of(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count) ? count : 0;
}

static void put(const char *text)
{
	cr_assert_eq(serial_put_input(&rig.serial, (const uint8_t *)text, strlen(text)),
		     strlen(text));
}

Test(serial_state, registers_are_as_they_were)
{
	rig_out(&rig, REG_LCR, LCR_DLAB | 3);
	rig_out(&rig, REG_DATA, 0x34);
	rig_out(&rig, REG_IER, 0x12);
	rig_out(&rig, REG_LCR, 3);
	rig_out(&rig, REG_SCR, 0x5a);
	rig_out(&rig, REG_IIR_FCR, FCR_ENABLE | 0x80);
	rig_out(&rig, REG_IER, IER_RX | IER_LINE);
	save();
	restore();
	cr_assert_eq(rig_in(&rig, REG_LCR), 3);
	cr_assert_eq(rig_in(&rig, REG_SCR), 0x5a);
	cr_assert_eq(rig_in(&rig, REG_MCR), MCR_DTR | MCR_RTS | MCR_OUT2);
	cr_assert_eq(rig_in(&rig, REG_IER), IER_RX | IER_LINE);
	cr_assert_eq(rig_in(&rig, REG_IIR_FCR), IIR_FIFO | IIR_NONE);
	rig_out(&rig, REG_LCR, LCR_DLAB);
	cr_assert_eq(rig_in(&rig, REG_DATA), 0x34);
	cr_assert_eq(rig_in(&rig, REG_IER), 0x12);
}

Test(serial_state, input_that_the_guest_has_not_taken_comes_along)
{
	static const char text[] = "more than the FIFO's sixteen bytes";

	put(text);
	rig_in(&rig, REG_DATA); /* 'm': the FIFO wraps */
	save();
	restore();
	cr_assert_eq(signals_of(rig.serial.irq_fd), 0);
	serial_resume(&rig.serial);
	cr_assert_eq(signals_of(rig.serial.irq_fd), 1, "the handler has yet to run");
	cr_assert(rig_received(&rig, text + 1));
	cr_assert_eq(signals_of(rig.serial.host_fd), 1, "the host hears that all was taken");
}

Test(serial_state, input_of_several_rounds_of_its_buffer_keeps_its_order)
{
	char text[SERIAL_INPUT_BYTES];

	for (unsigned int i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 7 % 251);
	cr_assert_eq(serial_put_input(&rig.serial, (uint8_t *)text, 700), 700);
	rig_receive(&rig);
	rig.received_count = 0;
	cr_assert_eq(serial_put_input(&rig.serial, (uint8_t *)text, sizeof(text)), sizeof(text));
	save();
	restore();
	serial_resume(&rig.serial);
	rig_receive(&rig);
	cr_assert_eq(rig.received_count, sizeof(text));
	cr_assert_arr_eq(rig.received, text, sizeof(text));
}

Test(serial_state, transmitter_interrupt_that_was_not_taken_is_sent_again)
{
	rig_out(&rig, REG_IER, IER_THRE);
	signals_of(rig.serial.irq_fd);
	save();
	restore();
	serial_resume(&rig.serial);
	cr_assert_eq(signals_of(rig.serial.irq_fd), 1);
	cr_assert_eq(rig_in(&rig, REG_IIR_FCR), IIR_FIFO | IIR_THRE);
	serial_resume(&rig.serial);
	cr_assert_eq(signals_of(rig.serial.irq_fd), 0, "once");
}

Test(serial_state, taken_interrupts_are_not_sent_again)
{
	rig_out(&rig, REG_IER, IER_THRE | IER_RX);
	rig_in(&rig, REG_IIR_FCR);
	save();
	restore();
	serial_resume(&rig.serial);
	cr_assert_eq(signals_of(rig.serial.irq_fd), 0);
}

static bool output_is_out(struct rig *r)
{
	return rig_ring_is_empty(r);
}

Test(serial_state, output_that_was_not_written_is_written_by_the_new_console)
{
	char text[32] = "";
	int ends[2];

	rig_say(&rig, "not yet written");
	save();
	restore();
	cr_assert_eq(pipe(ends), 0);
	rig.options.output_fd = ends[1];
	cr_assert_eq(rig_open(&rig, NULL), 0);
	cr_assert(rig_run(&rig, output_is_out));
	cr_assert_eq(read(ends[0], text, sizeof(text) - 1), 15);
	cr_assert_str_eq(text, "not yet written");
	console_close(&rig.console);
	close(ends[0]);
	close(ends[1]);
}

Test(serial_state, a_full_ring_of_output_keeps_its_order)
{
	uint8_t *seen = malloc(SERIAL_OUTPUT_BYTES);
	size_t count = 0, length;
	const uint8_t *data;

	for (unsigned int i = 0; i < 1000; i++)
		rig_out(&rig, REG_DATA, 0xff);
	serial_consume_output(&rig.serial, 999); /* the ring wraps */
	for (unsigned int i = 0; i < SERIAL_OUTPUT_BYTES - 1; i++)
		rig_out(&rig, REG_DATA, i % 251);
	serial_consume_output(&rig.serial, 1);
	rig_out(&rig, REG_DATA, (SERIAL_OUTPUT_BYTES - 1) % 251);
	save();
	restore();
	while ((length = serial_peek_output(&rig.serial, &data))) {
		memcpy(seen + count, data, length);
		count += length;
		serial_consume_output(&rig.serial, length);
	}
	cr_assert_eq(count, SERIAL_OUTPUT_BYTES);
	for (unsigned int i = 0; i < count; i++)
		cr_assert_eq(seen[i], i % 251, "byte %u", i);
	free(seen);
}

static bool all_typed(struct rig *r)
{
	rig_receive(r);
	return r->received_count == 3 * SERIAL_INPUT_BYTES;
}

/* What the port has already counts for the console's first burst: nothing may be dropped. */
Test(serial_state, input_typed_ahead_and_anew_arrives_whole)
{
	static char text[3 * SERIAL_INPUT_BYTES];
	int ends[2];

	for (unsigned int i = 0; i < sizeof(text); i++)
		text[i] = (char)(i % 251);
	rig_out(&rig, REG_MCR, 0); /* not ready to receive */
	cr_assert_eq(serial_put_input(&rig.serial, (uint8_t *)text, SERIAL_INPUT_BYTES - 100),
		     SERIAL_INPUT_BYTES - 100);
	save();
	restore();
	cr_assert_eq(pipe(ends), 0);
	cr_assert_eq(write(ends[1], text + SERIAL_INPUT_BYTES - 100,
			   sizeof(text) - SERIAL_INPUT_BYTES + 100),
		     (ssize_t)sizeof(text) - SERIAL_INPUT_BYTES + 100);
	rig.options.input_fd = ends[0];
	cr_assert_eq(rig_open(&rig, NULL), 0);
	serial_resume(&rig.serial);
	cr_assert(rig_run(&rig, rig_is_quiet));
	rig_out(&rig, REG_MCR, MCR_RTS);
	cr_assert(rig_run(&rig, all_typed), "%zu bytes arrived", rig.received_count);
	cr_assert_arr_eq(rig.received, text, sizeof(text));
	console_close(&rig.console);
	close(ends[0]);
	close(ends[1]);
}

Test(serial_state, limits_of_the_output_go_on_with_what_was_left)
{
	struct rate_limiter_config limit = { .has_bandwidth = true,
					     .bandwidth = { .size = 10, .refill_time = 3600000 } };
	struct error err = { 0 };
	const uint8_t *data;
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	rig.options.output_fd = ends[1];
	rig.options.rate_limiter = &limit;
	cr_assert_eq(rig_open(&rig, &err), 0, "%s", err.message);
	rig_say(&rig, "1234567");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	state_writer_init(&saved.writer);
	console_save(&rig.console, &saved.writer);
	saved_state_read(&saved);
	console_close(&rig.console);
	make_anew();
	cr_assert_eq(rig_open(&rig, &err), 0, "%s", err.message);
	cr_assert_eq(console_restore_state(&rig.console, &saved.file, &err), 0, "%s", err.message);
	rig_say(&rig, "89abcdef");
	cr_assert(rig_run(&rig, rig_is_quiet));
	cr_assert_eq(serial_peek_output(&rig.serial, &data), 5);
	console_close(&rig.console);
	close(ends[0]);
	close(ends[1]);
}

Test(serial_state, values_that_cannot_be_are_refused_by_name)
{
	static const struct wrong_value wrong[] = {
		{ IER, 1, 0x10, "IER" },
		{ FCR, 1, 0x02, "FCR" },
		{ FCR, 1, 0x80, "FCR" },
		{ MCR, 1, 0x20, "MCR" },
		{ MSR, 1, 0x10, "MSR" },
		{ LSR, 1, 0x01, "LSR" },
		{ THR_PENDING, 1, 2, "transmitter interrupt" },
		{ RTS_SEEN, 1, 0xff, "RTS seen" },
		{ LSR_POLLS, 1, LSR_POLLS_WAITING + 1, "LSR polls" },
		{ FIFO_LENGTH, 4, SERIAL_FIFO_BYTES + 1, "" },
		{ FIFO_LENGTH, 4, 0xffffffff, "" },
		/* A FIFO of two bytes, which is off. */
		{ FCR, 1, 0, "FIFO" },
	};

	put("ab");
	save();
	saved_state_refuses(&saved, SECTION, "", wrong, ARRAY_SIZE(wrong), try_to_restore, NULL);
}

Test(serial_state, section_that_ends_early_or_late_is_refused)
{
	put("some input, more than the FIFO takes");
	rig_say(&rig, "some output");
	save();
	saved_state_refuses_cuts(&saved, SECTION, try_to_restore, NULL);
}

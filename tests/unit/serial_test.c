#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "devices/serial_private.h"

static struct serial serial;

static void setup(void)
{
	struct error err = { 0 };

	cr_assert_eq(serial_init(&serial, &err), 0, "%s", err.message);
}

static void teardown(void)
{
	serial_destroy(&serial);
	serial_destroy(&serial);
}

TestSuite(serial, .init = setup, .fini = teardown);

static uint8_t in(unsigned int port)
{
	uint8_t value = 0xa5;

	serial.device.ops->read(&serial.device, port, &value, 1);
	return value;
}

static void out(unsigned int port, unsigned int value)
{
	uint8_t byte = (uint8_t)value;

	serial.device.ops->write(&serial.device, port, &byte, 1);
}

/* How often an eventfd was written to since the last call. */
static uint64_t signals_of(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count) ? count : 0;
}

static uint64_t edges(void)
{
	return signals_of(serial.irq_fd);
}

static uint64_t wakes(void)
{
	return signals_of(serial.host_fd);
}

static size_t put(const char *text)
{
	return serial_put_input(&serial, (const uint8_t *)text, strlen(text));
}

/* As a driver leaves the port when it is open. */
static void open_port(void)
{
	out(REG_IIR_FCR, FCR_ENABLE);
	out(REG_IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX | FCR_CLEAR_TX | 0x80);
	out(REG_IER, IER_RX | IER_LINE);
	out(REG_MCR, MCR_DTR | MCR_RTS | MCR_OUT2);
}

Test(serial, sits_where_a_pc_has_its_first_port)
{
	cr_assert_eq(serial.device.base, 0x3f8);
	cr_assert_eq(serial.device.length, 8);
}

Test(serial, power_on_state)
{
	cr_assert_eq(in(REG_IER), 0);
	cr_assert_eq(in(REG_IIR_FCR), IIR_NONE);
	cr_assert_eq(in(REG_LCR), 0);
	cr_assert_eq(in(REG_MCR), 0);
	cr_assert_eq(in(REG_LSR), LSR_THRE | LSR_TEMT);
	cr_assert_eq(in(REG_MSR), MSR_CTS | MSR_DSR | MSR_DCD);
	cr_assert_eq(in(REG_DATA), 0);
	cr_assert_eq(edges(), 0);
	cr_assert_eq(wakes(), 0);
}

Test(serial, scratch_and_line_control_keep_what_is_written)
{
	for (unsigned int value = 0; value < 256; value++) {
		out(REG_SCR, value);
		out(REG_LCR, value ^ 0xff);
		cr_assert_eq(in(REG_SCR), value);
		cr_assert_eq(in(REG_LCR), value ^ 0xff);
	}
}

Test(serial, absent_bits_read_as_zero)
{
	out(REG_IER, 0xff);
	cr_assert_eq(in(REG_IER), IER_ALL);
	out(REG_MCR, 0xff);
	cr_assert_eq(in(REG_MCR), MCR_ALL);
}

Test(serial, divisor_latch_lies_over_data_and_interrupt_enable)
{
	const uint8_t *data;

	out(REG_IER, IER_LINE);
	out(REG_LCR, LCR_DLAB | 0x03);
	out(REG_DATA, 0x0c);
	out(REG_IER, 0x5a);
	cr_assert_eq(in(REG_DATA), 0x0c);
	cr_assert_eq(in(REG_IER), 0x5a);
	out(REG_LCR, 0x03);
	cr_assert_eq(in(REG_IER), IER_LINE);
	cr_assert_eq(serial_peek_output(&serial, &data), 0, "a divisor is not output");
}

Test(serial, status_registers_ignore_writes)
{
	out(REG_LSR, 0x1f);
	out(REG_MSR, 0xff);
	cr_assert_eq(in(REG_LSR), LSR_THRE | LSR_TEMT);
	cr_assert_eq(in(REG_MSR), MSR_CTS | MSR_DSR | MSR_DCD);
}

Test(serial, wide_accesses_are_split_into_ports)
{
	uint8_t values[4] = { 0 };
	uint8_t word[2] = { 0x11, 0x22 };

	out(REG_LCR, LCR_DLAB);
	serial.device.ops->write(&serial.device, REG_DATA, word, sizeof(word));
	cr_assert_eq(in(REG_DATA), 0x11);
	cr_assert_eq(in(REG_IER), 0x22);
	serial.device.ops->read(&serial.device, REG_MCR, values, sizeof(values));
	cr_assert_eq(values[1], LSR_THRE | LSR_TEMT);
	cr_assert_eq(values[2], MSR_CTS | MSR_DSR | MSR_DCD);
}

/* The probe of Linux's 8250 driver that tells a 16550A from its relatives. */
Test(serial, is_detected_as_a_16550a)
{
	out(REG_IER, 0);
	cr_assert_eq(in(REG_IER)&0x0f, 0);
	out(REG_IER, 0x0f);
	cr_assert_eq(in(REG_IER)&0x0f, 0x0f);
	out(REG_IER, 0);

	out(REG_MCR, MCR_LOOP | MCR_OUT2 | MCR_RTS);
	cr_assert_eq(in(REG_MSR)&0xf0, MSR_DCD | MSR_CTS);
	out(REG_MCR, 0);

	out(REG_IIR_FCR, FCR_ENABLE);
	cr_assert_eq(in(REG_IIR_FCR)&0xc0, 0xc0);

	/* No enhanced register set behind LCR 0x80 or 0xbf, no 64-byte FIFO, no UART unit enable
	 * bit. */
	out(REG_LCR, 0x80);
	cr_assert_neq(in(REG_IIR_FCR), 0);
	out(REG_LCR, 0xbf);
	cr_assert_neq(in(REG_IIR_FCR), 0);
	out(REG_LCR, 0x80);
	out(REG_IIR_FCR, FCR_ENABLE | 0x20);
	cr_assert_eq(in(REG_IIR_FCR) >> 5, 6);
	out(REG_LCR, 0);
	out(REG_IER, 0x40);
	cr_assert_eq(in(REG_IER)&0x40, 0);
}

Test(serial, fifo_switched_off_identifies_without_fifo_bits)
{
	out(REG_IIR_FCR, FCR_ENABLE);
	out(REG_IIR_FCR, 0xc0 | FCR_CLEAR_RX);
	cr_assert_eq(in(REG_IIR_FCR), IIR_NONE);
}

Test(serial, loopback_routes_each_modem_output_to_its_input)
{
	out(REG_MCR, MCR_LOOP);
	cr_assert_eq(in(REG_MSR)&0xf0, 0);
	out(REG_MCR, MCR_LOOP | MCR_DTR);
	cr_assert_eq(in(REG_MSR)&0xf0, MSR_DSR);
	out(REG_MCR, MCR_LOOP | MCR_RTS);
	cr_assert_eq(in(REG_MSR)&0xf0, MSR_CTS);
	out(REG_MCR, MCR_LOOP | MCR_OUT1);
	cr_assert_eq(in(REG_MSR)&0xf0, MSR_RI);
	out(REG_MCR, MCR_LOOP | MCR_OUT2);
	cr_assert_eq(in(REG_MSR)&0xf0, MSR_DCD);
}

Test(serial, modem_status_reports_changes_once)
{
	out(REG_MCR, MCR_LOOP | MCR_OUT1);
	cr_assert_eq(in(REG_MSR), MSR_RI | 0x0b,
		     "CTS, DSR and DCD changed; a ring that starts is no change");
	cr_assert_eq(in(REG_MSR), MSR_RI);
	out(REG_MCR, MCR_LOOP);
	cr_assert_eq(in(REG_MSR), MSR_DRI, "a ring that ends is");
	cr_assert_eq(in(REG_MSR), 0);
}

Test(serial, modem_status_change_interrupts_until_read)
{
	out(REG_IER, IER_MODEM);
	cr_assert_eq(edges(), 0);
	out(REG_MCR, MCR_LOOP);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(REG_IIR_FCR), IIR_MODEM);
	in(REG_MSR);
	cr_assert_eq(in(REG_IIR_FCR), IIR_NONE);
	cr_assert_eq(edges(), 0);
}

Test(serial, loopback_returns_bytes_to_the_receiver_and_not_to_the_host)
{
	const uint8_t *data;

	out(REG_IIR_FCR, FCR_ENABLE);
	out(REG_MCR, MCR_LOOP);
	out(REG_DATA, 'a');
	out(REG_DATA, 'b');
	cr_assert_eq(serial_peek_output(&serial, &data), 0);
	cr_assert(in(REG_LSR)&LSR_DATA_READY);
	cr_assert_eq(in(REG_DATA), 'a');
	cr_assert_eq(in(REG_DATA), 'b');
	cr_assert_not(in(REG_LSR)&LSR_DATA_READY);
}

Test(serial, loopback_overrun_is_told_once_and_keeps_the_fifo)
{
	out(REG_IIR_FCR, FCR_ENABLE);
	out(REG_IER, IER_LINE);
	out(REG_MCR, MCR_LOOP);
	for (unsigned int i = 0; i < SERIAL_FIFO_BYTES; i++)
		out(REG_DATA, i);
	cr_assert_eq(edges(), 0);
	out(REG_DATA, 0x77);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(REG_IIR_FCR), IIR_FIFO | IIR_LINE);
	cr_assert(in(REG_LSR)&LSR_OVERRUN);
	cr_assert_not(in(REG_LSR)&LSR_OVERRUN);
	cr_assert_eq(in(REG_IIR_FCR), IIR_FIFO | IIR_NONE);
	for (unsigned int i = 0; i < SERIAL_FIFO_BYTES; i++)
		cr_assert_eq(in(REG_DATA), i);
}

Test(serial, without_fifo_an_overrun_replaces_the_byte)
{
	out(REG_MCR, MCR_LOOP);
	out(REG_DATA, 1);
	out(REG_DATA, 2);
	cr_assert(in(REG_LSR)&LSR_OVERRUN);
	cr_assert_eq(in(REG_DATA), 2);
	cr_assert_not(in(REG_LSR)&LSR_DATA_READY);
}

Test(serial, loopback_keeps_host_input_waiting)
{
	open_port();
	out(REG_MCR, MCR_LOOP | MCR_RTS);
	put("x");
	cr_assert_not(in(REG_LSR)&LSR_DATA_READY);
	out(REG_MCR, MCR_RTS);
	cr_assert_eq(in(REG_DATA), 'x');
}

Test(serial, output_reaches_the_host_in_order_and_wakes_it_once)
{
	const uint8_t *data;

	for (const char *c = "hello"; *c; c++) {
		cr_assert(in(REG_LSR)&LSR_THRE);
		out(REG_DATA, (uint8_t)*c);
	}
	cr_assert_eq(wakes(), 1, "only an empty ring that fills wakes");
	cr_assert_eq(serial_peek_output(&serial, &data), 5);
	cr_assert_arr_eq(data, "hello", 5);
	serial_consume_output(&serial, 2);
	cr_assert_eq(serial_peek_output(&serial, &data), 3);
	cr_assert_arr_eq(data, "llo", 3);
	serial_consume_output(&serial, 3);
	out(REG_DATA, '!');
	cr_assert_eq(wakes(), 1);
	cr_assert_eq(serial.metrics.tx_bytes, 6);
}

Test(serial, output_ring_wraps_without_loss)
{
	uint32_t written = 0, taken = 0;

	while (taken < 3 * SERIAL_OUTPUT_BYTES) {
		const uint8_t *data;
		size_t length;

		for (unsigned int i = 0; i < SERIAL_OUTPUT_BYTES / 3; i++)
			out(REG_DATA, (written++ * 31) >> 3);
		length = serial_peek_output(&serial, &data);
		if (length > SERIAL_OUTPUT_BYTES / 3 - 7 && taken < 2 * SERIAL_OUTPUT_BYTES)
			length = SERIAL_OUTPUT_BYTES / 3 -
				 7; /* leave a rest, so that the ring moves */
		for (size_t i = 0; i < length; i++, taken++)
			cr_assert_eq(data[i], (uint8_t)((taken * 31) >> 3), "byte %u", taken);
		serial_consume_output(&serial, length);
	}
	cr_assert_eq(serial.metrics.dropped_bytes, 0);
}

Test(serial, full_output_ring_drops_the_newest_and_counts)
{
	const uint8_t *data;

	for (unsigned int i = 0; i < SERIAL_OUTPUT_BYTES + 100; i++) {
		out(REG_DATA, i < SERIAL_OUTPUT_BYTES ? 'k' : 'd');
		cr_assert_eq(in(REG_LSR), LSR_THRE | LSR_TEMT, "the guest never waits");
	}
	cr_assert_eq(serial.metrics.tx_bytes, SERIAL_OUTPUT_BYTES + 100);
	cr_assert_eq(serial.metrics.dropped_bytes, 100);
	cr_assert_eq(serial_peek_output(&serial, &data), SERIAL_OUTPUT_BYTES);
	cr_assert_null(memchr(data, 'd', SERIAL_OUTPUT_BYTES));
	serial_consume_output(&serial, 1);
	out(REG_DATA, 'n');
	cr_assert_eq(serial.metrics.dropped_bytes, 100);
}

/* What drivers test at start-up, and what a broken chip gets wrong. */
Test(serial, enabling_the_transmit_interrupt_raises_it_each_time)
{
	for (int i = 0; i < 3; i++) {
		out(REG_IER, IER_THRE);
		cr_assert_eq(edges(), 1);
		cr_assert_eq(in(REG_IIR_FCR), IIR_THRE);
		cr_assert_eq(in(REG_IIR_FCR), IIR_NONE, "reading takes it");
		out(REG_IER, IER_THRE);
		cr_assert_eq(in(REG_IIR_FCR), IIR_NONE, "it was enabled already");
		out(REG_IER, 0);
	}
}

Test(serial, each_burst_written_brings_the_transmit_interrupt_back)
{
	out(REG_IER, IER_THRE);
	edges();
	for (int burst = 0; burst < 3; burst++) {
		cr_assert_eq(in(REG_IIR_FCR), IIR_THRE);
		for (int i = 0; i < 16; i++)
			out(REG_DATA, 'x');
		cr_assert_eq(edges(), 1, "one edge a burst, not one a byte");
	}
	cr_assert_eq(in(REG_IIR_FCR), IIR_THRE);
	cr_assert_eq(in(REG_IIR_FCR), IIR_NONE);
}

Test(serial, transmit_interrupt_hidden_behind_another_is_not_lost)
{
	open_port();
	out(REG_IER, IER_RX | IER_THRE);
	edges();
	put("a");
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(REG_IIR_FCR)&0x0f, IIR_TIMEOUT, "data first");
	cr_assert_eq(in(REG_DATA), 'a');
	cr_assert_eq(in(REG_IIR_FCR)&0x0f, IIR_THRE);
	cr_assert_eq(in(REG_IIR_FCR)&0x0f, IIR_NONE);
}

Test(serial, causes_are_told_by_priority)
{
	out(REG_IIR_FCR, FCR_ENABLE);
	out(REG_MCR, MCR_LOOP);
	for (unsigned int i = 0; i <= SERIAL_FIFO_BYTES; i++)
		out(REG_DATA, i);
	out(REG_IER, IER_ALL);
	cr_assert_eq(in(REG_IIR_FCR), IIR_FIFO | IIR_LINE);
	in(REG_LSR);
	cr_assert_eq(in(REG_IIR_FCR), IIR_FIFO | IIR_RX);
	for (unsigned int i = 0; i < SERIAL_FIFO_BYTES; i++)
		in(REG_DATA);
	cr_assert_eq(in(REG_IIR_FCR), IIR_FIFO | IIR_THRE);
	cr_assert_eq(in(REG_IIR_FCR), IIR_FIFO | IIR_MODEM);
	in(REG_MSR);
	cr_assert_eq(in(REG_IIR_FCR), IIR_FIFO | IIR_NONE);
}

Test(serial, trigger_level_decides_between_data_and_time_out)
{
	static const struct {
		unsigned int fcr;
		size_t level;
	} cases[] = { { 0x00, 1 }, { 0x40, 4 }, { 0x80, 8 }, { 0xc0, 14 } };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		open_port();
		out(REG_IIR_FCR, cases[i].fcr | FCR_ENABLE | FCR_CLEAR_RX);
		for (size_t count = 1; count <= SERIAL_FIFO_BYTES; count++) {
			put("x");
			cr_assert_eq(in(REG_IIR_FCR),
				     IIR_FIFO | (count < cases[i].level ? IIR_TIMEOUT : IIR_RX),
				     "level %zu, %zu bytes", cases[i].level, count);
		}
	}
}

Test(serial, no_event_between_handlers_is_lost)
{
	/* A handler that loops until IIR says none, as Linux's does: any cause after that makes an
	 * edge. */
	open_port();
	for (int round = 0; round < 50; round++) {
		put("ab");
		cr_assert_eq(edges(), 1, "round %d", round);
		while (!(in(REG_IIR_FCR)&IIR_NONE)) {
			while (in(REG_LSR)&LSR_DATA_READY)
				in(REG_DATA);
		}
	}
}

Test(serial, new_cause_while_another_holds_makes_an_edge)
{
	open_port();
	put("a");
	cr_assert_eq(edges(), 1);
	put("b");
	cr_assert_eq(edges(), 0, "the same cause holds still");
	out(REG_IER, IER_RX | IER_THRE);
	cr_assert_eq(edges(), 1);
}

Test(serial, masked_cause_makes_its_edge_when_it_is_enabled)
{
	open_port();
	out(REG_IER, 0);
	put("a");
	cr_assert_eq(edges(), 0);
	cr_assert_eq(in(REG_IIR_FCR), IIR_FIFO | IIR_NONE);
	out(REG_IER, IER_RX);
	cr_assert_eq(edges(), 1);
	out(REG_IER, 0);
	out(REG_IER, IER_RX);
	cr_assert_eq(edges(), 1, "disabling took the line down");
}

Test(serial, input_waits_in_the_host_while_the_fifo_is_full)
{
	const char *text = "0123456789abcdefGHIJ";

	open_port();
	cr_assert_eq(put(text), 20);
	cr_assert_eq(serial.registers.fifo_count, SERIAL_FIFO_BYTES);
	for (size_t i = 0; i < 20; i++) {
		cr_assert_eq(in(REG_LSR), LSR_DATA_READY | LSR_THRE | LSR_TEMT,
			     "and nothing overruns");
		cr_assert_eq(in(REG_DATA), text[i]);
	}
	cr_assert_eq(in(REG_LSR), LSR_THRE | LSR_TEMT);
	cr_assert_eq(serial.metrics.rx_bytes, 20);
}

Test(serial, receiver_without_fifo_holds_one_byte)
{
	open_port();
	out(REG_IIR_FCR, 0);
	put("ab");
	cr_assert_eq(serial.registers.fifo_count, 1);
	cr_assert_eq(in(REG_IIR_FCR), IIR_RX);
	cr_assert_eq(in(REG_DATA), 'a');
	cr_assert_eq(in(REG_DATA), 'b');
}

Test(serial, host_is_woken_when_all_input_is_taken_and_not_before)
{
	open_port();
	put("abc");
	cr_assert_not(serial_input_taken(&serial));
	in(REG_DATA);
	in(REG_DATA);
	cr_assert_eq(wakes(), 0);
	in(REG_DATA);
	cr_assert_eq(wakes(), 1);
	cr_assert(serial_input_taken(&serial));
	in(REG_DATA);
	cr_assert_eq(wakes(), 0);
}

Test(serial, input_buffer_takes_what_fits_and_says_so)
{
	uint8_t data[SERIAL_INPUT_BYTES + 100];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	open_port();
	/* The FIFO takes its part only when bytes are moved: first all must fit into the buffer. */
	cr_assert_eq(serial_put_input(&serial, data, sizeof(data)), SERIAL_INPUT_BYTES);
	cr_assert_eq(serial_put_input(&serial, data + SERIAL_INPUT_BYTES, 100), SERIAL_FIFO_BYTES);
	for (size_t i = 0; i < SERIAL_INPUT_BYTES + SERIAL_FIFO_BYTES; i++)
		cr_assert_eq(in(REG_DATA), data[i]);
	cr_assert_eq(serial_put_input(&serial, data, 0), 0);
}

/* Drivers clear the FIFO and read RBR into nowhere before they listen: what was typed ahead must
 * outlive that. */
Test(serial, input_ahead_of_the_drivers_start_survives_it)
{
	const char *text = "root\n";

	put(text);
	out(REG_MCR, MCR_LOOP | MCR_OUT2 | MCR_RTS);
	out(REG_MCR, 0);
	out(REG_IIR_FCR, FCR_ENABLE);
	in(REG_DATA);
	out(REG_MCR, MCR_DTR);
	for (int i = 0; i < 20; i++) { /* the console's messages */
		in(REG_LSR);
		out(REG_DATA, 'x');
	}
	in(REG_LSR);
	in(REG_DATA);
	in(REG_IIR_FCR);
	in(REG_MSR);
	cr_assert_eq(serial.metrics.rx_bytes, 0);
	open_port();
	for (size_t i = 0; i < strlen(text); i++)
		cr_assert_eq(in(REG_DATA), text[i]);
}

Test(serial, lowered_rts_holds_input_back)
{
	open_port();
	out(REG_MCR, MCR_DTR | MCR_OUT2);
	put("abc");
	cr_assert_not(in(REG_LSR)&LSR_DATA_READY);
	for (int i = 0; i < 200; i++)
		in(REG_LSR);
	cr_assert_not(in(REG_LSR)&LSR_DATA_READY, "polling is no flow control once RTS was used");
	cr_assert_eq(edges(), 0);
	out(REG_MCR, MCR_DTR | MCR_RTS | MCR_OUT2);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(REG_DATA), 'a');
}

Test(serial, guest_that_never_raises_rts_receives_by_interrupt)
{
	put("a");
	cr_assert_not(in(REG_LSR)&LSR_DATA_READY);
	out(REG_IER, IER_RX);
	cr_assert_eq(edges(), 1);
	cr_assert_eq(in(REG_DATA), 'a');
}

Test(serial, guest_that_never_raises_rts_receives_by_polling)
{
	const char *text = "polled";
	size_t received = 0;

	put(text);
	for (int i = 0; i < 1000 && received < strlen(text); i++) {
		if (in(REG_LSR)&LSR_DATA_READY)
			cr_assert_eq(in(REG_DATA), text[received++]);
	}
	cr_assert_eq(received, strlen(text));
}

Test(serial, clearing_the_receiver_loses_no_more_than_the_fifo)
{
	open_port();
	put("0123456789abcdefG");
	out(REG_IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX);
	cr_assert_eq(in(REG_DATA), 'G');
	cr_assert_eq(wakes(), 1);
}

/* Two vCPUs write, one reads, the host feeds and drains: nothing is lost or doubled, and the
 * sanitizers watch. */
#define RACE_BYTES 60000

static void *race_write(void *unused)
{
	(void)unused;
	for (int i = 0; i < RACE_BYTES; i++)
		out(REG_DATA, 'w');
	return NULL;
}

static void *race_read(void *sum)
{
	unsigned int received = 0;

	while (received < RACE_BYTES) {
		if (!(in(REG_LSR)&LSR_DATA_READY)) {
			sched_yield();
			continue;
		}
		*(uint64_t *)sum += in(REG_DATA);
		received++;
	}
	return NULL;
}

Test(serial, several_vcpus_and_the_host_at_once)
{
	pthread_t writers[2], reader;
	uint64_t sum = 0, expected = 0, drained = 0;
	unsigned int fed = 0;

	open_port();
	pthread_create(&writers[0], NULL, race_write, NULL);
	pthread_create(&writers[1], NULL, race_write, NULL);
	pthread_create(&reader, NULL, race_read, &sum);
	while (fed < RACE_BYTES || drained + serial.metrics.dropped_bytes < 2 * RACE_BYTES) {
		uint8_t byte = (uint8_t)(fed * 13);
		const uint8_t *data;
		size_t length = serial_peek_output(&serial, &data);

		for (size_t i = 0; i < length; i++)
			cr_assert_eq(data[i], 'w');
		serial_consume_output(&serial, length);
		drained += length;
		if (fed < RACE_BYTES && serial_put_input(&serial, &byte, 1) == 1) {
			expected += byte;
			fed++;
		}
	}
	pthread_join(writers[0], NULL);
	pthread_join(writers[1], NULL);
	pthread_join(reader, NULL);
	cr_assert_eq(sum, expected);
	cr_assert_eq(drained + serial.metrics.dropped_bytes, 2 * RACE_BYTES);
}

/*
 * The serial port in a state file: see serial_save() in include/mayfly/serial.h.
 *
 * The buffers are written with their oldest byte first, and read to the front of theirs.
 */
#include <string.h>

#include "serial_private.h"

#define SECTION "serial"
#define VERSION 1

static void save_registers(const struct serial_registers *r, struct state_writer *writer)
{
	uint8_t fifo[SERIAL_FIFO_BYTES];

	for (unsigned int i = 0; i < r->fifo_count; i++)
		fifo[i] = r->fifo[(r->fifo_head + i) % SERIAL_FIFO_BYTES];
	state_put_u8(writer, r->interrupt_enable);
	state_put_u8(writer, r->fifo_control);
	state_put_u8(writer, r->line_control);
	state_put_u8(writer, r->modem_control);
	state_put_u8(writer, r->modem_status);
	state_put_u8(writer, r->line_errors);
	state_put_u8(writer, r->scratch);
	state_put_u8(writer, r->divisor[0]);
	state_put_u8(writer, r->divisor[1]);
	state_put_u8(writer, r->thr_empty_pending);
	state_put_u8(writer, r->rts_seen);
	state_put_u8(writer, r->lsr_polls);
	state_put_bytes(writer, fifo, r->fifo_count);
}

void serial_save(struct serial *serial, struct state_writer *writer)
{
	uint8_t input[SERIAL_INPUT_BYTES];

	pthread_mutex_lock(&serial->lock);
	state_begin(writer, SECTION, "", VERSION);
	save_registers(&serial->registers, writer);
	for (uint32_t i = 0; i < serial->input_count; i++)
		input[i] = serial->input[(serial->input_head + i) % SERIAL_INPUT_BYTES];
	state_put_bytes(writer, input, serial->input_count);
	/* In two pieces where the ring wraps. */
	for (uint32_t piece = 0, done = 0; piece < 2; piece++) {
		uint32_t start = (serial->output_head + done) % SERIAL_OUTPUT_BYTES;
		uint32_t left = serial->output_count - done;
		uint32_t length =
			left < SERIAL_OUTPUT_BYTES - start ? left : SERIAL_OUTPUT_BYTES - start;

		state_put_bytes(writer, serial->output + start, length);
		done += length;
	}
	state_end(writer);
	pthread_mutex_unlock(&serial->lock);
}

/* A register of which the guest can only set some bits. */
static uint8_t get_bits(struct state_section *section, const char *field, uint8_t possible)
{
	uint8_t value = state_get_u8(section);

	if (value & ~possible)
		state_refuse(section, field, "it cannot be 0x%02x", value);
	return value;
}

static uint32_t get_buffer(struct state_section *section, uint8_t *buffer, uint32_t size)
{
	uint32_t length;
	const void *span = state_get_span(section, size, &length);

	if (span)
		memcpy(buffer, span, length);
	return length;
}

static void get_registers(struct serial_registers *r, struct state_section *section)
{
	r->interrupt_enable = get_bits(section, "IER", IER_ALL);
	r->fifo_control = get_bits(section, "FCR", FCR_KEPT);
	r->line_control = state_get_u8(section);
	r->modem_control = get_bits(section, "MCR", MCR_ALL);
	r->modem_status = get_bits(section, "MSR", MSR_DELTAS);
	r->line_errors = get_bits(section, "LSR", LSR_OVERRUN);
	r->scratch = state_get_u8(section);
	r->divisor[0] = state_get_u8(section);
	r->divisor[1] = state_get_u8(section);
	r->thr_empty_pending = state_get_bool(section, "transmitter interrupt");
	r->rts_seen = state_get_bool(section, "RTS seen");
	r->lsr_polls = state_get_u8(section);
	r->fifo_count = (uint8_t)get_buffer(section, r->fifo, SERIAL_FIFO_BYTES);
	if (!(r->fifo_control & FCR_ENABLE) && r->fifo_control)
		state_refuse(section, "FCR", "the FIFOs are off, but it is 0x%02x",
			     r->fifo_control);
	if (!(r->fifo_control & FCR_ENABLE) && r->fifo_count > 1)
		state_refuse(section, "FIFO", "it is off, and has %u bytes", r->fifo_count);
	if (r->lsr_polls > LSR_POLLS_WAITING)
		state_refuse(section, "LSR polls", "they are never %u", r->lsr_polls);
}

/* Lock held. */
static void restore(struct serial *serial, struct state_section *section)
{
	struct serial_registers registers = { 0 };
	uint32_t input_count, output_count;

	get_registers(&registers, section);
	input_count = get_buffer(section, serial->input, SERIAL_INPUT_BYTES);
	output_count = get_buffer(section, serial->output, SERIAL_OUTPUT_BYTES);
	output_count += get_buffer(section, serial->output + output_count,
				   SERIAL_OUTPUT_BYTES - output_count);
	if (state_failed(section))
		return;
	serial->registers = registers;
	serial->signalled = 0;
	serial->input_head = serial->output_head = 0;
	serial->input_count = input_count;
	serial->output_count = output_count;
	serial->input_watched = input_count || registers.fifo_count;
	if (output_count)
		serial_signal(serial->host_fd);
}

int serial_restore(struct serial *serial, struct state_file *file, struct error *err)
{
	struct state_section section;
	int result = state_find(file, SECTION, "", VERSION, &section, err);

	if (result < 0)
		return result;
	pthread_mutex_lock(&serial->lock);
	restore(serial, &section);
	pthread_mutex_unlock(&serial->lock);
	return state_done(&section, err);
}

void serial_resume(struct serial *serial)
{
	pthread_mutex_lock(&serial->lock);
	serial_update(serial);
	pthread_mutex_unlock(&serial->lock);
}

/*
 * The serial port's host side: input is copied into a buffer from which the guest's reads fill the
 * FIFO, so that the main thread wakes once per buffer and not once per byte; output is read from
 * the ring in place. What was peeked cannot change until it is consumed: vCPUs only add behind it.
 */
#include "serial_private.h"

size_t serial_put_input(struct serial *serial, const uint8_t *data, size_t length)
{
	size_t taken = 0;

	pthread_mutex_lock(&serial->lock);
	while (taken < length && serial->input_count < SERIAL_INPUT_BYTES) {
		serial->input[(serial->input_head + serial->input_count) % SERIAL_INPUT_BYTES] =
			data[taken++];
		serial->input_count++;
	}
	if (taken) {
		serial->input_watched = true;
		serial_update(serial);
	}
	pthread_mutex_unlock(&serial->lock);
	return taken;
}

size_t serial_input_waiting(struct serial *serial)
{
	size_t waiting;

	pthread_mutex_lock(&serial->lock);
	waiting = serial->input_count;
	pthread_mutex_unlock(&serial->lock);
	return waiting;
}

bool serial_input_taken(struct serial *serial)
{
	bool taken;

	pthread_mutex_lock(&serial->lock);
	taken = !serial->input_count && !serial->registers.fifo_count;
	pthread_mutex_unlock(&serial->lock);
	return taken;
}

void serial_watch_output(struct serial *serial, bool watched)
{
	pthread_mutex_lock(&serial->lock);
	if (watched && !serial->output_watched && serial->output_count)
		serial_signal(serial->host_fd);
	serial->output_watched = watched;
	pthread_mutex_unlock(&serial->lock);
}

size_t serial_peek_output(struct serial *serial, const uint8_t **data)
{
	size_t length;

	pthread_mutex_lock(&serial->lock);
	*data = serial->output + serial->output_head;
	length = SERIAL_OUTPUT_BYTES - serial->output_head;
	if (length > serial->output_count)
		length = serial->output_count;
	pthread_mutex_unlock(&serial->lock);
	return length;
}

void serial_consume_output(struct serial *serial, size_t length)
{
	pthread_mutex_lock(&serial->lock);
	if (length > serial->output_count)
		length = serial->output_count;
	serial->output_count -= (uint32_t)length;
	serial->output_head = (serial->output_head + (uint32_t)length) % SERIAL_OUTPUT_BYTES;
	/* Start over at the front: a guest that says little touches one page and no more. */
	if (!serial->output_count)
		serial->output_head = 0;
	pthread_mutex_unlock(&serial->lock);
}

/* The 16550A UART: see mayfly/serial.h. */
#include "mayfly/serial.h"

int serial_init(struct serial *serial, struct error *err)
{
	return error_set(err, ENOSYS, "serial port: not there yet");
}

void serial_destroy(struct serial *serial)
{
}

size_t serial_put_input(struct serial *serial, const uint8_t *data, size_t length)
{
	return 0;
}

size_t serial_input_room(struct serial *serial)
{
	return 0;
}

size_t serial_peek_output(struct serial *serial, const uint8_t **data)
{
	return 0;
}

void serial_consume_output(struct serial *serial, size_t length)
{
}

/*
 * Any register access of any width in any order, with host input and output between them, on the
 * serial port and the i8042. What must hold whatever the guest does: no memory error, no wait, the
 * transmitter always empty, what the host put in comes out in order, every byte accounted for.
 *
 * The input is a program of three-byte instructions: what to do, and two operands.
 */
#include <stdlib.h>
#include <string.h>

#include "devices/serial_private.h"
#include "mayfly/i8042.h"

int LLVMFuzzerTestOneInput(const uint8_t *program, size_t size);

struct machine {
	struct serial serial;
	struct i8042 i8042;
	struct bus bus;
	unsigned int resets;
	size_t consumed;
	size_t put;
};

static void count_reset(void *context)
{
	((struct machine *)context)->resets++;
}

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void check_serial(struct machine *machine)
{
	struct serial_registers *r = &machine->serial.registers;

	require(r->fifo_count <= SERIAL_FIFO_BYTES && r->fifo_head < SERIAL_FIFO_BYTES);
	require(machine->serial.input_count <= SERIAL_INPUT_BYTES);
	require(machine->serial.output_count <= SERIAL_OUTPUT_BYTES);
	require(machine->serial.metrics.tx_bytes == machine->consumed +
							    machine->serial.output_count +
							    machine->serial.metrics.dropped_bytes);
	require(machine->serial.metrics.rx_bytes + machine->serial.input_count == machine->put);
	/* Nothing pending may be without its edge. */
	require(!(machine->serial.signalled & ~r->interrupt_enable));
}

static void check_i8042(struct machine *machine)
{
	const struct i8042 *i8042 = &machine->i8042;

	require(i8042->answers.count <= I8042_ANSWERS && i8042->answers.head < I8042_ANSWERS);
	require(i8042->keys.count <= I8042_KEYS && i8042->keys.head < I8042_KEYS);
	require(machine->resets == i8042->metrics.resets);
}

static void step(struct machine *machine, const uint8_t *instruction)
{
	uint8_t what = instruction[0], a = instruction[1], b = instruction[2];
	uint8_t data[8] = { b, a, b, a, b, a, b, a };
	size_t width = (size_t)1 << ((what >> 3) & 3);
	const uint8_t *output;
	size_t length;

	switch (what & 7) {
	case 0:
		bus_write(&machine->bus, LAYOUT_PORT_SERIAL + (a & 7), data, width);
		break;
	case 1:
		bus_read(&machine->bus, LAYOUT_PORT_SERIAL + (a & 7), data, width);
		if ((a & 7) == REG_LSR)
			require((data[0] & (LSR_THRE | LSR_TEMT)) == (LSR_THRE | LSR_TEMT));
		break;
	case 2:
		bus_write(&machine->bus,
			  (a & 1) ? LAYOUT_PORT_I8042_COMMAND : LAYOUT_PORT_I8042_DATA, data, 1);
		break;
	case 3:
		bus_read(&machine->bus,
			 (a & 1) ? LAYOUT_PORT_I8042_COMMAND : LAYOUT_PORT_I8042_DATA, data, 1);
		break;
	case 4:
		machine->put += serial_put_input(&machine->serial, data, width);
		break;
	case 5:
		length = serial_peek_output(&machine->serial, &output);
		length = length < b ? length : b;
		serial_consume_output(&machine->serial, length);
		machine->consumed += length;
		break;
	case 6:
		i8042_send_ctrl_alt_del(&machine->i8042, NULL);
		break;
	case 7: /* much of the same */
		for (unsigned int i = 0; i < a; i++)
			bus_write(&machine->bus, LAYOUT_PORT_SERIAL + REG_DATA, &b, 1);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *program, size_t size)
{
	struct machine machine = { .resets = 0 };

	require(serial_init(&machine.serial, NULL) == 0);
	require(i8042_init(&machine.i8042, count_reset, &machine, NULL) == 0);
	require(bus_attach(&machine.bus, &machine.serial.device, NULL) == 0);
	require(bus_attach(&machine.bus, &machine.i8042.data, NULL) == 0);
	require(bus_attach(&machine.bus, &machine.i8042.command, NULL) == 0);
	/* Half of the programs start with a ring that is nearly full, and wraps. */
	if (size && (program[0] & 0x80)) {
		machine.serial.output_head = SERIAL_OUTPUT_BYTES / 2;
		machine.serial.output_count = SERIAL_OUTPUT_BYTES - 100;
		machine.serial.metrics.tx_bytes = SERIAL_OUTPUT_BYTES - 100;
	}
	for (size_t at = 0; at + 3 <= size; at += 3) {
		step(&machine, program + at);
		check_serial(&machine);
		check_i8042(&machine);
	}
	serial_destroy(&machine.serial);
	i8042_destroy(&machine.i8042);
	return 0;
}

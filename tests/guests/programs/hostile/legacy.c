/*
 * The serial port (PC16550D) and the keyboard controller (i8042): every register, every value, more
 * than fits. What is written to the serial port while it does not loop back is in the console's
 * output, between the results. See hostile.h.
 */
#include "hostile.h"

#define SERIAL	     0x3f8
#define SERIAL_PORTS 8
#define SERIAL_IER   (SERIAL + 1)
#define SERIAL_FCR   (SERIAL + 2)
#define SERIAL_LCR   (SERIAL + 3)
#define SERIAL_MCR   (SERIAL + 4)
#define SERIAL_LSR   (SERIAL + 5)
#define SERIAL_SCR   (SERIAL + 7)
#define LCR_8N1	     0x03
#define MCR_LOOP     0x10
#define LSR_READY    0x01
#define LSR_OVERRUN  0x02
#define LSR_EMPTY    0x60
#define FCR_ENABLE   0x01
#define FIFO_BYTES   16

#define I8042_DATA	0x60
#define I8042_COMMAND	0x64
#define I8042_FULL	0x01
#define SELF_TEST	0xaa
#define SELF_TEST_OK	0x55
#define IDENTIFY	0xf2
#define WRITE_OUTPUT	0xd1
#define FIRST_PULSE	0xf0
#define WRITE_CONTROL	0x60
#define CONTROL_DEFAULT 0x65
#define ANSWERS_AT_MOST 1000

static void expect_serial(void)
{
	out8(SERIAL_LCR, LCR_8N1);
	out8(SERIAL_IER, 0);
	out8(SERIAL_MCR, 0);
	out8(SERIAL_FCR, FCR_ENABLE | 6);
	for (unsigned int value = 0; value < 256; value += 51) {
		out8(SERIAL_SCR, (uint8_t)value);
		expect(in8(SERIAL_SCR) == value, "scratch", value);
	}
	expect((in8(SERIAL_LSR) & LSR_EMPTY) == LSR_EMPTY, "line_status", in8(SERIAL_LSR));
}

static void serial_all_registers(struct rig *rig)
{
	(void)rig;
	for (uint16_t port = 0; port < SERIAL_PORTS; port++) {
		for (unsigned int value = 0; value < 256; value++) {
			out8((uint16_t)(SERIAL + port), (uint8_t)value);
			in8((uint16_t)(SERIAL + (value + port) % SERIAL_PORTS));
		}
		expect_serial();
	}
}

/* An ISA bus splits wide accesses; over the end of the device there is nobody. */
static void serial_all_widths(struct rig *rig)
{
	(void)rig;
	for (uint16_t port = SERIAL - 4; port < (uint16_t)(SERIAL + SERIAL_PORTS + 4); port++) {
		for (unsigned int value = 0; value < 256; value += 17) {
			out16(port, (uint16_t)(value * 0x101));
			out32(port, value * 0x1010101);
			in16(port);
			in32(port);
		}
	}
	expect_serial();
	expect(in16(SERIAL + SERIAL_PORTS - 1) == 0xffff, "over_the_end", 0);
}

/* Everything comes back, until there is no more room, and then the line status says so. */
static void serial_loop_overrun(struct rig *rig)
{
	unsigned int count = 0;

	(void)rig;
	out8(SERIAL_FCR, FCR_ENABLE | 6);
	out8(SERIAL_MCR, MCR_LOOP);
	for (unsigned int value = 0; value < 100; value++)
		out8(SERIAL, (uint8_t)value);
	expect(in8(SERIAL_LSR) & LSR_OVERRUN, "overrun", 0);
	while (in8(SERIAL_LSR) & LSR_READY && count < 1000) {
		expect(in8(SERIAL) == count, "byte", count);
		count++;
	}
	expect(count == FIFO_BYTES, "bytes", count);
	/* The FIFO switched off while it is full. */
	for (unsigned int value = 0; value < 100; value++) {
		out8(SERIAL, (uint8_t)value);
		out8(SERIAL_FCR, (uint8_t)value);
		out8(SERIAL_MCR, value & 1 ? MCR_LOOP : 0xff);
		in8(SERIAL);
	}
	expect_serial();
}

static void serial_interrupts_toggled(struct rig *rig)
{
	(void)rig;
	for (uint64_t i = 0; i < rounds; i++) {
		out8(SERIAL_IER, (uint8_t)i);
		in8(SERIAL_FCR);
		out8(SERIAL_MCR, (uint8_t)(i >> 3));
		in8(SERIAL + 6);
	}
	expect_serial();
}

static void serial_flood(struct rig *rig)
{
	static const char line[] =
		"a line of sixty-four bytes that nobody needs to read, over again\n";

	(void)rig;
	out8(SERIAL_LCR, LCR_8N1);
	for (uint64_t i = 0; i < rounds; i++)
		out8_string(SERIAL, line, sizeof(line) - 1);
	expect_serial();
}

static unsigned int drain(void)
{
	unsigned int count = 0;

	while (in8(I8042_COMMAND) & I8042_FULL && count < ANSWERS_AT_MOST) {
		in8(I8042_DATA);
		count++;
	}
	return count;
}

/* One answer and no more; but the host may type keys at any time, so this may take some attempts.
 */
static bool self_test_answers(void)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		drain();
		out8(I8042_COMMAND, SELF_TEST);
		if (in8(I8042_COMMAND) & I8042_FULL && in8(I8042_DATA) == SELF_TEST_OK &&
		    !(in8(I8042_COMMAND) & I8042_FULL))
			return true;
	}
	return false;
}

static void expect_i8042(void)
{
	expect(drain() < ANSWERS_AT_MOST, "answers", 0);
	/* A command that waits for its data byte is forgotten for the next command. */
	out8(I8042_COMMAND, WRITE_CONTROL);
	out8(I8042_DATA, CONTROL_DEFAULT & ~1);
	expect(self_test_answers(), "self_test", in8(I8042_COMMAND));
}

static bool resets(unsigned int command, unsigned int data)
{
	if (command >= FIRST_PULSE)
		return !(command & 1);
	return command == WRITE_OUTPUT && !(data & 1);
}

static void i8042_all_commands(struct rig *rig)
{
	static const uint8_t data[] = { 0x01, 0x03, 0x47, 0x7f, 0xed, 0xf3, 0xff };

	(void)rig;
	for (unsigned int command = 0; command < 256; command++) {
		for (unsigned int i = 0; i < sizeof(data); i++) {
			if (resets(command, data[i]))
				continue;
			out8(I8042_COMMAND, (uint8_t)command);
			out8(I8042_DATA, data[i]);
			in8(I8042_COMMAND);
			in8(I8042_DATA);
		}
		if (command % 16 == 15)
			expect_i8042();
	}
}

static void i8042_all_data(struct rig *rig)
{
	(void)rig;
	for (unsigned int first = 0; first < 256; first++) {
		out8(I8042_DATA, (uint8_t)first);
		for (unsigned int second = 0; second < 256; second += 15)
			out8(I8042_DATA, (uint8_t)second);
		if (first % 16 == 15)
			expect_i8042();
	}
}

static void i8042_overrun(struct rig *rig)
{
	(void)rig;
	drain();
	for (uint64_t i = 0; i < rounds; i++)
		out8(I8042_DATA, IDENTIFY);
	expect(drain() < ANSWERS_AT_MOST, "answers", 0);
	for (unsigned int i = 0; i < 20; i++)
		in8(I8042_DATA);
	expect_i8042();
}

static void i8042_all_widths(struct rig *rig)
{
	(void)rig;
	for (uint16_t port = I8042_DATA - 3; port <= I8042_COMMAND + 3; port++) {
		if (port != 0x61) { /* the speaker's, which is KVM's */
			in16(port);
			in32(port);
		}
	}
	/* Nobody takes a wide write: this would be a reset. */
	out16(I8042_COMMAND, 0xfefe);
	out32(I8042_COMMAND, 0xfefefefe);
	expect_i8042();
}

static const struct hostile_case cases[] = {
	{ "serial-all-registers", serial_all_registers, 0 },
	{ "serial-all-widths", serial_all_widths, 0 },
	{ "serial-loop-overrun", serial_loop_overrun, 0 },
	{ "serial-interrupts-toggled", serial_interrupts_toggled, 0 },
	{ "serial-flood", serial_flood, 0 },
	{ "i8042-all-commands", i8042_all_commands, 0 },
	{ "i8042-all-data", i8042_all_data, 0 },
	{ "i8042-overrun", i8042_overrun, 0 },
	{ "i8042-all-widths", i8042_all_widths, 0 },
};

const struct hostile_suite suite_legacy = SUITE("legacy", NEED_NOTHING, false, cases);

/*
 * What a guest does with the i8042, for its tests: its two registers, and the edges of its
 * interrupt line since they were last counted.
 */
#ifndef TESTS_UNIT_I8042_REGISTERS_H
#define TESTS_UNIT_I8042_REGISTERS_H

#include <criterion/criterion.h>
#include <unistd.h>

#include "mayfly/i8042.h"

static struct i8042 i8042;

static inline uint8_t status(void)
{
	uint8_t value = 0;

	i8042.command.ops->read(&i8042.command, 0, &value, 1);
	return value;
}

static inline uint8_t data(void)
{
	uint8_t value = 0;

	i8042.data.ops->read(&i8042.data, 0, &value, 1);
	return value;
}

static inline void command(uint8_t value)
{
	i8042.command.ops->write(&i8042.command, 0, &value, 1);
}

static inline void write_data(uint8_t value)
{
	i8042.data.ops->write(&i8042.data, 0, &value, 1);
}

static inline uint64_t edges(void)
{
	uint64_t count = 0;

	return read(i8042.irq_fd, &count, sizeof(count)) == (ssize_t)sizeof(count) ? count : 0;
}

#endif

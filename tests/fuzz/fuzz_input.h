/* A fuzzer's input as a stream of numbers; past its end everything is 0. */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct fuzz_input {
	const uint8_t *data;
	size_t length;
};

static inline bool input_left(const struct fuzz_input *input)
{
	return input->length > 0;
}

static inline void input_bytes(struct fuzz_input *input, void *destination, size_t length)
{
	size_t there = length < input->length ? length : input->length;

	memset(destination, 0, length);
	memcpy(destination, input->data, there);
	input->data += there;
	input->length -= there;
}

static inline uint8_t input_u8(struct fuzz_input *input)
{
	uint8_t value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint16_t input_u16(struct fuzz_input *input)
{
	uint16_t value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint32_t input_u32(struct fuzz_input *input)
{
	uint32_t value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint64_t input_u64(struct fuzz_input *input)
{
	uint64_t value;

	input_bytes(input, &value, sizeof(value));
	return value;
}

/* What must hold, in every build. */
#define FUZZ_CHECK(condition)             \
	do {                              \
		if (!(condition))         \
			__builtin_trap(); \
	} while (0)

#endif

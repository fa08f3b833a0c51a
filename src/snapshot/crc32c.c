/*
 * CRC-32C, the checksum of iSCSI (RFC 3720, B.4), which x86 processors compute since SSE4.2: a
 * state file of many vCPUs is checked in microseconds. The polynomial is 0x1edc6f41, here
 * reflected.
 */
#include <string.h>

#include "mayfly/state.h"

#define REFLECTED_POLYNOMIAL 0x82f63b78u

static uint32_t update_bitwise(uint32_t crc, const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		crc ^= bytes[i];
		for (unsigned int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ REFLECTED_POLYNOMIAL : crc >> 1;
	}
	return crc;
}

__attribute__((target("sse4.2"))) static uint32_t update_sse(uint32_t crc, const uint8_t *bytes,
							     size_t length)
{
	uint64_t wide = crc;

	for (; length >= sizeof(uint64_t); bytes += sizeof(uint64_t), length -= sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, bytes, sizeof(word));
		wide = __builtin_ia32_crc32di(wide, word);
	}
	crc = (uint32_t)wide;
	for (; length > 0; bytes++, length--)
		crc = __builtin_ia32_crc32qi(crc, *bytes);
	return crc;
}

uint32_t state_crc32c_bitwise(uint32_t crc, const void *bytes, size_t length_bytes)
{
	return ~update_bitwise(~crc, bytes, length_bytes);
}

uint32_t state_crc32c(uint32_t crc, const void *bytes, size_t length_bytes)
{
	if (__builtin_cpu_supports("sse4.2"))
		return ~update_sse(~crc, bytes, length_bytes);
	return state_crc32c_bitwise(crc, bytes, length_bytes);
}

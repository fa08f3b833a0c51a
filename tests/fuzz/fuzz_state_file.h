/* Bytes of a state file that a fuzzer has changed: their checksums. */
#ifndef TESTS_FUZZ_STATE_FILE_H
#define TESTS_FUZZ_STATE_FILE_H

#include "fuzz_input.h"
#include "mayfly/state.h"
#include "src/snapshot/frame.h"

/* Puts the checksums right, as far as sections can be told apart. */
static inline void mend_state_file(uint8_t *bytes, size_t length)
{
	size_t at = FRAME_HEAD_BYTES;

	while (at < length && length - at >= sizeof(struct frame_section)) {
		struct frame_section head;
		uint32_t crc;
		size_t total;

		memcpy(&head, bytes + at, sizeof(head));
		total = sizeof(head) + head.section_bytes + head.instance_bytes + head.body_bytes;
		if (total > length - at)
			return;
		if (at + total == length && head.body_bytes == 8) {
			crc = state_crc32c(0, bytes, at);
			memcpy(bytes + length - 4, &crc, sizeof(crc));
		}
		crc = frame_checksum(bytes + at, total);
		memcpy(bytes + at + offsetof(struct frame_section, checksum), &crc, sizeof(crc));
		at += total;
	}
}

#endif

/*
 * The frame of a state file: what stands around the sections' bodies.
 *
 *	magic (8), format version (u32), reserved (u32, 0)
 *	sections: head (16), name, instance, body
 *	the last section: FRAME_END, whose body is the count of sections with itself (u32) and the
 *	CRC-32C of all bytes before it (u32)
 *
 * Little-endian; no padding. A section's checksum is the CRC-32C of its head with the checksum as
 *0, its names and its body.
 */
#ifndef MAYFLY_SNAPSHOT_FRAME_H
#define MAYFLY_SNAPSHOT_FRAME_H

#include "mayfly/state.h"

/* The first byte is no text, and the line ends show what a transfer as text did to the file. */
#define FRAME_MAGIC	  "\x8fMayfly\n"
#define FRAME_MAGIC_BYTES 8
#define FRAME_HEAD_BYTES  16
#define FRAME_END	  "end"
#define FRAME_END_VERSION 1

struct frame_section {
	uint32_t body_bytes;
	uint32_t checksum;
	uint16_t version;
	uint8_t section_bytes;
	uint8_t instance_bytes;
	uint32_t reserved; /* 0 */
};

_Static_assert(sizeof(struct frame_section) == 16, "the head of a section has no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "state files are little-endian");

/* Of a section of `length` bytes, whatever stands in its place for the checksum. */
uint32_t frame_checksum(const uint8_t *section, size_t length);

#endif

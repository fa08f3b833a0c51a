/*
 * What daytime says to a frame: ARP requests for its address, pings, and the time of day by UDP and
 * TCP (RFC 867). It keeps nothing between frames.
 */
#ifndef DAYTIME_ANSWER_H
#define DAYTIME_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "packet.h"

#define DAYTIME_PORT	   13
#define DAYTIME_TEXT_BYTES 26

struct host {
	uint8_t mac[MAC_BYTES];
	uint32_t ip;		 /* big-endian */
	uint64_t secret;	 /* for the first sequence numbers of connections */
	uint64_t answered_times; /* how often the time was told */
};

/* "Sat Nov 21 15:20:27 2026\r\n", as RFC 867's servers usually say it; without a NUL. */
void daytime_text(uint64_t seconds, char text[DAYTIME_TEXT_BYTES]);

/*
 * Writes the answer to a frame of `bytes` bytes to `out`, which has room for as many and at least
 * 128. Returns its size, or 0: there is none. `seconds` is the time since 1970.
 */
uint32_t answer_frame(struct host *host, const uint8_t *in, uint32_t bytes, uint8_t *out,
		      uint64_t seconds);

#endif

/* What the fuzzers of virtio devices share: the loop's turns, and addresses out of the input. */
#ifndef TESTS_FUZZ_DEVICE_H
#define TESTS_FUZZ_DEVICE_H

#include <sys/epoll.h>

#include "fuzz_input.h"
#include "mayfly/loop.h"

/*
 * The loop, until nothing waits. A device that keeps it busy for ever is a finding: libFuzzer's
 * time-out.
 */
static inline void fuzz_turn(struct loop *loop)
{
	struct epoll_event events[4];
	int count;

	while ((count = epoll_wait(loop->epoll_fd, events, 4, 0)) > 0) {
		for (int i = 0; i < count; i++) {
			struct loop_source *source = events[i].data.ptr;

			if (source->fd >= 0)
				source->handler(source, events[i].events);
		}
	}
}

/* Mostly where the guest's memory is. */
static inline uint64_t input_address(struct fuzz_input *input)
{
	uint8_t how = input_u8(input);

	return how & 0x80 ? input_u64(input) : (uint64_t)(how & 3) << 16 | input_u16(input);
}

#endif

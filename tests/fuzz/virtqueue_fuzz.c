/*
 * The ring walker (devices/virtio/queue.c) under a driver that does anything: it places the rings,
 * writes descriptors and indices, and between that the device takes, gives back and publishes
 * chains. Whatever comes, a chain that is handed out lies in guest memory, in order and within its
 * limits, and no more are out than the queue holds.
 */
#include <linux/virtio_ring.h>

#include "fuzz_input.h"
#include "mayfly/virtqueue.h"

#define MEMORY_BYTES	  (128 * KIB)
#define SIZE_MAX_OF_QUEUE 32

enum operation {
	OP_PLACE,
	OP_DESCRIPTOR,
	OP_AVAILABLE,
	OP_AVAILABLE_INDEX,
	OP_BYTES,
	OP_POP,
	OP_PUSH,
	OP_PUBLISH,
	OP_NOTIFY,
	OP_COUNT
};

struct world {
	struct memory memory;
	struct virtqueue queue;
	uint16_t available_index;
	uint16_t heads[SIZE_MAX_OF_QUEUE];
	unsigned int out;
};

/* Mostly in memory, now and then anywhere. */
static uint64_t input_address(struct fuzz_input *input)
{
	uint8_t how = input_u8(input);

	return how & 0x80 ? input_u64(input) : (uint64_t)(how & 1) << 16 | input_u16(input);
}

static void place(struct world *world, struct fuzz_input *input)
{
	uint64_t features = 0;
	uint8_t flags = input_u8(input);

	virtqueue_reset(&world->queue);
	world->out = 0;
	world->available_index = 0;
	world->queue.size = flags & 0x40 ? input_u16(input) : (uint16_t)(1U << (flags & 7));
	world->queue.descriptors_gpa = input_address(input);
	world->queue.available_gpa = input_address(input);
	world->queue.used_gpa = input_address(input);
	if (flags & 0x10)
		features |= 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (flags & 0x20)
		features |= 1ULL << VIRTIO_RING_F_INDIRECT_DESC;
	if (virtqueue_enable(&world->queue, features) < 0)
		FUZZ_CHECK(world->queue.fault && !world->queue.ready);
}

static void put_descriptor(struct world *world, struct fuzz_input *input)
{
	uint64_t table = input_u8(input) & 1 ? input_address(input) : world->queue.descriptors_gpa;
	uint64_t index = input_u8(input) & 0x3f;
	struct vring_desc descriptor;

	descriptor.addr = input_address(input);
	descriptor.len = input_u8(input) & 0x80 ? input_u32(input) : input_u16(input);
	descriptor.flags = input_u8(input) & 7;
	descriptor.next = input_u8(input);
	memory_write(&world->memory, table + 16 * index, &descriptor, sizeof(descriptor));
}

static void put_available(struct world *world, struct fuzz_input *input)
{
	uint16_t head = input_u8(input), size = world->queue.size;

	if (!world->queue.ready)
		return;
	memory_write(&world->memory,
		     world->queue.available_gpa + 4 + 2ULL * (world->available_index & (size - 1)),
		     &head, sizeof(head));
	world->available_index++;
	memory_write(&world->memory, world->queue.available_gpa + 2, &world->available_index, 2);
}

static void check_chain(const struct world *world, const struct virtqueue_chain *chain)
{
	const uint8_t *start = world->memory.regions[0].hva, *end = start + MEMORY_BYTES;
	unsigned int count = chain->readable_count + chain->writable_count;
	uint64_t readable = 0, writable = 0;

	FUZZ_CHECK(count > 0 && count <= SIZE_MAX_OF_QUEUE);
	for (unsigned int i = 0; i < count; i++) {
		const uint8_t *base = chain->iov[i].iov_base;

		FUZZ_CHECK(chain->iov[i].iov_len > 0);
		FUZZ_CHECK(base >= start && base < end &&
			   chain->iov[i].iov_len <= (size_t)(end - base));
		*(i < chain->readable_count ? &readable : &writable) += chain->iov[i].iov_len;
	}
	FUZZ_CHECK(readable == chain->readable_bytes && writable == chain->writable_bytes);
	FUZZ_CHECK(chain->head < world->queue.size);
}

static void pop(struct world *world)
{
	struct iovec iov[SIZE_MAX_OF_QUEUE];
	struct virtqueue_chain chain = { .iov = iov };
	int result = virtqueue_pop(&world->queue, &chain);

	FUZZ_CHECK(result == 1 || result == 0 || result == -EPROTO);
	if (result < 0)
		FUZZ_CHECK(world->queue.fault && virtqueue_pop(&world->queue, &chain) == -EPROTO);
	if (result != 1)
		return;
	check_chain(world, &chain);
	FUZZ_CHECK(world->out < world->queue.size);
	world->heads[world->out++] = chain.head;
	FUZZ_CHECK(virtqueue_in_flight(&world->queue) == world->out);
}

static void step(struct world *world, struct fuzz_input *input)
{
	switch (input_u8(input) % OP_COUNT) {
	case OP_PLACE:
		place(world, input);
		break;
	case OP_DESCRIPTOR:
		put_descriptor(world, input);
		break;
	case OP_AVAILABLE:
		put_available(world, input);
		break;
	case OP_AVAILABLE_INDEX:
		world->available_index = input_u16(input);
		memory_write(&world->memory, world->queue.available_gpa + 2,
			     &world->available_index, 2);
		break;
	case OP_BYTES: {
		uint64_t address = input_address(input);
		uint8_t bytes[32];
		size_t length = 1 + (input_u8(input) & 31);

		input_bytes(input, bytes, length);
		memory_write(&world->memory, address, bytes, length);
		break;
	}
	case OP_POP:
		pop(world);
		break;
	case OP_PUSH:
		if (world->out > 0)
			virtqueue_push(&world->queue, world->heads[--world->out], input_u8(input));
		break;
	case OP_PUBLISH:
		virtqueue_publish(&world->queue);
		break;
	case OP_NOTIFY:
		virtqueue_disable_notify(&world->queue);
		virtqueue_enable_notify(&world->queue);
		break;
	default:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static struct world world;
	struct fuzz_input input = { data, length };

	if (!world.memory.region_count)
		FUZZ_CHECK(memory_create(&world.memory, MEMORY_BYTES, HUGE_PAGES_NONE, NULL) == 0);
	memset(world.memory.regions[0].hva, 0, MEMORY_BYTES);
	virtqueue_init(&world.queue, &world.memory, SIZE_MAX_OF_QUEUE);
	world.available_index = 0;
	world.out = 0;
	while (input_left(&input))
		step(&world, &input);
	return 0;
}

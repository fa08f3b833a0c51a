/* What the guest of monitor_fuzz.c does: any access, and drivers that are nearly right. */
#include <errno.h>
#include <linux/kvm.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "world.h"

#define RING_SIZE 16
/* Of virtio slot s, queue q: between the page tables and the kernel. */
#define SLOT_BYTES  0x8000ULL
#define QUEUE_BYTES 0x4000ULL
#define RINGS	    0x100000ULL
#define AVAILABLE   0x800ULL
#define USED	    0xc00ULL
#define BUFFERS	    0x1000ULL

bool guest_runs(const struct world *world)
{
	return !world->ended && vmm_state(world->vmm) == VMM_RUNNING;
}

void guest_settle(struct world *world)
{
	if (world->overlap == 0 && vmm_state(world->vmm) == VMM_RUNNING)
		fake_kvm_settle();
}

void guest_mmio(struct world *world, bool write, uint64_t address, uint64_t value,
		unsigned int size)
{
	struct fake_exit exit = { .kind = FAKE_MMIO,
				  .write = write,
				  .size = (uint8_t)size,
				  .address = address,
				  .value = value };

	fake_kvm_post(world->vcpu, &exit);
}

uint64_t guest_window(unsigned int slot)
{
	return LAYOUT_VIRTIO_MMIO + (slot & 0x7f) * LAYOUT_VIRTIO_MMIO_BYTES +
	       (slot & 0x80 ? LAYOUT_VIRTIO_MMIO_CMDLINE - LAYOUT_VIRTIO_MMIO : 0);
}

static void set(struct world *world, unsigned int slot, uint64_t offset, uint32_t value)
{
	guest_mmio(world, true, guest_window(slot) + offset, value, 4);
}

static void put(uint64_t gpa, const void *bytes, size_t length)
{
	void *there = fake_kvm_memory(gpa, length);

	if (there)
		memcpy(there, bytes, length);
}

static uint64_t ring(unsigned int slot, unsigned int queue)
{
	return RINGS + (slot & 0x7f) * SLOT_BYTES + queue * QUEUE_BYTES;
}

/* As the standard says (virtio 1.2, 3.1.1). */
static void start_driver(struct world *world, unsigned int slot, uint32_t features)
{
	static const uint8_t zeros[BUFFERS];
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	set(world, slot, VIRTIO_MMIO_STATUS, 0);
	guest_settle(world);
	set(world, slot, VIRTIO_MMIO_STATUS, status);
	set(world, slot, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set(world, slot, VIRTIO_MMIO_DRIVER_FEATURES, features);
	set(world, slot, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(world, slot, VIRTIO_MMIO_DRIVER_FEATURES, 1); /* VIRTIO_F_VERSION_1 */
	set(world, slot, VIRTIO_MMIO_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned int queue = 0; queue < 2; queue++) {
		uint64_t base = ring(slot, queue);

		put(base, zeros, sizeof(zeros));
		world->available[slot % LAYOUT_MAX_VIRTIO_DEVICES][queue] = 0;
		set(world, slot, VIRTIO_MMIO_QUEUE_SEL, queue);
		set(world, slot, VIRTIO_MMIO_QUEUE_NUM, RING_SIZE);
		set(world, slot, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)base);
		set(world, slot, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)(base + AVAILABLE));
		set(world, slot, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)(base + USED));
		set(world, slot, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	set(world, slot, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void put_descriptor(uint64_t base, unsigned int index, uint64_t address, uint32_t length,
			   uint16_t flags, uint16_t next)
{
	struct vring_desc descriptor = { address, length, flags, next };

	put(base + 16ULL * index, &descriptor, sizeof(descriptor));
}

static void offer(struct world *world, unsigned int slot, unsigned int queue, uint16_t head)
{
	uint64_t base = ring(slot, queue);
	uint16_t *index = &world->available[slot % LAYOUT_MAX_VIRTIO_DEVICES][queue];

	put(base + AVAILABLE + 4 + 2ULL * (*index % RING_SIZE), &head, 2);
	(*index)++;
	put(base + AVAILABLE + 2, index, 2);
	set(world, slot, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

/* A request in three descriptors, nearly right. */
static void block_request(struct world *world, struct fuzz_input *input)
{
	unsigned int slot = input_u8(input), how = input_u8(input), place = how >> 6;
	uint64_t base = ring(slot, 0), header_at = base + BUFFERS + 0x40ULL * place;
	struct virtio_blk_outhdr header = { .type = input_u8(input) & 0xf };
	uint64_t data = base + BUFFERS + 0x400 + (how & 8 ? input_u64(input) : 0);
	uint32_t length = how & 1 ? input_u32(input) : 512U * (input_u8(input) & 0xf);
	uint16_t write = how & 2 ? VRING_DESC_F_WRITE : 0, head = (uint16_t)(3 * place);

	header.sector = how & 4 ? input_u64(input) : input_u8(input);
	if (how & 0x20) { /* discard, write zeroes */
		struct virtio_blk_discard_write_zeroes range = { header.sector, 8, how & 1 };

		put(data, &range, sizeof(range));
		length = sizeof(range);
	}
	put(header_at, &header, sizeof(header));
	put_descriptor(base, head, header_at, 16, VRING_DESC_F_NEXT,
		       (uint16_t)(head + (how & 0x10 ? 2 : 1))); /* a flush has no data */
	put_descriptor(base, head + 1U, data, length, write | VRING_DESC_F_NEXT,
		       (uint16_t)(head + 2));
	put_descriptor(base, head + 2U, header_at + 32, 1, VRING_DESC_F_WRITE, 0);
	offer(world, slot, 0, head);
}

static void net_chain(struct world *world, struct fuzz_input *input, bool out)
{
	static const uint32_t lengths[] = { 12, 60, 300, 2048 };
	unsigned int slot = input_u8(input), how = input_u8(input), queue = out ? 1 : 0;
	uint64_t base = ring(slot, queue), at = base + BUFFERS + 0x200ULL * (how & 7);
	uint8_t bytes[64];

	if (out) {
		input_bytes(input, bytes, sizeof(bytes));
		if (how & 8)
			memset(bytes, 0, sizeof(struct virtio_net_hdr_v1));
		put(at, bytes, sizeof(bytes));
	}
	put_descriptor(
		base, how & 7, at, how & 0x10 ? input_u32(input) : lengths[how >> 6],
		(uint16_t)((out ? 0 : VRING_DESC_F_WRITE) | (how & 0x20 ? VRING_DESC_F_NEXT : 0)),
		(uint16_t)((how & 7) + 1));
	offer(world, slot, queue, how & 7);
}

static void any_exit(struct world *world, struct fuzz_input *input)
{
	static const int errors[] = { EINTR, EAGAIN, EFAULT, ENOMEM, EINVAL, EBADF };
	struct fake_exit exit = { .kind = FAKE_OTHER, .address = input_u8(input) };

	if (exit.address & 0x80) {
		exit.kind = FAKE_ERROR;
		exit.address = (uint64_t)errors[exit.address % ARRAY_SIZE(errors)];
	} else if (exit.address == KVM_EXIT_IO || exit.address == KVM_EXIT_MMIO) {
		exit.address = KVM_EXIT_SHUTDOWN; /* those have words of their own */
	}
	exit.value = input_u64(input);
	fake_kvm_post(world->vcpu, &exit);
}

static void port_access(struct world *world, struct fuzz_input *input)
{
	static const uint16_t bases[] = { LAYOUT_PORT_SERIAL, LAYOUT_PORT_I8042_DATA, 0 };
	uint8_t how = input_u8(input);
	struct fake_exit exit = { .kind = FAKE_PIO,
				  .write = how & 1,
				  .size = (uint8_t)(1 << (how >> 1 & 3) & 7),
				  .count = 1,
				  .address = input_u8(input) & 7U };

	if (exit.size == 0)
		exit.size = 1;
	exit.address += how & 0x10 ? input_u16(input) : bases[how >> 5 & 1];
	if (how & 8) /* rep outs, rep ins: as many as fit a page */
		exit.count = 1 + input_u16(input) % (4096U / exit.size);
	exit.value = input_u32(input);
	fake_kvm_post(world->vcpu, &exit);
}

void guest_step(struct world *world, unsigned int step, struct fuzz_input *input)
{
	uint8_t bytes[64];
	unsigned int slot;
	uint8_t how;

	if (!guest_runs(world))
		return;
	switch (step) {
	case STEP_PIO:
		port_access(world, input);
		break;
	case STEP_MMIO:
		how = input_u8(input);
		guest_mmio(world, how & 1,
			   LAYOUT_MMIO_GAP_START + (how & 2 ? input_u64(input) : input_u32(input)),
			   input_u64(input), 1 + (how >> 2 & 7));
		break;
	case STEP_REGISTER:
		slot = input_u8(input);
		how = input_u8(input);
		guest_mmio(world, how & 1,
			   guest_window(slot) + (input_u16(input) & (how & 2 ? 0xfff : 0xfc)),
			   how & 4 ? input_u64(input) : input_u8(input),
			   how & 8 ? 1 + (how >> 4 & 7) : 4);
		break;
	case STEP_BYTES:
		slot = input_u8(input);
		how = input_u8(input);
		input_bytes(input, bytes, 1 + (how & 63));
		put(how & 64 ? input_u64(input)
			     : ring(slot, how >> 7) + input_u16(input) % QUEUE_BYTES,
		    bytes, 1 + (how & 63));
		break;
	case STEP_START_DRIVER:
		slot = input_u8(input);
		start_driver(world, slot, input_u32(input));
		break;
	case STEP_BLOCK:
		block_request(world, input);
		break;
	case STEP_FRAME_OUT:
	case STEP_BUFFER_IN:
		net_chain(world, input, step == STEP_FRAME_OUT);
		break;
	case STEP_EXIT:
		any_exit(world, input);
		break;
	default:
		break;
	}
}

/* A driver that does what it is told: see rig.h. */
#include "hostile.h"
#include "text.h"
#include "virtio_blk.h"

struct bytes {
	volatile uint8_t *start;
	uint64_t count;
	uint8_t value;
};

static uint64_t fill(void *argument)
{
	const struct bytes *bytes = argument;

	memset((void *)(uintptr_t)bytes->start, bytes->value, bytes->count);
	return 0;
}

static uint64_t compare(void *argument)
{
	const struct bytes *bytes = argument;

	for (uint64_t i = 0; i < bytes->count; i++) {
		if (bytes->start[i] != bytes->value)
			return false;
	}
	return true;
}

void bytes_fill(volatile void *start, uint8_t value, uint64_t count)
{
	struct bytes bytes = { start, count, value };

	user_run(fill, &bytes);
}

bool bytes_are(const volatile void *start, uint8_t value, uint64_t count)
{
	struct bytes bytes = { (volatile uint8_t *)(uintptr_t)start, count, value };

	return user_run(compare, &bytes);
}

void rig_init(struct rig *rig, struct virtio_device *device, uint16_t queue)
{
	rig->device = device;
	rig->queue = queue;
	rig->memory = pages_take(sizeof(*rig->memory) / PAGE_BYTES);
	rig->avail = (volatile struct virtq_avail *)(void *)rig->memory->avail;
	rig->used = (volatile struct virtq_used *)(void *)rig->memory->used;
	rig_guard(rig);
}

void rig_reset(struct rig *rig)
{
	virtio_write(rig->device, VIRTIO_STATUS, 0);
	expect(virtio_read(rig->device, VIRTIO_STATUS) == 0, "status_after_reset",
	       virtio_read(rig->device, VIRTIO_STATUS));
	rig->avail->flags = VIRTQ_AVAIL_NO_INTERRUPT;
	rig->avail->index = 0;
	rig->used->flags = 0;
	rig->used->index = 0;
	rig->used_seen = 0;
	rig->size = RIG_QUEUE_SIZE;
}

uint32_t rig_negotiate(struct rig *rig, uint64_t features)
{
	virtio_write(rig->device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE);
	virtio_write(rig->device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	for (uint32_t half = 0; half < 2; half++) {
		virtio_write(rig->device, VIRTIO_DRIVER_FEATURES_SEL, half);
		virtio_write(rig->device, VIRTIO_DRIVER_FEATURES,
			     (uint32_t)(features >> 32 * half));
	}
	virtio_write(rig->device, VIRTIO_STATUS,
		     VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	return virtio_read(rig->device, VIRTIO_STATUS);
}

void rig_set_size(struct rig *rig, uint32_t size)
{
	virtio_write(rig->device, VIRTIO_QUEUE_SEL, rig->queue);
	virtio_write(rig->device, VIRTIO_QUEUE_NUM, size);
	rig->size = (uint16_t)size;
}

static void set_address(struct rig *rig, uint32_t offset, uint64_t address)
{
	virtio_write(rig->device, offset, (uint32_t)address);
	virtio_write(rig->device, offset + 4, (uint32_t)(address >> 32));
}

void rig_set_addresses(struct rig *rig, uint64_t desc, uint64_t avail, uint64_t used)
{
	virtio_write(rig->device, VIRTIO_QUEUE_SEL, rig->queue);
	set_address(rig, VIRTIO_QUEUE_DESC_LOW, desc);
	set_address(rig, VIRTIO_QUEUE_DRIVER_LOW, avail);
	set_address(rig, VIRTIO_QUEUE_DEVICE_LOW, used);
}

bool rig_set_ready(struct rig *rig)
{
	virtio_write(rig->device, VIRTIO_QUEUE_SEL, rig->queue);
	virtio_write(rig->device, VIRTIO_QUEUE_READY, 1);
	return virtio_read(rig->device, VIRTIO_QUEUE_READY) == 1;
}

void rig_go(struct rig *rig)
{
	virtio_write(rig->device, VIRTIO_STATUS,
		     VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

void rig_start(struct rig *rig, uint64_t features)
{
	uint32_t status;

	rig_reset(rig);
	status = rig_negotiate(rig, features | VIRTIO_F_VERSION_1);
	expect(status & VIRTIO_FEATURES_OK, "features_ok", status);
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
	expect(rig_set_ready(rig), "queue_ready", 0);
	rig_go(rig);
	status = virtio_read(rig->device, VIRTIO_STATUS);
	expect(status ==
		       (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK),
	       "status_when_started", status);
}

void rig_put(struct rig *rig, unsigned int index, uint64_t address, uint32_t length, uint16_t flags,
	     uint16_t next)
{
	rig->memory->desc[index] = descriptor(address, length, flags, next);
}

void rig_put_table(struct rig *rig, unsigned int index, uint64_t address, uint32_t length,
		   uint16_t flags, uint16_t next)
{
	rig->memory->table[index] = descriptor(address, length, flags, next);
}

void rig_offer(struct rig *rig, uint16_t head)
{
	rig->avail->ring[rig->avail->index & (rig->size - 1)] = head;
	compiler_barrier();
	rig->avail->index++;
	memory_barrier();
}

void rig_notify(struct rig *rig)
{
	virtio_write(rig->device, VIRTIO_QUEUE_NOTIFY, rig->queue);
}

bool rig_wait(struct rig *rig)
{
	uint64_t start = tsc_read();

	while (rig->used->index == rig->used_seen) {
		if (tsc_read() - start > patience)
			return false;
		cpu_relax();
	}
	compiler_barrier();
	rig->used_seen++;
	return true;
}

uint32_t rig_written(const struct rig *rig)
{
	return rig->used->ring[(rig->used_seen - 1) & (rig->size - 1)].length;
}

void rig_guard(struct rig *rig)
{
	bytes_fill(rig->memory->guard_before, RIG_GUARD_BYTE, PAGE_BYTES);
	bytes_fill(rig->memory->guard_between, RIG_GUARD_BYTE, PAGE_BYTES);
	bytes_fill(rig->memory->guard_behind, RIG_GUARD_BYTE, PAGE_BYTES);
}

bool rig_guards_hold(const struct rig *rig)
{
	return bytes_are(rig->memory->guard_before, RIG_GUARD_BYTE, PAGE_BYTES) &&
	       bytes_are(rig->memory->guard_between, RIG_GUARD_BYTE, PAGE_BYTES) &&
	       bytes_are(rig->memory->guard_behind, RIG_GUARD_BYTE, PAGE_BYTES);
}

static bool wait_bit(struct rig *rig, uint32_t offset, uint32_t bit)
{
	uint64_t start = tsc_read();

	while (!(virtio_read(rig->device, offset) & bit)) {
		if (tsc_read() - start > patience)
			return false;
		cpu_relax();
	}
	return true;
}

/* The host may change the device just between two registers, and that is another interrupt. */
static bool acknowledge(struct rig *rig, uint32_t bit)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		virtio_write(rig->device, VIRTIO_INTERRUPT_ACK, bit);
		if (!(virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS) & bit))
			return true;
	}
	return false;
}

void expect_broken(struct rig *rig)
{
	uint32_t status;
	uint16_t used;

	if (!expect(wait_bit(rig, VIRTIO_STATUS, VIRTIO_NEEDS_RESET), "needs_reset",
		    virtio_read(rig->device, VIRTIO_STATUS)))
		return;
	count_broken();
	status = virtio_read(rig->device, VIRTIO_STATUS);
	/* 2.1.2: no notification before DRIVER_OK. */
	if (status & VIRTIO_DRIVER_OK) {
		expect(wait_bit(rig, VIRTIO_INTERRUPT_STATUS, INTERRUPT_CONFIG), "config_interrupt",
		       virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS));
		expect(acknowledge(rig, INTERRUPT_CONFIG), "config_interrupt_acknowledged",
		       virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS));
	} else {
		expect(!(virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS) & INTERRUPT_CONFIG),
		       "config_interrupt_too_early", status);
	}
	/* Nothing but a reset revives it. */
	used = rig->used->index;
	rig_go(rig);
	rig_notify(rig);
	expect_witness();
	expect(virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET, "revived", status);
	expect(rig->used->index == used, "works_while_broken", rig->used->index);
}

void expect_not_broken(struct rig *rig)
{
	uint32_t status = virtio_read(rig->device, VIRTIO_STATUS);

	if (status & VIRTIO_NEEDS_RESET)
		count_broken();
	expect(!(status & VIRTIO_NEEDS_RESET), "asks_for_a_reset", status);
}

void rig_put_header(struct rig *rig, uint32_t type, uint64_t sector)
{
	volatile uint32_t *header = (volatile uint32_t *)(void *)rig->memory->header;

	header[0] = type;
	header[1] = 0;
	*(volatile uint64_t *)(void *)&rig->memory->header[8] = sector;
	rig->memory->status[0] = NO_STATUS;
}

uint8_t rig_block(struct rig *rig, uint32_t type, uint64_t sector, uint32_t bytes)
{
	bool writes = type == BLOCK_IN || type == BLOCK_GET_ID;

	rig_put_header(rig, type, sector);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, bytes ? 1 : 2);
	rig_put(rig, 1, rig_data(rig), bytes, VIRTQ_DESC_NEXT | (writes ? VIRTQ_DESC_WRITE : 0), 2);
	rig_put(rig, 2, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	return rig_wait(rig) ? *(volatile uint8_t *)rig->memory->status : NO_STATUS;
}

/* Each sector of the drives holds its own number, again and again. */
void expect_reads(struct rig *rig)
{
	volatile uint64_t *data = (volatile uint64_t *)(void *)rig->memory->data;
	uint8_t status;

	data[0] = data[127] = 0;
	status = rig_block(rig, BLOCK_IN, 5, 2 * SECTOR_BYTES);
	expect(status == BLOCK_STATUS_OK, "a_good_read", status);
	expect(data[0] == 5 && data[127] == 6, "what_a_good_read_gives", data[0]);
	expect(rig_written(rig) == 2 * SECTOR_BYTES + 1, "how_much_a_good_read_gives",
	       rig_written(rig));
}

uint64_t rig_sectors(const struct rig *rig)
{
	return (uint64_t)virtio_read(rig->device, VIRTIO_CONFIG + 4) << 32 |
	       virtio_read(rig->device, VIRTIO_CONFIG);
}

/*
 * A driver of one queue that does exactly what it is told: rings of 256 entries at fixed places,
 * descriptors written one by one. Everything a device may write lies between two guards.
 */
#ifndef HOSTILE_RIG_H
#define HOSTILE_RIG_H

#include "access.h"
#include "pages.h"
#include "virtio.h"

#define RIG_QUEUE_SIZE 256
#define RIG_DATA_BYTES 0x10000UL
#define RIG_GUARD_BYTE 0xa5

#define SECTOR_BYTES 512

#define VIRTQ_DESC_INDIRECT 4

#define F_INDIRECT_DESC (1ULL << 28)
#define F_EVENT_IDX	(1ULL << 29)
#define F_RING_RESET	(1ULL << 40)

#define VIRTIO_QUEUE_RESET 0x0c0

#define INTERRUPT_QUEUE	 1
#define INTERRUPT_CONFIG 2

#define NO_STATUS 0xee /* what stands where a device is to write a status */

/* Device memory, page by page. What comes before `guards` is written by the driver only. */
struct rig_memory {
	struct virtq_desc desc[RIG_QUEUE_SIZE];
	struct virtq_desc table[2 * RIG_QUEUE_SIZE]; /* indirect */
	uint8_t avail[PAGE_BYTES];
	uint8_t header[PAGE_BYTES];
	uint8_t guard_before[PAGE_BYTES];
	uint8_t used[PAGE_BYTES];
	uint8_t guard_between[PAGE_BYTES];
	uint8_t data[RIG_DATA_BYTES];
	uint8_t status[PAGE_BYTES];
	uint8_t guard_behind[PAGE_BYTES];
} __attribute__((aligned(PAGE_BYTES)));

struct rig {
	struct virtio_device *device;
	uint16_t queue, size;
	struct rig_memory *memory;
	volatile struct virtq_avail *avail;
	volatile struct virtq_used *used;
	uint16_t used_seen;
};

/*
 * Sets all bytes, or says whether all are so, in ring 3: where supervisor code is interpreted, a
 * page of it would take as long as ten requests.
 */
void bytes_fill(volatile void *start, uint8_t value, uint64_t count);
bool bytes_are(const volatile void *start, uint8_t value, uint64_t count);

/* Memory from pages_take(). */
void rig_init(struct rig *rig, struct virtio_device *device, uint16_t queue);

/* Each is one step of 3.1.1, and does not look whether it makes sense. */
void rig_reset(struct rig *rig);
uint32_t rig_negotiate(struct rig *rig, uint64_t features); /* returns the status */
void rig_set_size(struct rig *rig, uint32_t size);
void rig_set_addresses(struct rig *rig, uint64_t desc, uint64_t avail, uint64_t used);
bool rig_set_ready(struct rig *rig); /* whether the queue is now */
void rig_go(struct rig *rig);

/* All of that, as it should be. */
void rig_start(struct rig *rig, uint64_t features);

/* The rig's own places. */
static inline uint64_t rig_desc(const struct rig *rig)
{
	return (uintptr_t)rig->memory->desc;
}

static inline uint64_t rig_avail(const struct rig *rig)
{
	return (uintptr_t)rig->memory->avail;
}

static inline uint64_t rig_used(const struct rig *rig)
{
	return (uintptr_t)rig->memory->used;
}

static inline uint64_t rig_table(const struct rig *rig)
{
	return (uintptr_t)rig->memory->table;
}

static inline uint64_t rig_header(const struct rig *rig)
{
	return (uintptr_t)rig->memory->header;
}

static inline uint64_t rig_data(const struct rig *rig)
{
	return (uintptr_t)rig->memory->data;
}

static inline uint64_t rig_status(const struct rig *rig)
{
	return (uintptr_t)rig->memory->status;
}

static inline struct virtq_desc descriptor(uint64_t address, uint32_t length, uint16_t flags,
					   uint16_t next)
{
	return (struct virtq_desc) { address, length, flags, next };
}

/* Writes a descriptor into the queue's table, or into the indirect one. */
void rig_put(struct rig *rig, unsigned int index, uint64_t address, uint32_t length, uint16_t flags,
	     uint16_t next);
void rig_put_table(struct rig *rig, unsigned int index, uint64_t address, uint32_t length,
		   uint16_t flags, uint16_t next);

/* The chain's head into the available ring; the device is not told. */
void rig_offer(struct rig *rig, uint16_t head);
void rig_notify(struct rig *rig);

/* Waits until the device has used one more chain; false when it does not. */
bool rig_wait(struct rig *rig);

/* What the device said it wrote into the chain that was used last. */
uint32_t rig_written(const struct rig *rig);

/* Fills the guards, and says whether they are as they were filled. */
void rig_guard(struct rig *rig);
bool rig_guards_hold(const struct rig *rig);

/* Waits until the device asks for a reset, and holds it to that: 2.1.2, 4.2.3.3. */
void expect_broken(struct rig *rig);

/* It does not ask for a reset. */
void expect_not_broken(struct rig *rig);

/*
 * A block request in the usual three parts, in descriptors 0 to 2. Returns the status, or NO_STATUS
 * when it is not answered. The data is the rig's.
 */
uint8_t rig_block(struct rig *rig, uint32_t type, uint64_t sector, uint32_t bytes);

/* The header alone. */
void rig_put_header(struct rig *rig, uint32_t type, uint64_t sector);

/* The device still reads what the drive holds. */
void expect_reads(struct rig *rig);

uint64_t rig_sectors(const struct rig *rig);

#endif

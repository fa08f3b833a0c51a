/*
 * A second CPU rewrites what the device is reading just then: descriptors, tables, rings, headers,
 * registers. What is read once and then checked cannot be changed in between; what is read twice
 * can. Whatever a device writes on the way stays within the rig's memory, since no combination of
 * these addresses and lengths is anything else that is memory. See hostile.h.
 */
#include "hostile.h"
#include "smp.h"
#include "virtio_blk.h"

#define SECOND_CPU	 1
#define CPU_PATIENCE	 6000000000ULL
#define DESCRIPTORS	 8 /* that are rewritten */
#define REQUESTS_A_ROUND 64

struct race {
	struct rig *rig;
	void (*step)(struct rig *rig, uint64_t numbers);
	volatile bool stop, stopped;
	volatile uint64_t steps;
};

static struct race race;

/* In ring 3, at full speed wherever the guest runs. */
static uint64_t run_steps(void *unused)
{
	uint64_t state = 0x2545f4914f6cdd1dULL;

	(void)unused;
	while (!race.stop) {
		race.step(race.rig, random_next(&state));
		race.steps++;
	}
	return 0;
}

static void second_cpu(void *unused)
{
	(void)unused;
	if (race.step)
		user_run(run_steps, NULL);
	race.stopped = true;
}

bool race_is_possible(void)
{
	static bool tried, possible;

	if (!tried) {
		race.step = NULL;
		possible = cpu_start(SECOND_CPU, SECOND_CPU, second_cpu, NULL, CPU_PATIENCE);
		tried = true;
	}
	return possible;
}

void race_start(struct rig *rig, void (*step)(struct rig *rig, uint64_t numbers))
{
	race.rig = rig;
	race.step = step;
	race.stop = race.stopped = false;
	race.steps = 0;
	expect(cpu_start(SECOND_CPU, SECOND_CPU, second_cpu, NULL, CPU_PATIENCE), "second_cpu", 0);
}

void race_end(void)
{
	uint64_t start = tsc_read();

	race.stop = true;
	while (!race.stopped && tsc_read() - start < patience)
		cpu_relax();
	expect(race.stopped && race.steps > 0, "second_cpu_s_steps", race.steps);
}

static uint64_t any_address(const struct rig *rig, uint64_t numbers)
{
	switch (numbers & 15) {
	case 0:
		return UINT64_MAX - 15;
	case 1:
		return rig->device->base;
	case 2:
		return 1ULL << 63;
	case 3:
	case 4:
	case 5:
		return rig_status(rig);
	case 6:
	case 7:
	case 8:
	case 9:
		return rig_header(rig);
	default:
		return rig_data(rig) + (numbers >> 4 & 0xff) * 16;
	}
}

static uint32_t any_length(uint64_t numbers)
{
	static const uint32_t lengths[] = { 16, 16,	    16,		512,	   512, 1024,
					    1,	1,	    1,		17,	   513, 4096,
					    0,	UINT32_MAX, 0xfffffff0, 0x70000000 };

	return lengths[numbers & 15];
}

/* Each field by itself, as it may be seen half-written. */
static void rewrite(struct rig *rig, struct virtq_desc *table, unsigned int count, uint64_t numbers,
		    uint16_t flags)
{
	volatile struct virtq_desc *desc = &table[numbers % count];

	numbers >>= 8;
	if (numbers & 1)
		desc->address = any_address(rig, numbers >> 8);
	if (numbers & 2)
		desc->length = any_length(numbers >> 24);
	if (numbers & 4)
		desc->flags = (uint16_t)(numbers >> 32) & flags;
	if (numbers & 8)
		desc->next = (uint16_t)(numbers >> 40) % (DESCRIPTORS + 1);
}

void race_rewrite_descriptors(struct rig *rig, uint64_t numbers)
{
	rewrite(rig, rig->memory->desc, DESCRIPTORS, numbers, VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE);
}

static void rewrite_indirect(struct rig *rig, uint64_t numbers)
{
	volatile struct virtq_desc *head = &rig->memory->desc[numbers % DESCRIPTORS];

	rewrite(rig, rig->memory->table, DESCRIPTORS, numbers,
		VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE | VIRTQ_DESC_INDIRECT);
	head->address = rig_table(rig) + (numbers >> 50 & 1) * 16;
	head->length = (uint32_t)(numbers >> 52 & 15) * 8;
	head->flags = VIRTQ_DESC_INDIRECT;
}

static void rewrite_rings(struct rig *rig, uint64_t numbers)
{
	rig->avail->ring[numbers & (RIG_QUEUE_SIZE - 1)] = (uint16_t)(numbers >> 8) % DESCRIPTORS;
	if ((numbers >> 24 & 0xff) == 0)
		rig->avail->ring[numbers & (RIG_QUEUE_SIZE - 1)] = (uint16_t)(numbers >> 32);
	if ((numbers >> 48 & 0xfff) == 0)
		rig->avail->index = (uint16_t)(rig->avail->index + (numbers >> 40 & 3));
	rig->used->index = (uint16_t)(numbers >> 16);
	rig->avail->flags = (uint16_t)(numbers >> 30);
}

static void rewrite_header(struct rig *rig, uint64_t numbers)
{
	volatile uint32_t *header = (volatile uint32_t *)(void *)rig->memory->header;
	volatile uint64_t *range = (volatile uint64_t *)(void *)rig->memory->data;

	header[0] = (uint32_t)numbers & 15;
	header[2] = (uint32_t)(numbers >> 8);
	header[3] = numbers & 0x80 ? (uint32_t)(numbers >> 40) : 0;
	range[0] = numbers >> 16;
	range[1] = numbers >> 24;
}

static void write_registers(struct rig *rig, uint64_t numbers)
{
	static const uint32_t registers[] = {
		VIRTIO_QUEUE_SEL,	VIRTIO_QUEUE_NUM,
		VIRTIO_QUEUE_READY,	VIRTIO_QUEUE_NOTIFY,
		VIRTIO_STATUS,		VIRTIO_QUEUE_RESET,
		VIRTIO_DRIVER_FEATURES, VIRTIO_DRIVER_FEATURES_SEL,
		VIRTIO_INTERRUPT_ACK,	VIRTIO_QUEUE_NOTIFY,
		VIRTIO_QUEUE_NOTIFY,
	};
	static const uint32_t values[] = { 0, 1, 2, 3, 11, 15, 256, 0xffffffff };

	virtio_write(rig->device, registers[numbers % (sizeof(registers) / sizeof(registers[0]))],
		     values[numbers >> 8 & 7]);
	virtio_read(rig->device, (uint32_t)(numbers >> 16 & 0x1fc));
}

/* Chains that are good until the other CPU gets to them: reads, through every descriptor. */
static void put_good_chains(struct rig *rig)
{
	for (uint16_t i = 0; i < DESCRIPTORS; i++) {
		uint16_t next = (uint16_t)((i + 1) % DESCRIPTORS);
		uint16_t flags = i % 3 == 2 ? VIRTQ_DESC_WRITE
					    : VIRTQ_DESC_NEXT | (i % 3 ? VIRTQ_DESC_WRITE : 0);
		uint64_t address = i % 3 == 0	? rig_header(rig)
				   : i % 3 == 1 ? rig_data(rig)
						: rig_status(rig);
		uint32_t length = i % 3 == 0 ? 16 : i % 3 == 1 ? 512 : 1;

		rig_put(rig, i, address, length, flags, next);
		rig_put_table(rig, i, address, length, flags, next);
	}
	rig_put_header(rig, BLOCK_IN, 0);
}

static void run_race(struct rig *rig, void (*step)(struct rig *rig, uint64_t numbers))
{
	race_start(rig, step);
	for (uint64_t round = 0; round < rounds; round++) {
		rig_reset(rig);
		put_good_chains(rig);
		rig_negotiate(rig, VIRTIO_F_VERSION_1 | F_INDIRECT_DESC | F_RING_RESET);
		rig_set_size(rig, RIG_QUEUE_SIZE);
		rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
		rig_set_ready(rig);
		rig_go(rig);
		for (unsigned int i = 0; i < REQUESTS_A_ROUND; i++) {
			rig_offer(rig, (uint16_t)(i % DESCRIPTORS / 3 * 3));
			if (i % 4 == 3)
				rig_notify(rig);
		}
		if (round % 8 == 0)
			expect_witness();
	}
	race_end();
	rig_reset(rig);
	expect_witness();
}

static void race_descriptors(struct rig *rig)
{
	run_race(rig, race_rewrite_descriptors);
}

static void race_indirect(struct rig *rig)
{
	run_race(rig, rewrite_indirect);
}

static void race_rings(struct rig *rig)
{
	run_race(rig, rewrite_rings);
}

static void race_headers(struct rig *rig)
{
	run_race(rig, rewrite_header);
}

static void race_registers(struct rig *rig)
{
	race_start(rig, write_registers);
	for (uint64_t round = 0; round < rounds; round++) {
		uint64_t features = VIRTIO_F_VERSION_1 | F_RING_RESET;

		virtio_write(rig->device, VIRTIO_STATUS, 0);
		rig->avail->index = rig->used->index = 0;
		put_good_chains(rig);
		rig_negotiate(rig, features);
		rig_set_size(rig, RIG_QUEUE_SIZE);
		rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
		rig_set_ready(rig);
		rig_go(rig);
		rig_offer(rig, 0);
		rig_notify(rig);
		if (round % 8 == 0)
			expect_witness();
	}
	race_end();
	rig_reset(rig);
	expect_witness();
}

static const struct hostile_case cases[] = {
	{ "race-descriptors", race_descriptors, 0 },
	{ "race-indirect", race_indirect, 0 },
	{ "race-rings", race_rings, 0 },
	{ "race-headers", race_headers, 0 },
	{ "race-registers", race_registers, 0 },
};

const struct hostile_suite suite_race = SUITE("race", NEED_TWO_CPUS, true, cases);

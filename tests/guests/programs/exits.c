/*
 * exits: how long it takes to leave the guest and come back, for each way out that a device has.
 * Its parameters and results are in ../README.md.
 *
 * Each time has the cost of reading the time-stamp counter twice in it, which "nothing" shows. The
 * requests are for the device's name (virtio 1.2, 5.2.6, VIRTIO_BLK_T_GET_ID): no disk takes part.
 */
#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "end.h"
#include "pages.h"
#include "params.h"
#include "samples.h"
#include "text.h"
#include "virtio_blk.h"

#define PORT_LINE_STATUS 0x3fd
#define PORT_POST_CODE	 0x80
#define NO_DEVICE	 0xd0000000ULL

static uint64_t count = 1000;
static unsigned int ring;
static const char *only;
static struct samples samples;
static struct block block;
static bool has_block;
static uint64_t mmio;

#define MEASURE(statement)                                 \
	for (uint64_t i = 0; i < count; i++) {             \
		uint64_t start = tsc_read();               \
		statement;                                 \
		samples_add(&samples, tsc_read() - start); \
	}                                                  \
	return 0

static uint64_t measure_nothing(void *unused)
{
	(void)unused;
	MEASURE(compiler_barrier());
}

static uint64_t measure_cpuid(void *unused)
{
	(void)unused;
	MEASURE(cpuid_read(0, 0));
}

static uint64_t nothing(void *unused)
{
	(void)unused;
	return 0;
}

static uint64_t measure_exception(void *unused)
{
	(void)unused;
	MEASURE(user_run(nothing, NULL));
}

static uint64_t measure_pio_read(void *unused)
{
	(void)unused;
	MEASURE(in8(PORT_LINE_STATUS));
}

static uint64_t measure_pio_write(void *unused)
{
	(void)unused;
	MEASURE(out8(PORT_POST_CODE, 0));
}

static uint64_t measure_mmio_read(void *unused)
{
	(void)unused;
	MEASURE(mmio_read32(mmio + VIRTIO_MAGIC));
}

static uint64_t measure_mmio_write(void *unused)
{
	(void)unused;
	MEASURE(mmio_write32(mmio + VIRTIO_MAGIC, 0));
}

static uint64_t measure_ioeventfd(void *unused)
{
	(void)unused;
	MEASURE(virtio_write(block.device, VIRTIO_QUEUE_NOTIFY, 0));
}

static void ask_name(void)
{
	static char name[BLOCK_ID_BYTES];

	block_submit(&block, BLOCK_GET_ID, 0, name, sizeof(name));
}

static void check_answer(void)
{
	if (block.status != BLOCK_STATUS_OK)
		guest_fail("the disk's answer to a request for its name is %u", block.status);
}

static uint64_t measure_irqfd(void *unused)
{
	(void)unused;
	block_use_interrupts(&block, true);
	for (uint64_t i = 0; i < count; i++) {
		uint32_t before = block.device->interrupts;
		uint64_t start;

		ask_name();
		start = tsc_read();
		virtio_write(block.device, VIRTIO_QUEUE_NOTIFY, 0);
		while (block.device->interrupts == before)
			cpu_wait();
		samples_add(&samples, block.device->interrupt_tsc - start);
		virtqueue_wait(&block.queue, NULL);
		check_answer();
	}
	block_use_interrupts(&block, false);
	return 0;
}

static uint64_t measure_irqfd_poll(void *unused)
{
	(void)unused;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t start;

		ask_name();
		start = tsc_read();
		virtio_write(block.device, VIRTIO_QUEUE_NOTIFY, 0);
		virtqueue_wait(&block.queue, NULL);
		samples_add(&samples, tsc_read() - start);
		check_answer();
	}
	return 0;
}

static const struct measurement {
	const char *name;
	uint64_t (*function)(void *unused);
	bool needs_disk, ring0_only;
} measurements[] = {
	{ "nothing", measure_nothing, false, false },
	{ "cpuid", measure_cpuid, false, true },
	{ "exception", measure_exception, false, true },
	{ "pio_read", measure_pio_read, false, true },
	{ "pio_write", measure_pio_write, false, true },
	{ "mmio_read", measure_mmio_read, false, false },
	{ "mmio_write", measure_mmio_write, false, false },
	{ "ioeventfd", measure_ioeventfd, true, false },
	{ "irqfd", measure_irqfd, true, true },
	{ "irqfd_poll", measure_irqfd_poll, true, false },
};

static void measure(const struct measurement *measurement)
{
	if (measurement->needs_disk && !has_block) {
		print("result: %s skipped=no-disk\n", measurement->name);
		return;
	}
	if (ring == 3 && !measurement->ring0_only) {
		user_run(measurement->function, NULL);
		samples_report(&samples, measurement->name, " ring=3");
	} else {
		measurement->function(NULL);
		samples_report(&samples, measurement->name, " ring=0");
	}
}

static void read_params(void)
{
	static const char *const rings[] = { "0", "3", NULL };
	unsigned int choice = 0;
	const struct param params[] = {
		{ .name = "count",
		  .type = PARAM_NUMBER,
		  .value = &count,
		  .minimum = 1,
		  .maximum = 1000000 },
		{ .name = "ring", .type = PARAM_CHOICE, .value = &choice, .choices = rings },
		{ .name = "only", .type = PARAM_TEXT, .value = &only },
	};

	params_read(params, sizeof(params) / sizeof(params[0]));
	ring = choice ? 3 : 0;
}

void guest_main(void)
{
	unsigned int done = 0;

	read_params();
	samples_open(&samples, count);
	has_block = block_open(&block, 0);
	mmio = has_block ? block.device->base : virtio_count() > 0 ? virtio_at(0)->base : NO_DEVICE;
	print("result: tsc khz=%llu\n", (unsigned long long)clock_tsc_khz());
	for (size_t i = 0; i < sizeof(measurements) / sizeof(measurements[0]); i++) {
		if (only && !text_equal(only, measurements[i].name))
			continue;
		measure(&measurements[i]);
		done++;
	}
	if (done == 0)
		guest_fail("the parameter only cannot be '%s'", only);
	print("result: end\n");
}

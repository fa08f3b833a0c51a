/*
 * probe: says what machine it was given, then does what it is told on the serial port: for tests of
 * a monitor. Its parameters, commands and results are in ../README.md.
 */
#include "boot.h"
#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "end.h"
#include "interrupts.h"
#include "pages.h"
#include "params.h"
#include "smp.h"
#include "text.h"
#include "virtio_blk.h"

#define LINE_BYTES	512
#define ARGUMENTS_MAX	3
#define CHUNK_SECTORS	64UL
#define WORDS_IN_SECTOR (BLOCK_SECTOR_BYTES / sizeof(uint64_t))
#define CPU_PATIENCE	20000000000ULL /* ticks: several seconds */
#define CPU_WORK	100000

static struct block block;
static bool has_block;
static uint64_t *chunk;
static uint64_t disk_index;

/* Counted by all CPUs at the same time. */
static volatile uint64_t work_done;
static volatile uint32_t cpus_done;

/* Runs in ring 3, on each CPU. */
static uint64_t work(void *unused)
{
	(void)unused;
	for (unsigned int i = 0; i < CPU_WORK; i++)
		__asm__ volatile("lock incq %0" : "+m"(work_done) : : "cc");
	return 0;
}

static void cpu_main(void *unused)
{
	(void)unused;
	user_run(work, NULL);
	__asm__ volatile("lock incl %0" : "+m"(cpus_done) : : "cc");
}

static void start_cpus(uint64_t count)
{
	uint32_t up = 1;

	for (uint32_t id = 1; id < count; id++) {
		if (cpu_start(id, id, cpu_main, NULL, CPU_PATIENCE))
			up++;
		else
			print("result: cpu_missing apic_id=%u\n", id);
	}
	cpu_main(NULL);
	while (cpus_done < up)
		cpu_relax();
	print("result: cpus up=%u work=%llu\n", up, (unsigned long long)work_done);
}

static void say_facts(void)
{
	uint64_t seconds = 0;
	bool has_clock = clock_wall_seconds(&seconds);

	print("result: boot protocol=%s\n", boot_info.protocol == BOOT_PVH ? "PVH" : "Linux");
	print("cmdline: %s\n", boot_info.cmdline);
	for (unsigned int i = 0; i < boot_info.range_count; i++)
		print("result: range start=%#llx bytes=%#llx type=%u\n",
		      (unsigned long long)boot_info.ranges[i].start,
		      (unsigned long long)boot_info.ranges[i].bytes, boot_info.ranges[i].type);
	for (unsigned int i = 0; i < virtio_count(); i++)
		print("result: device address=%#llx irq=%u id=%u\n",
		      (unsigned long long)virtio_at(i)->base, virtio_at(i)->irq, virtio_at(i)->id);
	print("result: clock kvm=%u seconds=%llu tsc_khz=%llu\n", has_clock,
	      (unsigned long long)seconds, (unsigned long long)clock_tsc_khz());
}

/* What is written to a disk: each word is another, and can be told from outside. */
static uint64_t expected_word(uint64_t seed, uint64_t sector, uint64_t index)
{
	return seed + sector * WORDS_IN_SECTOR + index;
}

/* Runs in ring 3, as do the next two. */
struct chunk_work {
	uint64_t seed, sector, sectors;
};

static uint64_t fill_chunk(void *argument)
{
	const struct chunk_work *at = argument;

	for (uint64_t i = 0; i < at->sectors * WORDS_IN_SECTOR; i++)
		chunk[i] = expected_word(at->seed, at->sector, i);
	return 0;
}

static uint64_t count_bad_sectors(void *argument)
{
	const struct chunk_work *at = argument;
	uint64_t bad = 0;

	for (uint64_t s = 0; s < at->sectors; s++) {
		for (uint64_t i = s * WORDS_IN_SECTOR; i < (s + 1) * WORDS_IN_SECTOR; i++) {
			if (chunk[i] != expected_word(at->seed, at->sector, i)) {
				bad++;
				break;
			}
		}
	}
	return bad;
}

static uint64_t clear_chunk(void *unused)
{
	(void)unused;
	memset(chunk, 0, CHUNK_SECTORS * BLOCK_SECTOR_BYTES);
	return 0;
}

/* Writes or checks sectors. The first status that is not good ends it. */
static void transfer(bool write, const uint64_t *arguments)
{
	struct chunk_work at = { .seed = arguments[2], .sector = arguments[0] };
	uint64_t end = arguments[0] + arguments[1], bad = 0;
	uint32_t interrupts = block.device->interrupts;
	uint8_t status = BLOCK_STATUS_OK;

	for (; at.sector < end && status == BLOCK_STATUS_OK; at.sector += at.sectors) {
		at.sectors = end - at.sector < CHUNK_SECTORS ? end - at.sector : CHUNK_SECTORS;
		if (write)
			user_run(fill_chunk, &at);
		else
			user_run(clear_chunk, NULL);
		status = block_request(&block, write ? BLOCK_OUT : BLOCK_IN, at.sector, chunk,
				       (uint32_t)(at.sectors * BLOCK_SECTOR_BYTES));
		if (!write && status == BLOCK_STATUS_OK)
			bad += user_run(count_bad_sectors, &at);
	}
	print("result: %s sectors=%llu status=%u bad=%llu interrupts=%u\n",
	      write ? "write" : "check", (unsigned long long)arguments[1], status,
	      (unsigned long long)bad, block.device->interrupts - interrupts);
}

static void flush(void)
{
	print("result: flush status=%u\n", block_request(&block, BLOCK_FLUSH, 0, NULL, 0));
}

static void say_disk(void)
{
	char name[BLOCK_ID_BYTES + 1] = { 0 };
	uint8_t status = block_request(&block, BLOCK_GET_ID, 0, name, BLOCK_ID_BYTES);

	print("result: disk sectors=%llu features=%#llx name=%s status=%u\n",
	      (unsigned long long)block.sectors, (unsigned long long)block.device->features, name,
	      status);
}

/* The numbers behind the first word of a line; UINT32_MAX when something else is there. */
static unsigned int read_arguments(char *line, uint64_t arguments[ARGUMENTS_MAX])
{
	const char *at;
	unsigned int count = 0;

	while (*line && *line != ' ')
		line++;
	if (!*line)
		return 0;
	*line = '\0';
	for (at = line + 1; count < ARGUMENTS_MAX; at++) {
		at = text_number(at, &arguments[count]);
		if (!at || (*at != ' ' && *at != '\0'))
			return UINT32_MAX;
		count++;
		if (*at == '\0')
			return count;
	}
	return UINT32_MAX;
}

static bool do_disk_command(const char *word, const uint64_t *arguments, unsigned int count)
{
	if (!has_block)
		return false;
	if (text_equal(word, "disk") && count == 0)
		say_disk();
	else if (text_equal(word, "write") && count == 3)
		transfer(true, arguments);
	else if (text_equal(word, "check") && count == 3)
		transfer(false, arguments);
	else if (text_equal(word, "flush") && count == 0)
		flush();
	else if (text_equal(word, "poll") && count == 0)
		block_use_interrupts(&block, false);
	else if (text_equal(word, "interrupt") && count == 0)
		block_use_interrupts(&block, true);
	else
		return false;
	return true;
}

static void do_command(char *line)
{
	static const char echo[] = "echo ";
	uint64_t arguments[ARGUMENTS_MAX] = { 0 };
	unsigned int count;

	if (memcmp(line, echo, sizeof(echo) - 1) == 0) {
		print("echo: %s\n", line + sizeof(echo) - 1);
		return;
	}
	count = read_arguments(line, arguments);
	if (text_equal(line, "panic"))
		*(volatile uint8_t *)(1ULL << 40) = 0; /* nothing is mapped there */
	if (!do_disk_command(line, arguments, count))
		print("result: bad_command\n");
}

void guest_main(void)
{
	char line[LINE_BYTES] = { 0 };
	uint64_t cpus = 1;
	bool run = false;
	const struct param params[] = {
		{ .name = "cpus",
		  .type = PARAM_NUMBER,
		  .value = &cpus,
		  .minimum = 1,
		  .maximum = CPUS_MAX },
		{ .name = "disk", .type = PARAM_NUMBER, .value = &disk_index },
		{ .name = "serve", .type = PARAM_FLAG, .value = &run },
	};

	params_read(params, sizeof(params) / sizeof(params[0]));
	say_facts();
	start_cpus(cpus);
	chunk = pages_take(CHUNK_SECTORS * BLOCK_SECTOR_BYTES / PAGE_BYTES);
	has_block = block_open(&block, (unsigned int)disk_index);
	if (!run) {
		print("result: end\n");
		return;
	}
	console_enable_input();
	print("guest: ready\n");
	for (;;) {
		console_read_line(line, sizeof(line));
		if (text_equal(line, "reset"))
			break;
		do_command(line);
	}
	print("result: end\n");
}

/*
 * memtouch: touches memory in patterns, then does as it is told: for snapshots, density, and what
 * memory costs. Its parameters, commands and results are in ../README.md.
 */
#include "boot.h"
#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "end.h"
#include "pages.h"
#include "params.h"
#include "text.h"

#define WORDS_IN_PAGE (PAGE_BYTES / sizeof(uint64_t))
#define LINE_BYTES    80
#define MAPPED_END    0x100000000ULL

/* The indices of the names below. */
enum pattern {
	SEQUENTIAL,
	RANDOM,
	STRIDE
};
enum mode {
	WRITE,
	READ,
	FILL,
	NONE
};
enum ending {
	RESET,
	HALT,
	SPIN,
	KEEP,
	SERVE
};

static const char *const patterns[] = { "sequential", "random", "stride", NULL };
static const char *const modes[] = { "write", "read", "fill", "none", NULL };
static const char *const endings[] = { "reset", "halt", "spin", "keep", "serve", NULL };

struct area {
	struct boot_range ranges[BOOT_RANGES_MAX];
	unsigned int range_count;
	uint64_t pages; /* those to be touched */
};

struct pass {
	unsigned int mode;
	uint64_t pages;
};

static struct area area;
static unsigned int pattern = SEQUENTIAL, ending = RESET;
static uint64_t stride = PAGE_BYTES;
static uint64_t seed = 1;
static unsigned int last_written = NONE; /* WRITE or FILL */
static uint64_t pages_written;

/* What a word holds once written: another value for each address and seed (the finalizer of
 * MurmurHash3). */
static uint64_t expected(uint64_t address)
{
	uint64_t value = address ^ (seed * 0x9e3779b97f4a7c15ULL);

	value = (value ^ value >> 33) * 0xff51afd7ed558ccdULL;
	value = (value ^ value >> 33) * 0xc4ceb9fe1a85ec53ULL;
	return value ^ value >> 33;
}

/* The index-th byte of the area: its ranges one behind the other. */
static uint64_t *address_of(uint64_t offset)
{
	unsigned int i = 0;

	for (; offset >= area.ranges[i].bytes; i++)
		offset -= area.ranges[i].bytes;
	return (uint64_t *)(area.ranges[i].start + offset);
}

/* A permutation of 0 .. count - 1: a full-period generator over the next power of two, passing over
 * what is too large. */
static uint64_t next_random(uint64_t at, uint64_t count)
{
	uint64_t mask = count <= 1 ? 0 : UINT64_MAX >> __builtin_clzll(count - 1);

	do
		at = (at * 6364136223846793005ULL + 1442695040888963407ULL) & mask;
	while (at >= count);
	return at;
}

static uint64_t touch(volatile uint64_t *word, unsigned int mode)
{
	if (mode == READ)
		return *word;
	*word = expected((uintptr_t)word);
	return 0;
}

static uint64_t touch_page(uint64_t offset, unsigned int mode)
{
	uint64_t *page = address_of(offset);

	if (mode != FILL)
		return touch(page, mode);
	for (size_t i = 0; i < WORDS_IN_PAGE; i++)
		page[i] = expected((uintptr_t)&page[i]);
	return 0;
}

/* Runs in ring 3. Returns a sum of what was read, so that the compiler cannot leave it out. */
static uint64_t run_pass(void *argument)
{
	const struct pass *pass = argument;
	uint64_t sum = 0, at = 0;

	if (pattern == STRIDE && pass->mode != FILL) {
		for (uint64_t offset = 0; offset < pass->pages * PAGE_BYTES; offset += stride)
			sum += touch(address_of(offset), pass->mode);
		return sum;
	}
	for (uint64_t i = 0; i < pass->pages; i++) {
		sum += touch_page(at * PAGE_BYTES, pass->mode);
		at = pattern == RANDOM ? next_random(at, pass->pages) : at + 1;
	}
	return sum;
}

static void do_pass(unsigned int mode, uint64_t pages)
{
	struct pass pass = { mode, pages };
	uint64_t start = tsc_read(), sum, ticks;

	if (mode == NONE)
		return;
	sum = user_run(run_pass, &pass);
	ticks = tsc_read() - start;
	if (mode != READ) {
		last_written = mode;
		pages_written = pages;
	}
	print("result: pass mode=%s pattern=%s pages=%llu ticks=%llu ns=%llu sum=%#llx\n",
	      modes[mode], patterns[pattern], (unsigned long long)pages, (unsigned long long)ticks,
	      (unsigned long long)clock_tsc_to_ns(ticks), (unsigned long long)sum);
}

struct verification {
	uint64_t bad_pages, first_bad;
};

static bool page_is_good(uint64_t *page)
{
	size_t words = last_written == FILL ? WORDS_IN_PAGE : 1;

	for (size_t i = 0; i < words; i++) {
		if (page[i] != expected((uintptr_t)&page[i]))
			return false;
	}
	return true;
}

/* Runs in ring 3. */
static uint64_t verify_pages(void *argument)
{
	struct verification *verification = argument;
	uint64_t step = pattern == STRIDE && last_written == WRITE && stride > PAGE_BYTES
				? stride
				: PAGE_BYTES;

	for (uint64_t offset = 0; offset < pages_written * PAGE_BYTES; offset += step) {
		uint64_t *page = address_of(offset);

		if (page_is_good(page))
			continue;
		if (verification->bad_pages++ == 0)
			verification->first_bad = (uintptr_t)page;
	}
	return 0;
}

static void verify(void)
{
	struct verification verification = { 0 };

	if (last_written == NONE)
		guest_fail("verify: nothing was written");
	user_run(verify_pages, &verification);
	print("result: verify pages=%llu bad=%llu first_bad=%#llx\n",
	      (unsigned long long)pages_written, (unsigned long long)verification.bad_pages,
	      (unsigned long long)verification.first_bad);
}

static void find_area(uint64_t fraction, uint64_t bytes)
{
	struct boot_range ranges[BOOT_RANGES_MAX];
	unsigned int count = pages_free_ranges(ranges);
	uint64_t free_bytes = 0;

	/* Tables first: they need pages themselves. */
	for (unsigned int i = 0; i < count; i++) {
		if (ranges[i].start + ranges[i].bytes > MAPPED_END)
			pages_map(ranges[i].start, ranges[i].bytes);
	}
	area.range_count = pages_free_ranges(area.ranges);
	for (unsigned int i = 0; i < area.range_count; i++)
		free_bytes += area.ranges[i].bytes;
	if (bytes > free_bytes)
		guest_fail("bytes=%llu is more than the %llu that are free",
			   (unsigned long long)bytes, (unsigned long long)free_bytes);
	area.pages = (bytes ? bytes : free_bytes / 100 * fraction) / PAGE_BYTES;
	if (fraction == 100 && !bytes)
		area.pages = free_bytes / PAGE_BYTES;
	print("result: memory free_bytes=%llu ranges=%u touched_pages=%llu tsc_khz=%llu\n",
	      (unsigned long long)free_bytes, area.range_count, (unsigned long long)area.pages,
	      (unsigned long long)clock_tsc_khz());
}

/* "WORD N": true, and N. */
static bool command_number(const char *line, const char *word, uint64_t *number)
{
	const char *rest;

	for (; *word; word++, line++) {
		if (*line != *word)
			return false;
	}
	if (*line != ' ')
		return false;
	rest = text_number(line + 1, number);
	return rest && *rest == '\0';
}

static void serve(void)
{
	char line[LINE_BYTES];
	uint64_t number;

	console_enable_input();
	print("guest: ready\n");
	for (;;) {
		console_read_line(line, sizeof(line));
		if (text_equal(line, "fill"))
			do_pass(FILL, area.pages);
		else if (text_equal(line, "write"))
			do_pass(WRITE, area.pages);
		else if (text_equal(line, "read"))
			do_pass(READ, area.pages);
		else if (text_equal(line, "verify"))
			verify();
		else if (command_number(line, "touch", &number) && number <= area.pages)
			do_pass(WRITE, number);
		else if (command_number(line, "seed", &number)) {
			seed = number;
			print("result: seed value=%llu\n", (unsigned long long)seed);
		} else if (text_equal(line, "reset"))
			return;
		else
			print("result: bad_command\n");
	}
}

void guest_main(void)
{
	uint64_t fraction = 100, bytes = 0, passes = 1;
	unsigned int mode = WRITE;
	const struct param params[] = {
		{ .name = "fraction",
		  .type = PARAM_NUMBER,
		  .value = &fraction,
		  .minimum = 1,
		  .maximum = 100 },
		{ .name = "bytes", .type = PARAM_NUMBER, .value = &bytes, .minimum = PAGE_BYTES },
		{ .name = "pattern", .type = PARAM_CHOICE, .value = &pattern, .choices = patterns },
		{ .name = "stride",
		  .type = PARAM_NUMBER,
		  .value = &stride,
		  .minimum = sizeof(uint64_t) },
		{ .name = "mode", .type = PARAM_CHOICE, .value = &mode, .choices = modes },
		{ .name = "passes", .type = PARAM_NUMBER, .value = &passes },
		{ .name = "seed", .type = PARAM_NUMBER, .value = &seed },
		{ .name = "then", .type = PARAM_CHOICE, .value = &ending, .choices = endings },
	};

	params_read(params, sizeof(params) / sizeof(params[0]));
	if (stride % sizeof(uint64_t) != 0)
		guest_fail("the parameter stride must be a multiple of %zu", sizeof(uint64_t));
	find_area(fraction, bytes);
	for (uint64_t i = 0; i < passes; i++)
		do_pass(mode, area.pages);
	switch (ending) {
	case HALT:
		print("guest: ready\n");
		cpu_halt();
	case SPIN:
		print("guest: ready\n");
		for (;;)
			cpu_relax();
	case KEEP:
		print("guest: ready\n");
		for (;;)
			do_pass(mode, area.pages);
	case SERVE:
		serve();
		break;
	default:
		break;
	}
	print("result: end\n");
}

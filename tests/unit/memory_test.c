#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "mayfly/layout.h"
#include "mayfly/memory.h"

#define PAGE PAGE_SIZE_BYTES

static struct memory make_memory(uint64_t size)
{
	struct memory memory;
	struct error err = { 0 };

	cr_assert_eq(memory_create(&memory, size, HUGE_PAGES_NONE, &err), 0, "%s", err.message);
	return memory;
}

/* A file whose byte at offset n is n % 251. */
static int make_file(size_t length)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	uint8_t *bytes = malloc(length);

	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(i % 251);
	cr_assert_eq(write(fd, bytes, length), (ssize_t)length);
	free(bytes);
	return fd;
}

Test(memory, small_memory_is_one_region)
{
	struct memory memory = make_memory(16 * MIB);

	cr_assert_eq(memory.region_count, 1);
	cr_assert(memory_span(&memory, 0, 16 * MIB));
	cr_assert(memory_span(&memory, 16 * MIB - 1, 1));
	cr_assert_null(memory_span(&memory, 16 * MIB, 1));
	cr_assert_null(memory_span(&memory, 16 * MIB - 1, 2));
	memory_destroy(&memory);
}

Test(memory, the_mmio_gap_splits_large_memory)
{
	struct memory memory = make_memory(LAYOUT_MMIO_GAP_START + 512 * MIB);

	cr_assert_eq(memory.region_count, 2);
	cr_assert(memory_span(&memory, LAYOUT_MMIO_GAP_START - 1, 1));
	cr_assert_null(memory_span(&memory, LAYOUT_MMIO_GAP_START - 1, 2));
	cr_assert_null(memory_span(&memory, LAYOUT_MMIO_GAP_START, 1));
	cr_assert_null(memory_span(&memory, LAYOUT_MMIO_GAP_END - 1, 1));
	cr_assert(memory_span(&memory, LAYOUT_MMIO_GAP_END, 512 * MIB));
	cr_assert_null(memory_span(&memory, LAYOUT_MMIO_GAP_END, 512 * MIB + 1));
	memory_destroy(&memory);
}

Test(memory, wrapping_and_empty_ranges_are_refused)
{
	struct memory memory = make_memory(16 * MIB);

	cr_assert_null(memory_span(&memory, 0, 0));
	cr_assert_null(memory_span(&memory, UINT64_MAX, 1));
	cr_assert_null(memory_span(&memory, UINT64_MAX - 1, 16));
	cr_assert_null(memory_span(&memory, 4096, UINT64_MAX));
	cr_assert_null(memory_span(&memory, 4096, UINT64_MAX - 4095));
	memory_destroy(&memory);
	cr_assert_null(memory_span(&memory, 0, 1));
}

Test(memory, read_and_write_copy_or_refuse_whole)
{
	struct memory memory = make_memory(16 * MIB);
	uint32_t value = 0x12345678, back = 0;

	cr_assert(memory_write(&memory, 100, &value, 4));
	cr_assert(memory_read(&memory, 100, &back, 4));
	cr_assert_eq(back, value);
	cr_assert_not(memory_write(&memory, 16 * MIB - 2, &value, 4));
	cr_assert(memory_read(&memory, 16 * MIB - 2, &back, 2));
	cr_assert_eq(back & 0xffff, 0);
	memory_destroy(&memory);
}

Test(memory, odd_sizes_are_refused)
{
	struct memory memory;
	struct error err = { 0 };

	cr_assert_eq(memory_create(&memory, 0, HUGE_PAGES_NONE, &err), -EINVAL);
	cr_assert_eq(memory_create(&memory, 4097, HUGE_PAGES_NONE, &err), -EINVAL);
	cr_assert_eq(memory_create(&memory, 3 * MIB, HUGE_PAGES_2M, &err), -EINVAL);
	cr_assert_eq(memory_create(&memory, UINT64_MAX & ~0xfffULL, HUGE_PAGES_NONE, &err),
		     -EINVAL);
	cr_assert_eq(memory.region_count, 0);
}

Test(memory, missing_huge_pages_are_explained)
{
	struct memory memory;
	struct error err = { 0 };

	/* More than any pool that a test machine may have. */
	cr_assert_eq(memory_create(&memory, 1ULL << 42, HUGE_PAGES_2M, &err), -ENOMEM);
	cr_assert(strstr(err.message, "vm.nr_hugepages"), "%s", err.message);
}

/* Whether the page at `hva` is mapped from a file, as the kernel sees it. */
static bool is_file_mapping(const void *hva)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	bool found = false;

	while (fgets(line, sizeof(line), maps)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && (uintptr_t)hva >= start &&
		    (uintptr_t)hva < end)
			found = strstr(line, "memfd:test");
	}
	fclose(maps);
	return found;
}

Test(memory, aligned_pages_of_a_file_are_mapped_and_the_tail_is_read)
{
	struct memory memory = make_memory(16 * MIB);
	int fd = make_file(3 * PAGE);
	uint8_t *at = memory_span(&memory, MIB, 3 * PAGE);

	at[2 * PAGE + 100] = 0x77;
	cr_assert_eq(memory_load_file(&memory, MIB, fd, 0, 2 * PAGE + 100, "file", NULL), 0);
	cr_assert(is_file_mapping(at));
	cr_assert(is_file_mapping(at + PAGE));
	cr_assert_not(is_file_mapping(at + 2 * PAGE));
	for (size_t i = 0; i < 2 * PAGE + 100; i++)
		cr_assert_eq(at[i], i % 251);
	cr_assert_eq(at[2 * PAGE + 100], 0x77, "what lies behind the range keeps its value");
	memory_destroy(&memory);
	close(fd);
}

Test(memory, no_file_breaks_up_transparent_huge_pages)
{
	struct memory memory;
	struct error err = { 0 };
	int fd = make_file(3 * PAGE);
	uint8_t *at;

	cr_assert_eq(memory_create(&memory, 16 * MIB, HUGE_PAGES_TRANSPARENT, &err), 0, "%s",
		     err.message);
	at = memory_span(&memory, 2 * MIB, 3 * PAGE);
	cr_assert_eq(memory_load_file(&memory, 2 * MIB, fd, 0, 3 * PAGE, "file", NULL), 0);
	cr_assert_not(is_file_mapping(at));
	for (size_t i = 0; i < 3 * PAGE; i++)
		cr_assert_eq(at[i], i % 251);
	memory_destroy(&memory);
	close(fd);
}

/* Whether the mapping at `hva` has the flag "dd" (not in core files), as the kernel sees it. */
static bool is_left_out_of_core_files(const void *hva)
{
	FILE *smaps = fopen("/proc/self/smaps", "r");
	bool here = false, found = false;
	char line[512];

	while (fgets(line, sizeof(line), smaps)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = (uintptr_t)hva >= start && (uintptr_t)hva < end;
		else if (here && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line, " dd");
	}
	fclose(smaps);
	return found;
}

Test(memory, a_core_file_holds_nothing_of_the_guest)
{
	struct memory memory = make_memory(16 * MIB);
	int fd = make_file(PAGE);

	cr_assert_eq(memory_load_file(&memory, MIB, fd, 0, PAGE, "file", NULL), 0);
	cr_assert(is_left_out_of_core_files(memory_span(&memory, 0, 1)));
	cr_assert(is_left_out_of_core_files(memory_span(&memory, MIB, 1)));
	memory_destroy(&memory);
	close(fd);
}

Test(memory, the_guest_writes_its_own_copy)
{
	struct memory memory = make_memory(16 * MIB);
	int fd = make_file(PAGE);
	uint8_t *at = memory_span(&memory, MIB, PAGE), byte;

	cr_assert_eq(memory_load_file(&memory, MIB, fd, 0, PAGE, "file", NULL), 0);
	at[5] = 0xee;
	cr_assert_eq(pread(fd, &byte, 1, 5), 1);
	cr_assert_eq(byte, 5);
	memory_destroy(&memory);
	close(fd);
}

Test(memory, unaligned_ranges_are_read)
{
	struct memory memory = make_memory(16 * MIB);
	int fd = make_file(3 * PAGE);
	uint8_t *at = memory_span(&memory, MIB + 8, 2 * PAGE);

	cr_assert_eq(memory_load_file(&memory, MIB + 8, fd, 3, 2 * PAGE, "file", NULL), 0);
	cr_assert_not(is_file_mapping(at));
	for (size_t i = 0; i < 2 * PAGE; i++)
		cr_assert_eq(at[i], (i + 3) % 251);
	memory_destroy(&memory);
	close(fd);
}

Test(memory, a_short_file_is_refused_by_name)
{
	struct memory memory = make_memory(16 * MIB);
	struct error err = { 0 };
	int fd = make_file(PAGE);

	cr_assert_eq(memory_load_file(&memory, MIB, fd, 0, PAGE + 1, "kernel k", &err), -EINVAL);
	cr_assert(strstr(err.message, "kernel k"));
	cr_assert_eq(memory_load_file(&memory, MIB, fd, UINT64_MAX - 10, 100, "kernel k", &err),
		     -EINVAL);
	cr_assert_eq(memory_load_file(&memory, 16 * MIB - 4, fd, 0, 100, "kernel k", &err),
		     -EINVAL);
	memory_destroy(&memory);
	close(fd);
}

Test(memory, a_span_ends_at_a_guard, .signal = SIGSEGV)
{
	struct memory memory = make_memory(16 * MIB);
	volatile uint8_t *end = (uint8_t *)memory_span(&memory, 0, 1) + 16 * MIB;

	*end = 1;
}

static struct memory make_shared(uint64_t size)
{
	struct memory memory;
	struct error err = { 0 };

	cr_assert_eq(memory_create(&memory, size, HUGE_PAGES_NONE, &err), 0, "%s", err.message);
	cr_assert_eq(memory_share(&memory, &err), 0, "%s", err.message);
	return memory;
}

static uint8_t base_byte(const struct memory *memory, uint64_t offset)
{
	uint8_t byte;

	cr_assert_eq(pread(memory->base_fd, &byte, 1, (off_t)offset), 1);
	return byte;
}

Test(memory, a_frozen_base_keeps_what_it_had)
{
	struct memory memory = make_shared(16 * MIB);
	uint8_t *hva = memory_span(&memory, 0, 16 * MIB);
	struct error err = { 0 };

	hva[0] = 1;
	hva[5 * PAGE] = 2;
	cr_assert_eq(base_byte(&memory, 0), 1);
	cr_assert_eq(memory_freeze(&memory, &err), 0, "%s", err.message);
	cr_assert_eq(memory_span(&memory, 0, 16 * MIB), hva);
	/* What was there is there, before and after the old mapping goes. */
	cr_assert_eq(hva[0], 1);
	hva[0] = 3;
	memory_finish_freeze(&memory);
	cr_assert_eq(hva[0], 3);
	cr_assert_eq(hva[5 * PAGE], 2);
	hva[5 * PAGE] = 4;
	hva[9 * PAGE] = 5;
	cr_assert_eq(base_byte(&memory, 0), 1);
	cr_assert_eq(base_byte(&memory, 5 * PAGE), 2);
	cr_assert_eq(base_byte(&memory, 9 * PAGE), 0);
	memory_destroy(&memory);
}

Test(memory, a_frozen_base_can_be_sealed_against_writing)
{
	struct memory memory = make_shared(16 * MIB);
	struct error err = { 0 };

	*(uint8_t *)memory_span(&memory, 0, 1) = 1;
	cr_assert_lt(fcntl(memory.base_fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	cr_assert_eq(memory_freeze(&memory, &err), 0, "%s", err.message);
	memory_finish_freeze(&memory);
	cr_assert_eq(fcntl(memory.base_fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	cr_assert_lt(pwrite(memory.base_fd, "x", 1, 0), 0);
	cr_assert_lt(ftruncate(memory.base_fd, 0), 0);
	memory_destroy(&memory);
}

Test(memory, the_rest_of_a_freeze_can_be_done_in_steps)
{
	struct memory memory = make_shared(16 * MIB);
	uint8_t *hva = memory_span(&memory, 0, 16 * MIB);
	struct error err = { 0 };
	unsigned int steps = 0;

	for (uint64_t at = 0; at < 16 * MIB; at += PAGE)
		hva[at] = 1;
	cr_assert_eq(memory_freeze(&memory, &err), 0, "%s", err.message);
	do {
		/* The last step may have nothing but what is behind the mapping. */
		if (steps < 16 * MIB / MEMORY_FREEZE_STEP_BYTES)
			cr_assert_lt(fcntl(memory.base_fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
		/* The guest runs meanwhile. */
		cr_assert_eq(hva[steps * MIB], 1);
		hva[steps * MIB] = 2;
		steps++;
	} while (!memory_go_on_freezing(&memory));
	cr_assert_geq(steps, 16 * MIB / MEMORY_FREEZE_STEP_BYTES);
	cr_assert_null(memory.frozen);
	cr_assert(memory_go_on_freezing(&memory));
	cr_assert_eq(fcntl(memory.base_fd, F_ADD_SEALS, F_SEAL_WRITE), 0,
		     "nothing maps it shared any more");
	for (uint64_t at = 0; at < 16 * MIB; at += PAGE) {
		cr_assert_eq(hva[at], at % MIB == 0 && at / MIB < steps ? 2 : 1);
		cr_assert_eq(base_byte(&memory, at), 1);
	}
	memory_destroy(&memory);
}

Test(memory, after_some_steps_the_rest_of_a_freeze_can_be_done_at_once)
{
	struct memory memory = make_shared(16 * MIB);
	struct error err = { 0 };

	cr_assert_eq(memory_freeze(&memory, &err), 0, "%s", err.message);
	cr_assert_not(memory_go_on_freezing(&memory));
	cr_assert_lt(fcntl(memory.base_fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	memory_finish_freeze(&memory);
	cr_assert_eq(fcntl(memory.base_fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	memory_destroy(&memory);
}

Test(memory, freezing_twice_loses_nothing)
{
	struct memory memory = make_shared(16 * MIB);
	uint8_t *hva = memory_span(&memory, 0, 16 * MIB);
	struct error err = { 0 };

	cr_assert_eq(memory_freeze(&memory, &err), 0);
	memory_finish_freeze(&memory);
	hva[7] = 7;
	cr_assert_eq(memory_freeze(&memory, &err), 0);
	memory_finish_freeze(&memory);
	cr_assert_eq(hva[7], 7);
	memory_destroy(&memory);
}

Test(memory, both_regions_freeze)
{
	uint64_t size = LAYOUT_MMIO_GAP_START + 3 * PAGE;
	struct memory memory = make_shared(size);
	struct error err = { 0 };
	uint8_t *low = memory_span(&memory, 0, PAGE);
	uint8_t *high = memory_span(&memory, LAYOUT_MMIO_GAP_END, 3 * PAGE);

	*low = 1;
	high[2 * PAGE] = 2;
	cr_assert_eq(memory_freeze(&memory, &err), 0, "%s", err.message);
	memory_finish_freeze(&memory);
	cr_assert_eq(*low, 1);
	cr_assert_eq(high[2 * PAGE], 2);
	*low = 3;
	high[2 * PAGE] = 4;
	cr_assert_eq(base_byte(&memory, 0), 1);
	cr_assert_eq(base_byte(&memory, size - PAGE), 2);
	memory_destroy(&memory);
}

Test(memory, a_freeze_that_fails_leaves_the_base_shared)
{
	uint64_t size = LAYOUT_MMIO_GAP_START + 3 * PAGE;
	struct memory memory = make_shared(size);
	struct error err = { 0 };
	uint8_t *low = memory_span(&memory, 0, PAGE);

	*low = 1;
	/* The first one is frozen by then; the second cannot be moved. */
	memory.regions[1].size_bytes = 0;
	cr_assert_lt(memory_freeze(&memory, &err), 0);
	memory.regions[1].size_bytes = 3 * PAGE;
	cr_assert(memory.shared);
	cr_assert_null(memory.frozen);
	cr_assert_eq(*low, 1);
	*low = 2;
	cr_assert_eq(base_byte(&memory, 0), 2);
	memory_destroy(&memory);
}

Test(memory, files_are_read_into_a_shared_base)
{
	struct memory memory = make_shared(16 * MIB);
	struct error err = { 0 };
	cleanup_fd int fd = make_file(3 * PAGE);

	cr_assert_eq(memory_load_file(&memory, PAGE, fd, 0, 3 * PAGE, "file", &err), 0, "%s",
		     err.message);
	cr_assert_eq(base_byte(&memory, PAGE + 5), 5);
	memory_destroy(&memory);
}

Test(memory, large_pages_are_not_shared)
{
	struct memory memory = make_memory(16 * MIB);
	struct error err = { 0 };

	memory.huge_pages = HUGE_PAGES_2M; /* of which this host may have none */
	cr_assert_eq(memory_share(&memory, &err), -EINVAL);
	memory_destroy(&memory);
}

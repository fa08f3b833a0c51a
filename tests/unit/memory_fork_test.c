/* Forks of guest memory: src/memory_fork.c. Two struct memory of one process stand for two
 * monitors. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mayfly/layout.h"
#include "mayfly/memory.h"

#define PAGE PAGE_SIZE_BYTES
#define SIZE (16 * MIB)

static struct memory make_parent(uint64_t size)
{
	struct memory memory;
	struct error err = { 0 };

	cr_assert_eq(memory_create(&memory, size, HUGE_PAGES_NONE, &err), 0, "%s", err.message);
	cr_assert_eq(memory_share(&memory, &err), 0, "%s", err.message);
	cr_assert_eq(memory_enable_fork(&memory, &err), 0, "%s", err.message);
	cr_assert_eq(memory_track_dirty(&memory, &err), 0, "%s", err.message);
	return memory;
}

static uint64_t fork_memory(struct memory *memory)
{
	struct error err = { 0 };
	uint64_t copied;

	cr_assert_eq(memory_fork(memory, &copied, &err), 0, "%s", err.message);
	memory_finish_freeze(memory);
	return copied;
}

static struct memory make_child(const struct memory *parent)
{
	struct memory child;
	struct error err = { 0 };

	cr_assert_eq(memory_create(&child, parent->size_bytes, HUGE_PAGES_NONE, &err), 0, "%s",
		     err.message);
	cr_assert_eq(memory_map_forked(&child, dup(parent->base_fd), parent->own_fd, &err), 0, "%s",
		     err.message);
	return child;
}

static void put(struct memory *memory, uint64_t gpa, uint8_t value)
{
	cr_assert(memory_write(memory, gpa, &value, 1));
}

static uint8_t get(const struct memory *memory, uint64_t gpa)
{
	uint8_t value;

	cr_assert(memory_read(memory, gpa, &value, 1));
	return value;
}

Test(memory_fork, the_first_copies_nothing_and_shares_all)
{
	struct memory parent = make_parent(SIZE), child;

	put(&parent, 0, 1);
	put(&parent, SIZE - 1, 2);
	cr_assert_eq(fork_memory(&parent), 0);
	child = make_child(&parent);
	cr_assert_eq(get(&child, 0), 1);
	cr_assert_eq(get(&child, SIZE - 1), 2);
	put(&parent, 0, 3);
	put(&child, PAGE, 4);
	cr_assert_eq(get(&child, 0), 1);
	cr_assert_eq(get(&parent, PAGE), 0);
	memory_destroy(&parent);
	cr_assert_eq(get(&child, SIZE - 1), 2);
	memory_destroy(&child);
}

Test(memory_fork, a_later_one_copies_what_was_written_since)
{
	struct memory parent = make_parent(SIZE), first, second, third;

	put(&parent, 0, 1);
	fork_memory(&parent);
	first = make_child(&parent);
	put(&parent, 0, 2);
	put(&parent, 7 * PAGE, 3);
	put(&parent, 8 * PAGE, 4);
	cr_assert_eq(fork_memory(&parent), 3 * PAGE);
	second = make_child(&parent);
	put(&parent, 8 * PAGE, 5);
	cr_assert_eq(fork_memory(&parent), PAGE);
	third = make_child(&parent);
	cr_assert_eq(get(&first, 0), 1);
	cr_assert_eq(get(&first, 7 * PAGE), 0);
	cr_assert_eq(get(&second, 0), 2);
	cr_assert_eq(get(&second, 8 * PAGE), 4);
	/* What was copied by the fork before is its, too. */
	cr_assert_eq(get(&third, 0), 2);
	cr_assert_eq(get(&third, 7 * PAGE), 3);
	cr_assert_eq(get(&third, 8 * PAGE), 5);
	cr_assert_eq(fork_memory(&parent), 0);
	memory_destroy(&first);
	memory_destroy(&second);
	memory_destroy(&third);
	memory_destroy(&parent);
}

/* As a vCPU does, of which KVM tells. */
static void guest_put(struct memory *memory, unsigned int page, uint8_t value)
{
	uint64_t bitmap[SIZE / PAGE / 64] = { 0 };

	*(uint8_t *)memory_span(memory, page * PAGE, 1) = value;
	bitmap[page / 64] |= 1ULL << page % 64;
	memory_add_dirty(memory, 0, bitmap);
}

static uint64_t copy_ahead(struct memory *memory)
{
	struct error err = { 0 };
	uint64_t copied;

	cr_assert_eq(memory_copy_ahead(memory, &copied, &err), 0, "%s", err.message);
	return copied;
}

Test(memory_fork, what_was_copied_ahead_is_copied_again_only_where_it_was_written_since)
{
	struct memory parent = make_parent(SIZE), child, grandchild;

	guest_put(&parent, 1, 1);
	cr_assert_eq(copy_ahead(&parent), 0); /* a first fork copies nothing */
	fork_memory(&parent);
	for (unsigned int page = 1; page <= 3; page++)
		guest_put(&parent, page, (uint8_t)(10 + page));
	cr_assert_eq(copy_ahead(&parent), 3 * PAGE);
	cr_assert_eq(copy_ahead(&parent), 0);
	guest_put(&parent, 2, 22);
	guest_put(&parent, 4, 24);
	cr_assert_eq(fork_memory(&parent), 2 * PAGE);
	child = make_child(&parent);
	cr_assert_eq(get(&child, 1 * PAGE), 11);
	cr_assert_eq(get(&child, 2 * PAGE), 22);
	cr_assert_eq(get(&child, 3 * PAGE), 13);
	cr_assert_eq(get(&child, 4 * PAGE), 24);
	/* What a fork has from its parent needs not wait for its own first fork either. */
	cr_assert_eq(copy_ahead(&child), 4 * PAGE);
	cr_assert_eq(fork_memory(&child), 0);
	grandchild = make_child(&child);
	cr_assert_eq(get(&grandchild, 3 * PAGE), 13);
	cr_assert_eq(fork_memory(&parent), 0);
	memory_destroy(&grandchild);
	memory_destroy(&child);
	memory_destroy(&parent);
}

Test(memory_fork, pages_that_a_device_is_about_to_write_are_not_copied_ahead)
{
	struct memory parent = make_parent(SIZE), child;

	fork_memory(&parent);
	guest_put(&parent, 1, 1);
	/* It has the buffer, and fills it later. */
	memory_mark_dirty(&parent, memory_span(&parent, PAGE, 1), 1);
	cr_assert_eq(copy_ahead(&parent), 0);
	*(uint8_t *)memory_span(&parent, PAGE, 1) = 2;
	cr_assert_eq(fork_memory(&parent), PAGE);
	child = make_child(&parent);
	cr_assert_eq(get(&child, PAGE), 2);
	memory_destroy(&child);
	memory_destroy(&parent);
}

Test(memory_fork, a_fork_of_a_fork_has_the_pages_of_both)
{
	struct memory parent = make_parent(SIZE), child, grandchild;

	put(&parent, 0, 1);
	fork_memory(&parent);
	put(&parent, PAGE, 2);
	fork_memory(&parent);
	child = make_child(&parent);
	put(&child, 2 * PAGE, 3);
	cr_assert_eq(fork_memory(&child), 2 * PAGE);
	grandchild = make_child(&child);
	for (uint8_t page = 0; page < 3; page++)
		cr_assert_eq(get(&grandchild, page * PAGE), page + 1);
	memory_destroy(&grandchild);
	memory_destroy(&child);
	memory_destroy(&parent);
}

Test(memory_fork, the_region_above_the_gap_is_copied_too)
{
	uint64_t size = LAYOUT_MMIO_GAP_START + 4 * PAGE;
	struct memory parent = make_parent(size), child;

	fork_memory(&parent);
	put(&parent, LAYOUT_MMIO_GAP_START - PAGE, 1);
	put(&parent, LAYOUT_MMIO_GAP_END + 3 * PAGE, 2);
	cr_assert_eq(fork_memory(&parent), 2 * PAGE);
	child = make_child(&parent);
	cr_assert_eq(get(&child, LAYOUT_MMIO_GAP_START - PAGE), 1);
	cr_assert_eq(get(&child, LAYOUT_MMIO_GAP_END + 3 * PAGE), 2);
	memory_destroy(&child);
	memory_destroy(&parent);
}

Test(memory_fork, a_copy_that_failed_is_made_up_for)
{
	struct memory parent = make_parent(SIZE), child;
	struct error err = { 0 };
	uint64_t copied;
	int own_fd;

	fork_memory(&parent);
	put(&parent, PAGE, 1);
	own_fd = parent.own_fd;
	parent.own_fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	cr_assert_eq(memory_fork(&parent, &copied, &err), -ENOSPC);
	guest_put(&parent, 2, 2);
	cr_assert_eq(memory_copy_ahead(&parent, &copied, &err), -ENOSPC);
	close(parent.own_fd);
	parent.own_fd = own_fd;
	cr_assert_eq(fork_memory(&parent), 2 * PAGE);
	child = make_child(&parent);
	cr_assert_eq(get(&child, PAGE), 1);
	cr_assert_eq(get(&child, 2 * PAGE), 2);
	memory_destroy(&child);
	memory_destroy(&parent);
}

Test(memory_fork, who_loads_seals_the_base)
{
	struct memory parent = make_parent(SIZE), child;
	struct error err = { 0 };

	fork_memory(&parent);
	child = make_child(&parent);
	cr_assert_lt(pwrite(parent.base_fd, "x", 1, 0), 0);
	cr_assert_eq(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, parent.base_fd, 0),
		     MAP_FAILED);
	memory_destroy(&child);
	memory_destroy(&parent);
	/* One that its owner still writes to is refused. */
	parent = make_parent(SIZE);
	cr_assert_eq(memory_create(&child, SIZE, HUGE_PAGES_NONE, &err), 0, "%s", err.message);
	cr_assert_eq(memory_map_forked(&child, dup(parent.base_fd), parent.own_fd, &err), -EBUSY);
	cr_assert(strstr(err.message, "sealed"));
	memory_destroy(&child);
	memory_destroy(&parent);
}

Test(memory_fork, a_base_that_could_still_be_written_is_refused)
{
	struct memory parent = make_parent(SIZE), child;
	struct error err = { 0 };
	int base = memfd_create("base", MFD_CLOEXEC); /* it cannot be sealed */
	char path[32];

	fork_memory(&parent);
	cr_assert_eq(ftruncate(base, SIZE), 0);
	cr_assert_eq(memory_create(&child, SIZE, HUGE_PAGES_NONE, &err), 0, "%s", err.message);
	cr_assert_eq(memory_map_forked(&child, dup(base), parent.own_fd, &err), -EPERM);
	memory_destroy(&child);
	/* As a snapshot's memory file is: open for reading. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", base);
	cr_assert_eq(memory_create(&child, SIZE, HUGE_PAGES_NONE, &err), 0, "%s", err.message);
	cr_assert_eq(memory_map_forked(&child, open(path, O_RDONLY), parent.own_fd, &err), 0, "%s",
		     err.message);
	memory_destroy(&child);
	memory_destroy(&parent);
	close(base);
}

Test(memory_fork, what_a_file_system_adds_to_the_copied_pages_is_not_taken)
{
	struct memory parent = make_parent(SIZE), child;
	static const uint8_t zeros[8 * PAGE_SIZE_BYTES];

	for (uint8_t page = 0; page < 8; page++)
		put(&parent, page * PAGE, page + 1);
	fork_memory(&parent);
	put(&parent, 3 * PAGE, 0x33);
	fork_memory(&parent);
	/* Shared memory in large pages has all of one where a part of it was written. */
	cr_assert_eq(pwrite(parent.own_fd, zeros, 3 * PAGE, 0), (ssize_t)(3 * PAGE));
	cr_assert_eq(pwrite(parent.own_fd, zeros, 4 * PAGE, 4 * PAGE), (ssize_t)(4 * PAGE));
	child = make_child(&parent);
	for (uint8_t page = 0; page < 8; page++)
		cr_assert_eq(get(&child, page * PAGE), page == 3 ? 0x33 : page + 1);
	cr_assert(memory_is_own(&child, 3 * PAGE));
	cr_assert_not(memory_is_own(&child, 2 * PAGE));
	memory_destroy(&child);
	memory_destroy(&parent);
}

Test(memory_fork, a_base_that_is_too_short_is_refused)
{
	struct memory parent = make_parent(SIZE), child;
	struct error err = { 0 };

	fork_memory(&parent);
	cr_assert_eq(memory_create(&child, SIZE + PAGE, HUGE_PAGES_NONE, &err), 0, "%s",
		     err.message);
	cr_assert_eq(memory_map_forked(&child, dup(parent.base_fd), parent.own_fd, &err), -EINVAL);
	cr_assert_eq(memory_map_forked(&child, open("/dev/zero", O_RDONLY), parent.own_fd, &err),
		     -EINVAL);
	memory_destroy(&child);
	memory_destroy(&parent);
}

/* The record of what the monitor writes: src/memory_dirty.c, and who keeps it. */
#include "mayfly/layout.h"
#include "virtqueue_fixture.h"

#define PAGE PAGE_SIZE_BYTES

static uint64_t count_dirty(const struct memory *memory)
{
	uint64_t count = 0;

	for (uint64_t offset = 0; offset < memory->size_bytes; offset += PAGE)
		count += memory_is_dirty(memory, offset);
	return count;
}

Test(memory_dirty, every_page_of_a_range_is_marked_and_no_other)
{
	struct memory memory;
	struct error err = { 0 };
	uint8_t *base;

	cr_assert_eq(memory_create(&memory, 16 * MIB, HUGE_PAGES_NONE, &err), 0);
	base = memory_span(&memory, 0, 1);
	memory_mark_dirty(&memory, base, 1); /* nobody tracks yet */
	cr_assert_eq(memory_track_dirty(&memory, &err), 0);
	cr_assert_eq(count_dirty(&memory), 0);
	memory_mark_dirty(&memory, base + 5 * PAGE - 1, 2);
	memory_mark_dirty(&memory, base + 16 * MIB - 1, 1);
	memory_mark_dirty(&memory, base + 100 * PAGE, 0);
	cr_assert(memory_is_dirty(&memory, 4 * PAGE));
	cr_assert(memory_is_dirty(&memory, 5 * PAGE));
	cr_assert(memory_is_dirty(&memory, 16 * MIB - PAGE));
	cr_assert_eq(count_dirty(&memory), 3);
	memory_clear_dirty(&memory);
	cr_assert_eq(count_dirty(&memory), 0);
	memory_write(&memory, 7 * PAGE, "x", 1);
	cr_assert(memory_is_dirty(&memory, 7 * PAGE));
	memory_destroy(&memory);
}

Test(memory_dirty, bits_of_kvm_are_added_to_the_right_region)
{
	uint64_t bitmap[512 / 64] = { 0 };
	struct memory memory;
	struct error err = { 0 };

	cr_assert_eq(memory_create(&memory, LAYOUT_MMIO_GAP_START + 2 * MIB, HUGE_PAGES_NONE, &err),
		     0);
	cr_assert_eq(memory_track_dirty(&memory, &err), 0);
	bitmap[1] = 1ULL << 3;
	memory_add_dirty(&memory, 1, bitmap);
	cr_assert(memory_is_dirty(&memory, LAYOUT_MMIO_GAP_START + 67 * PAGE));
	memory_mark_dirty(&memory, memory_span(&memory, LAYOUT_MMIO_GAP_END, 1), 1);
	cr_assert(memory_is_dirty(&memory, LAYOUT_MMIO_GAP_START));
	cr_assert_eq(count_dirty(&memory), 2);
	memory_destroy(&memory);
}

Test(memory_dirty, what_a_device_writes_for_a_chain_is_marked)
{
	struct fixture f;
	struct error err = { 0 };

	set_up(&f, 0);
	cr_assert_eq(memory_track_dirty(&f.memory, &err), 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 1);
	ring_set(&f.ring, 1, RING_BUFFERS + 8 * PAGE, 2 * PAGE, VRING_DESC_F_WRITE, 0);
	ring_offer(&f.ring, 0);
	memory_clear_dirty(&f.memory);
	cr_assert_eq(pop(&f), 1);
	cr_assert(memory_is_dirty(&f.memory, RING_BUFFERS + 8 * PAGE));
	cr_assert(memory_is_dirty(&f.memory, RING_BUFFERS + 9 * PAGE));
	cr_assert_eq(count_dirty(&f.memory), 2, "what the device reads stays clean");
	memory_clear_dirty(&f.memory);
	virtqueue_push(&f.queue, 0, 1);
	cr_assert(memory_is_dirty(&f.memory, RING_USED & ~(PAGE - 1)));
	memory_clear_dirty(&f.memory);
	virtqueue_publish(&f.queue);
	cr_assert(memory_is_dirty(&f.memory, RING_USED & ~(PAGE - 1)));
	memory_clear_dirty(&f.memory);
	virtqueue_enable_notify(&f.queue);
	cr_assert(memory_is_dirty(&f.memory, RING_USED & ~(PAGE - 1)));
	tear_down(&f);
}

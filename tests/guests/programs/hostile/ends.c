/*
 * What no guest survives, and every monitor must: only run when named. Nothing is expected here but
 * the end. See hostile.h.
 */
#include "hostile.h"
#include "mayfly/layout.h"

static void run_a_device(struct rig *rig)
{
	(void)rig;
	__asm__ volatile("jmp *%0" : : "r"(LAYOUT_VIRTIO_MMIO_CMDLINE) : "memory");
}

static void run_nothing(struct rig *rig)
{
	(void)rig;
	__asm__ volatile("jmp *%0" : : "r"(LAYOUT_MMIO_GAP_START + 0x10000000) : "memory");
}

static void page_tables_in_a_device(struct rig *rig)
{
	(void)rig;
	__asm__ volatile("mov %0, %%cr3" : : "r"(LAYOUT_VIRTIO_MMIO_CMDLINE) : "memory");
}

static void page_tables_nowhere(struct rig *rig)
{
	(void)rig;
	__asm__ volatile("mov %0, %%cr3" : : "r"(1ULL << 45) : "memory");
}

static void no_descriptors_at_all(struct rig *rig)
{
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = { 0, 0 };

	(void)rig;
	__asm__ volatile("lgdt %0; lidt %0; ud2" : : "m"(none) : "memory");
}

static const struct hostile_case cases[] = {
	{ "end-run-a-device", run_a_device, 0 },
	{ "end-run-nothing", run_nothing, 0 },
	{ "end-page-tables-in-a-device", page_tables_in_a_device, 0 },
	{ "end-page-tables-nowhere", page_tables_nowhere, 0 },
	{ "end-no-descriptors-at-all", no_descriptors_at_all, 0 },
};

const struct hostile_suite suite_ends = SUITE("ends", NEED_NOTHING, true, cases);

/*
 * The guest's RAM: which ranges the program may use, and pages for what it needs itself.
 *
 * Memory below 1 MiB is left alone (the boot protocol's tables lie there). Everything below 4 GiB
 * is mapped from the start, one to one; what is above must be mapped before it is used.
 */
#ifndef KIT_PAGES_H
#define KIT_PAGES_H

#include "boot.h"

#define PAGE_BYTES 4096

/* `count` pages in a row, zero, from the beginning of the free memory. The guest ends when there
 * are not enough. */
void *pages_take(uint64_t count);

/* The ranges that are free, in whole pages, behind what was taken. Returns how many; nothing may be
 * taken afterwards. */
unsigned int pages_free_ranges(struct boot_range ranges[BOOT_RANGES_MAX]);

/* Maps memory above 4 GiB, below 512 GiB, by pages of 2 MiB. Takes a page for each GiB. */
void pages_map(uint64_t start, uint64_t bytes);

#endif

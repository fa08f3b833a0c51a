/*
 * What /proc/self/pagemap says of a page: Linux, Documentation/admin-guide/mm/pagemap.rst. One
 * 64-bit word for each page of the process's addresses.
 */
#ifndef MAYFLY_SNAPSHOT_PAGEMAP_H
#define MAYFLY_SNAPSHOT_PAGEMAP_H

#define PAGEMAP_PATH "/proc/self/pagemap"

#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)
#define PAGEMAP_FILE	(1ULL << 61) /* a page of a mapped file, or of shared memory */

#endif

/*
 * What the parts of src/boot share: the open file, the loaded kernel, the memory map, and one
 * function for each thing that is written to guest memory. load.c calls them in turn.
 */
#ifndef BOOT_PARTS_H
#define BOOT_PARTS_H

#include <asm/bootparam.h>

#include "mayfly/boot.h"

/* A kernel or initrd, open for reading: a regular file that is not empty. */
struct boot_file {
	int fd;
	const char *path;
	const char *role; /* "kernel" or "initrd", for messages */
	uint64_t size_bytes;
};

int boot_file_open(struct boot_file *file, const char *role, const char *path, struct error *err);
void boot_file_close(struct boot_file *file);

#define cleanup_boot_file __attribute__((cleanup(boot_file_close)))

/* Reads all of [offset, offset + length); `structure` names it when the file ends before. */
int boot_file_read(const struct boot_file *file, uint64_t offset, void *destination, size_t length,
		   const char *structure, struct error *err);

/* Puts a range of the file, not empty and within it, to guest memory; maps every page that can be
 * mapped. */
int boot_file_load(const struct boot_file *file, struct memory *memory, uint64_t gpa,
		   uint64_t offset, uint64_t length, struct error *err);

/* Sets "<role> <path>: <message>"; the file itself is what is wrong. */
int boot_file_error(const struct boot_file *file, struct error *err, const char *format, ...)
	PRINTF_FORMAT(3, 4);

/* A kernel in guest memory, and what its format says about the rest. */
struct boot_kernel {
	enum boot_protocol protocol; /* the one to use: LINUX or PVH */
	uint64_t entry;		     /* 64-bit for LINUX, 32-bit for PVH */
	uint64_t start; /* [start, end) is the kernel's, with all that it needs before it reads the
			 */
	uint64_t end;	/* memory map */
	uint64_t initrd_limit;	    /* the initrd ends at or below this address */
	size_t cmdline_max_bytes;   /* without the terminating NUL */
	struct setup_header header; /* for the zero page (LINUX) */
};

/* True when the file begins as one: `head` is its first `head_bytes` bytes. */
bool elf_recognize(const uint8_t *head, size_t head_bytes);
bool bzimage_recognize(const uint8_t *head, size_t head_bytes);

/* Each checks everything first and writes to guest memory only when nothing is wrong. */
int elf_load(struct memory *memory, const struct boot_file *file, enum boot_protocol protocol,
	     struct boot_kernel *kernel, struct error *err);
int bzimage_load(struct memory *memory, const struct boot_file *file, enum boot_protocol protocol,
		 struct boot_kernel *kernel, struct error *err);

/* The end of the memory in which a kernel may be placed: that below the MMIO gap. */
static inline uint64_t boot_low_memory_end(const struct memory *memory)
{
	return memory->regions[0].gpa + memory->regions[0].size_bytes;
}

/* Where the initrd lies; a size of 0 says that there is none. */
struct boot_initrd {
	uint64_t gpa;
	uint64_t size_bytes;
};

/* The memory map of E820 and PVH alike: same types, same meaning. */
enum boot_memory_type {
	BOOT_MEMORY_RAM = 1,
	BOOT_MEMORY_RESERVED = 2
};

struct boot_memory_range {
	uint64_t gpa;
	uint64_t size_bytes;
	enum boot_memory_type type;
};

#define BOOT_MEMORY_MAP_MAX 8

/* Fills `map` in ascending order and returns how many entries it has. */
unsigned int boot_memory_map(const struct memory *memory,
			     struct boot_memory_range map[BOOT_MEMORY_MAP_MAX]);

/* Writes the GDT that both protocols start with, and its place to `entry`. */
int boot_write_gdt(struct memory *memory, struct boot_entry *entry, struct error *err);

/* The command line is already at LAYOUT_CMDLINE, `cmdline_bytes` long without its NUL. */
int linux64_write(struct memory *memory, const struct boot_kernel *kernel,
		  const struct boot_initrd *initrd, struct boot_entry *entry, struct error *err);
int pvh_write(struct memory *memory, const struct boot_kernel *kernel,
	      const struct boot_initrd *initrd, struct boot_entry *entry, struct error *err);

/* The platform's tables. -EINVAL when `platform` has more vCPUs or devices than the layout has room
 * for. */
int acpi_write(struct memory *memory, const struct boot_platform *platform, struct error *err);
int mptable_write(struct memory *memory, const struct boot_platform *platform, struct error *err);

#endif

/*
 * How a kernel gets in: loads the kernel and initrd to guest memory, writes what the boot protocol
 * and the platform tables need, and says in which state the boot vCPU must start.
 *
 * Kernels: 64-bit little-endian x86 ELF through the Linux 64-bit protocol
 * (Documentation/arch/x86/boot.rst), the same through PVH when it carries the
 * XEN_ELFNOTE_PHYS32_ENTRY note (xen/include/public/arch-x86/hvm/start_info.h), and bzImage through
 * its 64-bit entry. Tables: ACPI 6.5 hardware-reduced, Intel MP 1.4. Linux also gets a seed for its
 * random numbers (getrandom(2)).
 *
 * Main thread, before the guest runs.
 */
#ifndef MAYFLY_BOOT_H
#define MAYFLY_BOOT_H

#include "mayfly/error.h"
#include "mayfly/layout.h"
#include "mayfly/memory.h"

/* Two windows onto one device, each LAYOUT_VIRTIO_MMIO_BYTES long: see LAYOUT_VIRTIO_MMIO_CMDLINE.
 */
struct boot_virtio_device {
	uint64_t base;	       /* described by the DSDT */
	uint64_t cmdline_base; /* described by virtio_mmio.device= */
	uint32_t irq;
};

/* What the tables describe. */
struct boot_platform {
	unsigned int vcpu_count; /* APIC ids are 0 .. vcpu_count - 1 */
	struct boot_virtio_device virtio[LAYOUT_MAX_VIRTIO_DEVICES];
	unsigned int virtio_count;
};

enum boot_protocol {
	/* PVH for an ELF kernel that carries the note but none of the owner "Linux"; else Linux
	 * 64-bit. */
	BOOT_PROTOCOL_ANY,
	BOOT_PROTOCOL_LINUX, /* Linux 64-bit or refused */
	BOOT_PROTOCOL_PVH,   /* PVH or refused */
};

struct boot_request {
	const char *kernel_path;
	const char *initrd_path;    /* NULL: none */
	const char *cmdline;	    /* as the user gave it; NULL: empty */
	const char *root_parameter; /* "root=... ro" that the drives ask for, after the user's own;
				       NULL: none */
	enum boot_protocol protocol;
};

/* The boot vCPU's first state. The other vCPUs wait for INIT/SIPI. */
struct boot_entry {
	enum boot_protocol protocol; /* the one taken: LINUX or PVH, never ANY */
	uint64_t rip;
	uint64_t rsi; /* Linux: the zero page */
	uint64_t rbx; /* PVH: the start info */
	uint64_t rsp;
	uint64_t cr3; /* Linux: identity page tables, written to guest memory */
	/* A GDT in guest memory: 0x08 32-bit code (PVH), 0x10 64-bit code (Linux), 0x18 data, 0x20
	 * task state. */
	uint64_t gdt_base;
	uint16_t gdt_limit;
	uint64_t kernel_end; /* first byte behind the kernel, for the log */
};

/*
 * Does all of it, in memory that is new (what is to be zero is not written). The message names the
 * file and what is wrong with it: -ENOEXEC or the reason why it cannot be opened or read; guest
 * memory is undefined after a failure. The kernel and initrd files are opened here and closed
 * again; mapped pages stay.
 */
int boot_load(struct memory *memory, const struct boot_request *request,
	      const struct boot_platform *platform, struct boot_entry *entry, struct error *err);

/*
 * Whether boot_load() could open this file, a "kernel" or an "initrd" by its role: it exists, may
 * be read, is a regular file and not empty. Refuses in boot_load()'s own words; never waits.
 * Whether it is a kernel shows only when it is loaded.
 */
int boot_file_check(const char *role, const char *path, struct error *err);

/*
 * The kernel command line as the guest will see it, NUL-terminated in `out` (of `out_bytes`): the
 * user's, the root parameter, and a virtio_mmio.device= for each device that the user's text does
 * not name already (by either of its windows), joined by single spaces. What is added stands before
 * a "--" of the user, which ends the kernel's own parameters. -EINVAL when too long, or when the
 * text holds a control character.
 */
int boot_cmdline_build(const struct boot_request *request, const struct boot_platform *platform,
		       char *out, size_t out_bytes, struct error *err);

#endif

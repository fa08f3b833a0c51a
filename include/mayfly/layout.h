/*
 * The guest's physical memory map, I/O ports and interrupt lines: every fixed number of the machine
 * in one place.
 *
 * Sources: Linux Documentation/arch/x86/boot.rst (zero page, command line), Intel MultiProcessor
 * Specification 1.4 section 4 (MP floating pointer in the EBDA), ACPI 6.5 section 5.2.5.1 (RSDP in
 * 0xE0000-0xFFFFF), IBM PC/AT ports.
 */
#ifndef MAYFLY_LAYOUT_H
#define MAYFLY_LAYOUT_H

/*
 * Low memory, written before the guest runs. What shares page 0 is small; each other item has whole
 * pages of its own. The BIOS data area says where the EBDA is (IBM PC/AT: words at 0x40e and
 * 0x413).
 */
#define LAYOUT_BDA_EBDA_SEGMENT 0x0000040eULL
#define LAYOUT_BDA_MEMORY_KIB	0x00000413ULL
#define LAYOUT_GDT		0x00000500ULL
#define LAYOUT_RANDOM_SEED	0x00000600ULL /* in a struct setup_data */
#define LAYOUT_PVH_START_INFO	0x00006000ULL
#define LAYOUT_ZERO_PAGE	0x00007000ULL
#define LAYOUT_BOOT_STACK	0x00008ff0ULL /* grows down within its page */
#define LAYOUT_PAGE_TABLES	0x00009000ULL /* PML4, PDPT, then up to LAYOUT_PAGE_DIRECTORIES PDs */
#define LAYOUT_PAGE_DIRECTORIES 4
#define LAYOUT_CMDLINE		0x00020000ULL
#define LAYOUT_CMDLINE_BYTES	0x00010000ULL
#define LAYOUT_EBDA		0x0009fc00ULL /* MP table; end of the low RAM in the memory map */
#define LAYOUT_EBDA_BYTES	0x00000400ULL
#define LAYOUT_ACPI		0x000e0000ULL /* RSDP first, the tables behind it */
#define LAYOUT_ACPI_BYTES	0x0001f000ULL
#define LAYOUT_VMGENID		0x000ff000ULL /* the VM generation id, in a page of its own */
#define LAYOUT_HIGH_MEMORY	0x00100000ULL /* RAM from here; kernels are loaded at or above */

/* The 32-bit MMIO gap: [3 GiB, 4 GiB). RAM beyond 3 GiB continues at 4 GiB. */
#define LAYOUT_MMIO_GAP_START	 0xc0000000ULL
#define LAYOUT_MMIO_GAP_END	 0x100000000ULL
#define LAYOUT_BOOT_TIMER	 0xc0000000ULL
#define LAYOUT_VIRTIO_MMIO	 0xc0001000ULL /* device n at + n * LAYOUT_VIRTIO_MMIO_BYTES */
#define LAYOUT_VIRTIO_MMIO_BYTES 0x1000ULL
/*
 * The same devices again, for kernels that find them by virtio_mmio.device= and not by ACPI. The
 * window that a driver acknowledges first owns the device; through the other it then reads as an
 * empty slot (DeviceID 0), which drivers pass over in silence, so that a kernel which looks in both
 * places never sees a device twice.
 */
#define LAYOUT_VIRTIO_MMIO_CMDLINE 0xc0101000ULL
#define LAYOUT_IO_APIC		   0xfec00000ULL
#define LAYOUT_LOCAL_APIC	   0xfee00000ULL
#define LAYOUT_KVM_IDENTITY_MAP	   0xfffbc000ULL /* one page, for VMX without unrestricted guest */
#define LAYOUT_KVM_TSS		   0xfffbd000ULL /* three pages, likewise */

/* I/O ports. */
#define LAYOUT_PORT_I8042_DATA	  0x60
#define LAYOUT_PORT_I8042_COMMAND 0x64
#define LAYOUT_PORT_SERIAL	  0x3f8
#define LAYOUT_PORT_SERIAL_COUNT  8

/* Interrupt lines (GSIs: ISA numbers and IO-APIC pins alike); virtio lines are edge-triggered,
 * active high. */
#define LAYOUT_IRQ_I8042	  1
#define LAYOUT_IRQ_VMGENID	  3 /* a PC's second serial port, which this machine lacks */
#define LAYOUT_IRQ_SERIAL	  4
#define LAYOUT_IRQ_VIRTIO_FIRST	  5
#define LAYOUT_IRQ_VIRTIO_LAST	  23
#define LAYOUT_IO_APIC_PINS	  24
#define LAYOUT_MAX_VIRTIO_DEVICES (LAYOUT_IRQ_VIRTIO_LAST - LAYOUT_IRQ_VIRTIO_FIRST + 1)

#define LAYOUT_MAX_VCPUS 32

#endif

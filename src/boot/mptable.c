/*
 * The MP table: Intel MultiProcessor Specification 1.4, section 4. It tells kernels without ACPI
 * which CPUs there are and how interrupt lines reach the IO-APIC.
 *
 * Both the floating pointer and the configuration table lie in the EBDA's first KiB, where a search
 * looks first (4.1); the BIOS data area says where that is.
 */
#include <string.h>

#include "parts.h"

#define SPEC_REVISION	   4 /* 1.4 */
#define LOCAL_APIC_VERSION 0x14
#define IO_APIC_VERSION	   0x11
#define ISA_BUS_ID	   0
#define BOOT_LOCAL_APIC	   0
#define ALL_LOCAL_APICS	   0xff
/*
 * What KVM's register reads after reset, and what the MADT says. That CPU 0's local APIC has the
 * same number is no conflict: ids had to differ where all APICs arbitrated for one serial bus;
 * these are xAPICs (LOCAL_APIC_VERSION), which have none.
 */
#define IO_APIC_ID  0
#define CASCADE_IRQ 2 /* where the second 8259 joins the first: no device's */

struct mp_floating_pointer {
	char signature[4];
	uint32_t table_gpa;
	uint8_t length; /* in paragraphs of 16 bytes */
	uint8_t revision;
	uint8_t checksum;
	uint8_t features[5]; /* byte 0: 0 says that there is a table; byte 1, bit 7: no IMCR,
				virtual wire */
} __attribute__((packed));

struct mp_table_header {
	char signature[4];
	uint16_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[8];
	char product_id[12];
	uint32_t oem_table_gpa;
	uint16_t oem_table_bytes;
	uint16_t entry_count;
	uint32_t local_apic_gpa;
	uint16_t extended_bytes;
	uint8_t extended_checksum;
	uint8_t reserved;
} __attribute__((packed));

enum mp_entry_type {
	MP_PROCESSOR,
	MP_BUS,
	MP_IO_APIC,
	MP_IO_INTERRUPT,
	MP_LOCAL_INTERRUPT
};

struct mp_processor {
	uint8_t type;
	uint8_t apic_id;
	uint8_t apic_version;
	uint8_t flags;
	uint32_t signature;
	uint32_t features;
	uint32_t reserved[2];
} __attribute__((packed));

#define PROCESSOR_ENABLED   1
#define PROCESSOR_BOOTSTRAP 2
#define PROCESSOR_SIGNATURE 0x600 /* family 6: CPUID tells the truth to those who ask */
#define PROCESSOR_FEATURES  0x201 /* FPU and APIC */

struct mp_bus {
	uint8_t type;
	uint8_t bus_id;
	char name[6];
} __attribute__((packed));

struct mp_io_apic {
	uint8_t type;
	uint8_t apic_id;
	uint8_t apic_version;
	uint8_t flags;
	uint32_t gpa;
} __attribute__((packed));

#define IO_APIC_ENABLED 1

/* IO and local interrupt entries have the same shape; for the latter, apic and pin are the local
 * APIC and its LINT. */
struct mp_interrupt {
	uint8_t type;
	uint8_t kind;
	uint16_t flags;
	uint8_t source_bus;
	uint8_t source_irq;
	uint8_t apic_id;
	uint8_t pin;
} __attribute__((packed));

enum mp_interrupt_kind {
	MP_INT,
	MP_NMI,
	MP_SMI,
	MP_EXT_INT
};

#define INTERRUPT_ACTIVE_HIGH 0x1
#define INTERRUPT_EDGE	      0x4

/* The whole, in the order in which it lies in memory; entries are sorted by type (4.3). */
struct mp_ebda {
	struct mp_floating_pointer pointer;
	struct mp_table_header header;
	uint8_t entries[LAYOUT_MAX_VCPUS * sizeof(struct mp_processor) + sizeof(struct mp_bus) +
			sizeof(struct mp_io_apic) +
			(LAYOUT_IO_APIC_PINS + 2) * sizeof(struct mp_interrupt)];
} __attribute__((packed));

_Static_assert(sizeof(struct mp_floating_pointer) == 16, "4.1");
_Static_assert(sizeof(struct mp_table_header) == 44, "4.2");
_Static_assert(sizeof(struct mp_processor) == 20, "4.3.1");
_Static_assert(sizeof(struct mp_interrupt) == 8, "4.3.4");
_Static_assert(sizeof(struct mp_ebda) <= LAYOUT_EBDA_BYTES,
	       "the MP table of the largest guest fits into the EBDA");

static uint8_t checksum(const void *start, size_t length)
{
	const uint8_t *bytes = start;
	uint8_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)-sum;
}

static void add_entry(struct mp_ebda *ebda, const void *entry, size_t bytes)
{
	memcpy((uint8_t *)&ebda->header + ebda->header.length, entry, bytes);
	ebda->header.length = (uint16_t)(ebda->header.length + bytes);
	ebda->header.entry_count++;
}

static void add_processors(struct mp_ebda *ebda, unsigned int vcpu_count)
{
	for (unsigned int i = 0; i < vcpu_count; i++) {
		struct mp_processor processor = {
			.type = MP_PROCESSOR,
			.apic_id = (uint8_t)i,
			.apic_version = LOCAL_APIC_VERSION,
			.flags = i == 0 ? PROCESSOR_ENABLED | PROCESSOR_BOOTSTRAP
					: PROCESSOR_ENABLED,
			.signature = PROCESSOR_SIGNATURE,
			.features = PROCESSOR_FEATURES,
		};

		add_entry(ebda, &processor, sizeof(processor));
	}
}

/* Line n is pin n. Lines from 16 on are no ISA bus's, but this is how a kernel learns that they are
 * there. */
static void add_interrupts(struct mp_ebda *ebda)
{
	struct mp_interrupt interrupt = { .type = MP_IO_INTERRUPT,
					  .kind = MP_INT,
					  .source_bus = ISA_BUS_ID,
					  .flags = INTERRUPT_EDGE | INTERRUPT_ACTIVE_HIGH,
					  .apic_id = IO_APIC_ID };

	for (uint8_t pin = 0; pin < LAYOUT_IO_APIC_PINS; pin++) {
		if (pin == CASCADE_IRQ)
			continue;
		interrupt.source_irq = pin;
		interrupt.pin = pin;
		add_entry(ebda, &interrupt, sizeof(interrupt));
	}
	/* 3.6.2.2: the 8259s interrupt the boot processor only; two could not both answer them. */
	interrupt = (struct mp_interrupt) { .type = MP_LOCAL_INTERRUPT,
					    .kind = MP_EXT_INT,
					    .source_bus = ISA_BUS_ID,
					    .apic_id = BOOT_LOCAL_APIC,
					    .pin = 0 };
	add_entry(ebda, &interrupt, sizeof(interrupt));
	interrupt.kind = MP_NMI;
	interrupt.apic_id = ALL_LOCAL_APICS;
	interrupt.pin = 1;
	add_entry(ebda, &interrupt, sizeof(interrupt));
}

int mptable_write(struct memory *memory, const struct boot_platform *platform, struct error *err)
{
	const struct mp_bus bus = { .type = MP_BUS,
				    .bus_id = ISA_BUS_ID,
				    .name = { 'I', 'S', 'A', ' ', ' ', ' ' } };
	const struct mp_io_apic io_apic = { .type = MP_IO_APIC,
					    .apic_id = IO_APIC_ID,
					    .apic_version = IO_APIC_VERSION,
					    .flags = IO_APIC_ENABLED,
					    .gpa = (uint32_t)LAYOUT_IO_APIC };
	const uint16_t ebda_segment = (uint16_t)(LAYOUT_EBDA >> 4);
	const uint16_t memory_kib = (uint16_t)(LAYOUT_EBDA / KIB);
	struct mp_ebda ebda;

	if (platform->vcpu_count > LAYOUT_MAX_VCPUS)
		return error_set(err, EINVAL, "%u vCPUs do not fit into the MP table",
				 platform->vcpu_count);
	memset(&ebda, 0, sizeof(ebda));
	memcpy(ebda.header.signature, "PCMP", sizeof(ebda.header.signature));
	memcpy(ebda.header.oem_id, "MAYFLY  ", sizeof(ebda.header.oem_id));
	memcpy(ebda.header.product_id, "MICROVM     ", sizeof(ebda.header.product_id));
	ebda.header.length = sizeof(ebda.header);
	ebda.header.revision = SPEC_REVISION;
	ebda.header.local_apic_gpa = (uint32_t)LAYOUT_LOCAL_APIC;
	add_processors(&ebda, platform->vcpu_count);
	add_entry(&ebda, &bus, sizeof(bus));
	add_entry(&ebda, &io_apic, sizeof(io_apic));
	add_interrupts(&ebda);
	ebda.header.checksum = checksum(&ebda.header, ebda.header.length);

	memcpy(ebda.pointer.signature, "_MP_", sizeof(ebda.pointer.signature));
	ebda.pointer.table_gpa = (uint32_t)(LAYOUT_EBDA + offsetof(struct mp_ebda, header));
	ebda.pointer.length = sizeof(ebda.pointer) / 16;
	ebda.pointer.revision = SPEC_REVISION;
	ebda.pointer.checksum = checksum(&ebda.pointer, sizeof(ebda.pointer));

	if (!memory_write(memory, LAYOUT_EBDA, &ebda, sizeof(ebda.pointer) + ebda.header.length) ||
	    !memory_write(memory, LAYOUT_BDA_EBDA_SEGMENT, &ebda_segment, sizeof(ebda_segment)) ||
	    !memory_write(memory, LAYOUT_BDA_MEMORY_KIB, &memory_kib, sizeof(memory_kib)))
		return error_set(err, EINVAL, "the guest has no memory at 0x%llx for its MP table",
				 LAYOUT_EBDA);
	return 0;
}

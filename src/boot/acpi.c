/*
 * The ACPI tables: ACPI 6.5, 5.2. A hardware-reduced platform (4.1): no power-management hardware,
 * no SCI; what the guest finds here are its CPUs and interrupt controllers (MADT), how to reset
 * (FADT), its devices and its generation id (DSDT; mayfly/vmgenid.h).
 *
 *   RSDP -> XSDT -> FADT -> DSDT
 *                -> MADT
 *
 * All of it is made in a buffer and written at once to LAYOUT_ACPI, where the RSDP is found by
 * scanning, too.
 */
#include <stdio.h>
#include <string.h>

#include "aml.h"
#include "parts.h"

#define TABLES_BYTES_MAX 8192
#define TABLE_ALIGNMENT	 16

#define OEM_ID	     "MAYFLY"
#define OEM_TABLE_ID "MICROVM " /* 8 characters */
#define CREATOR_ID   "MFLY"

struct acpi_rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt_gpa; /* ACPI 1.0's, not there */
	uint32_t length;
	uint64_t xsdt_gpa;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct acpi_generic_address {
	uint8_t space;
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access_size;
	uint64_t address;
} __attribute__((packed));

#define SPACE_SYSTEM_IO	 1
#define ACCESS_SIZE_BYTE 1

/* 5.2.9. The blocks of registers that a hardware-reduced platform lacks are left out by name. */
struct acpi_fadt {
	struct acpi_header header;
	uint32_t firmware_control;
	uint32_t dsdt_gpa_32;
	uint8_t fixed_hardware_1[109 - 44];
	uint16_t boot_architecture;
	uint8_t reserved;
	uint32_t flags;
	struct acpi_generic_address reset_register;
	uint8_t reset_value;
	uint16_t arm_boot_architecture;
	uint8_t minor_revision;
	uint64_t firmware_control_64;
	uint64_t dsdt_gpa;
	uint8_t fixed_hardware_2[268 - 148];
	char hypervisor_vendor[8];
} __attribute__((packed));

#define FADT_REVISION	    6
#define FADT_MINOR_REVISION 5

#define FADT_WBINVD		 (1U << 0)
#define FADT_POWER_BUTTON_ABSENT (1U << 4) /* as a fixed feature */
#define FADT_SLEEP_BUTTON_ABSENT (1U << 5)
#define FADT_RESET_REGISTER	 (1U << 10)
#define FADT_HARDWARE_REDUCED	 (1U << 20)

#define BOOT_LEGACY_DEVICES (1U << 0)
#define BOOT_I8042	    (1U << 1)
#define BOOT_NO_VGA	    (1U << 2)
#define BOOT_NO_CMOS_CLOCK  (1U << 5)

#define RESET_VALUE 0xfe /* the i8042's command that pulses the processor's reset line */

struct acpi_madt {
	struct acpi_header header;
	uint32_t local_apic_gpa;
	uint32_t flags;
} __attribute__((packed));

#define MADT_REVISION  6
#define MADT_DUAL_8259 1U

struct acpi_madt_local_apic {
	uint8_t type; /* 0 */
	uint8_t length;
	uint8_t processor_uid;
	uint8_t apic_id;
	uint32_t flags;
} __attribute__((packed));

#define LOCAL_APIC_ENABLED 1U

struct acpi_madt_io_apic {
	uint8_t type; /* 1 */
	uint8_t length;
	uint8_t io_apic_id;
	uint8_t reserved;
	uint32_t gpa;
	uint32_t gsi_base;
} __attribute__((packed));

struct acpi_madt_local_apic_nmi {
	uint8_t type; /* 4 */
	uint8_t length;
	uint8_t processor_uid; /* 0xff: all */
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

#define NOTIFY_ID_CHANGED 0x80 /* the first value that is the device's own: 5.6.6 */

/* The tables in the making; offsets are from LAYOUT_ACPI. */
struct tables {
	struct aml out;
	uint8_t bytes[TABLES_BYTES_MAX];
};

static uint8_t checksum(const uint8_t *bytes, size_t length)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)-sum;
}

static void set_header(struct acpi_header *header, const char *signature, uint8_t revision)
{
	memcpy(header->signature, signature, sizeof(header->signature));
	header->revision = revision;
	memcpy(header->oem_id, OEM_ID, sizeof(header->oem_id));
	memcpy(header->oem_table_id, OEM_TABLE_ID, sizeof(header->oem_table_id));
	header->oem_revision = 1;
	memcpy(header->creator_id, CREATOR_ID, sizeof(header->creator_id));
	header->creator_revision = 1;
}

/* Every table begins at a multiple of 16. */
static size_t begin_table(struct tables *tables)
{
	while (!tables->out.overflow && tables->out.used % TABLE_ALIGNMENT != 0)
		aml_byte(&tables->out, 0);
	return tables->out.used;
}

/* Sets the length and the checksum of the table that was begun at `offset`; returns its address. */
static uint64_t end_table(struct tables *tables, size_t offset)
{
	struct acpi_header header;
	size_t length = tables->out.used - offset;

	if (tables->out.overflow || length < sizeof(header))
		return 0;
	memcpy(&header, tables->bytes + offset, sizeof(header));
	header.length = (uint32_t)length;
	header.checksum = 0;
	memcpy(tables->bytes + offset, &header, sizeof(header));
	header.checksum = checksum(tables->bytes + offset, length);
	memcpy(tables->bytes + offset, &header, sizeof(header));
	return LAYOUT_ACPI + offset;
}

static void add_serial(struct aml *aml)
{
	size_t device = aml_open_device(aml, "COM1");
	size_t resources;

	aml_name_eisa_id(aml, "_HID", "PNP0501");
	aml_name_integer(aml, "_UID", 0);
	resources = aml_open_resources(aml);
	aml_resource_io(aml, LAYOUT_PORT_SERIAL, LAYOUT_PORT_SERIAL_COUNT);
	aml_resource_interrupt(aml, LAYOUT_IRQ_SERIAL);
	aml_close_resources(aml, resources);
	aml_close(aml, device);
}

static void add_keyboard(struct aml *aml)
{
	size_t device = aml_open_device(aml, "KBD_");
	size_t resources;

	aml_name_eisa_id(aml, "_HID", "PNP0303");
	resources = aml_open_resources(aml);
	aml_resource_io(aml, LAYOUT_PORT_I8042_DATA, 1);
	aml_resource_io(aml, LAYOUT_PORT_I8042_COMMAND, 1);
	aml_resource_interrupt(aml, LAYOUT_IRQ_I8042);
	aml_close_resources(aml, resources);
	aml_close(aml, device);
}

/*
 * The VM generation id, by the names that Microsoft's paper gives it, and the Generic Event Device
 * (5.6.9) that says when it has changed: hardware-reduced platforms have no other general-purpose
 * event. Neither has registers.
 */
static void add_generation_id(struct aml *aml)
{
	size_t device = aml_open_device(aml, "VGEN"), resources, method;

	aml_name_string(aml, "_HID", "MFLY0001"); /* the paper leaves it to the vendor */
	aml_name_string(aml, "_CID", "VM_Gen_Counter");
	aml_name_string(aml, "_DDN", "VM_Gen_Counter");
	aml_name_address(aml, "ADDR", LAYOUT_VMGENID);
	aml_close(aml, device);

	device = aml_open_device(aml, "GED_");
	aml_name_string(aml, "_HID", "ACPI0013");
	aml_name_integer(aml, "_UID", 0);
	resources = aml_open_resources(aml);
	aml_resource_interrupt(aml, LAYOUT_IRQ_VMGENID);
	aml_close_resources(aml, resources);
	method = aml_open_method(aml, "_EVT",
				 1); /* the argument, the interrupt, is always that one */
	aml_notify(aml, "VGEN", NOTIFY_ID_CHANGED);
	aml_close(aml, method);
	aml_close(aml, device);
}

static void add_virtio(struct aml *aml, unsigned int number,
		       const struct boot_virtio_device *virtio)
{
	size_t device, resources;
	char name[8];

	snprintf(name, sizeof(name), "V%03u", number % 1000);
	device = aml_open_device(aml, name);
	/* "LNRO0005" is what Linux and others agreed on for virtio-mmio. */
	aml_name_string(aml, "_HID", "LNRO0005");
	aml_name_integer(aml, "_UID", (uint8_t)number);
	aml_name_integer(aml, "_CCA", 1); /* DMA is cache-coherent */
	resources = aml_open_resources(aml);
	aml_resource_memory(aml, (uint32_t)virtio->base, (uint32_t)LAYOUT_VIRTIO_MMIO_BYTES);
	aml_resource_interrupt(aml, virtio->irq);
	aml_close_resources(aml, resources);
	aml_close(aml, device);
}

static uint64_t add_dsdt(struct tables *tables, const struct boot_platform *platform)
{
	size_t offset = begin_table(tables);
	struct acpi_header header = { 0 };
	size_t scope;

	set_header(&header, "DSDT", 2); /* integers have 64 bits from revision 2 on */
	aml_bytes(&tables->out, &header, sizeof(header));
	scope = aml_open_scope(&tables->out, "\\_SB_");
	add_serial(&tables->out);
	add_keyboard(&tables->out);
	add_generation_id(&tables->out);
	for (unsigned int i = 0; i < platform->virtio_count; i++)
		add_virtio(&tables->out, i, &platform->virtio[i]);
	aml_close(&tables->out, scope);
	return end_table(tables, offset);
}

static uint64_t add_fadt(struct tables *tables, uint64_t dsdt_gpa)
{
	size_t offset = begin_table(tables);
	struct acpi_fadt fadt = {
		.dsdt_gpa_32 = (uint32_t)dsdt_gpa,
		.boot_architecture =
			BOOT_LEGACY_DEVICES | BOOT_I8042 | BOOT_NO_VGA | BOOT_NO_CMOS_CLOCK,
		.flags = FADT_WBINVD | FADT_POWER_BUTTON_ABSENT | FADT_SLEEP_BUTTON_ABSENT |
			 FADT_RESET_REGISTER | FADT_HARDWARE_REDUCED,
		.reset_register = { .space = SPACE_SYSTEM_IO,
				    .bit_width = 8,
				    .access_size = ACCESS_SIZE_BYTE,
				    .address = LAYOUT_PORT_I8042_COMMAND },
		.reset_value = RESET_VALUE,
		.minor_revision = FADT_MINOR_REVISION,
		.dsdt_gpa = dsdt_gpa,
		.hypervisor_vendor = "MAYFLY",
	};

	_Static_assert(sizeof(fadt) == 276, "the FADT of ACPI 6.5 has 276 bytes");
	_Static_assert(offsetof(struct acpi_fadt, boot_architecture) == 109,
		       "5.2.9, IAPC_BOOT_ARCH");
	_Static_assert(offsetof(struct acpi_fadt, reset_register) == 116, "5.2.9, RESET_REG");
	_Static_assert(offsetof(struct acpi_fadt, dsdt_gpa) == 140, "5.2.9, X_DSDT");
	set_header(&fadt.header, "FACP", FADT_REVISION);
	aml_bytes(&tables->out, &fadt, sizeof(fadt));
	return end_table(tables, offset);
}

static uint64_t add_madt(struct tables *tables, const struct boot_platform *platform)
{
	const struct acpi_madt_io_apic io_apic = { .type = 1,
						   .length = sizeof(io_apic),
						   .io_apic_id = 0,
						   .gpa = (uint32_t)LAYOUT_IO_APIC };
	const struct acpi_madt_local_apic_nmi nmi = {
		.type = 4, .length = sizeof(nmi), .processor_uid = 0xff, .lint = 1
	};
	size_t offset = begin_table(tables);
	/* The two 8259s are there: KVM has them, and they are silent unless the guest programs
	 * them. */
	struct acpi_madt madt = { .local_apic_gpa = (uint32_t)LAYOUT_LOCAL_APIC,
				  .flags = MADT_DUAL_8259 };

	set_header(&madt.header, "APIC", MADT_REVISION);
	aml_bytes(&tables->out, &madt, sizeof(madt));
	for (unsigned int i = 0; i < platform->vcpu_count; i++) {
		struct acpi_madt_local_apic local_apic = { .type = 0,
							   .length = sizeof(local_apic),
							   .processor_uid = (uint8_t)i,
							   .apic_id = (uint8_t)i,
							   .flags = LOCAL_APIC_ENABLED };

		aml_bytes(&tables->out, &local_apic, sizeof(local_apic));
	}
	aml_bytes(&tables->out, &io_apic, sizeof(io_apic));
	aml_bytes(&tables->out, &nmi, sizeof(nmi));
	return end_table(tables, offset);
}

static uint64_t add_xsdt(struct tables *tables, uint64_t fadt_gpa, uint64_t madt_gpa)
{
	struct {
		struct acpi_header header;
		uint64_t tables[2];
	} __attribute__((packed)) xsdt = { .tables = { fadt_gpa, madt_gpa } };
	size_t offset = begin_table(tables);

	set_header(&xsdt.header, "XSDT", 1);
	aml_bytes(&tables->out, &xsdt, sizeof(xsdt));
	return end_table(tables, offset);
}

static void set_rsdp(struct tables *tables, uint64_t xsdt_gpa)
{
	struct acpi_rsdp rsdp = { .revision = 2, .length = sizeof(rsdp), .xsdt_gpa = xsdt_gpa };

	memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
	memcpy(rsdp.oem_id, OEM_ID, sizeof(rsdp.oem_id));
	rsdp.checksum = checksum((const uint8_t *)&rsdp, offsetof(struct acpi_rsdp, length));
	rsdp.extended_checksum = checksum((const uint8_t *)&rsdp, sizeof(rsdp));
	memcpy(tables->bytes, &rsdp, sizeof(rsdp));
}

int acpi_write(struct memory *memory, const struct boot_platform *platform, struct error *err)
{
	struct tables tables;
	uint64_t dsdt, fadt, madt;

	_Static_assert(TABLES_BYTES_MAX <= LAYOUT_ACPI_BYTES, "the tables fit into their place");
	tables.out = (struct aml) { .bytes = tables.bytes,
				    .used = sizeof(struct acpi_rsdp),
				    .capacity = sizeof(tables.bytes) };
	dsdt = add_dsdt(&tables, platform);
	fadt = add_fadt(&tables, dsdt);
	madt = add_madt(&tables, platform);
	set_rsdp(&tables, add_xsdt(&tables, fadt, madt));
	if (tables.out.overflow)
		return error_set(
			err, EINVAL,
			"the ACPI tables of %u vCPUs and %u devices need more than %d bytes",
			platform->vcpu_count, platform->virtio_count, TABLES_BYTES_MAX);
	if (!memory_write(memory, LAYOUT_ACPI, tables.bytes, tables.out.used))
		return error_set(err, EINVAL,
				 "the guest has no memory at 0x%llx for its ACPI tables",
				 LAYOUT_ACPI);
	return 0;
}

#include <glob.h>
#include <sys/wait.h>

#include "boot_helper.h"

/* The tables as a guest finds them: by the RSDP's signature, then by their addresses. */
struct tables {
	struct memory memory;
	const uint8_t *rsdp, *xsdt, *fadt, *madt, *dsdt;
};

static uint32_t get32(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static uint64_t get64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static uint8_t sum(const uint8_t *bytes, size_t length)
{
	uint8_t total = 0;

	for (size_t i = 0; i < length; i++)
		total = (uint8_t)(total + bytes[i]);
	return total;
}

/* The table at `gpa`: whole, in the place reserved for tables, checksum right. */
static const uint8_t *table_at(const struct memory *memory, uint64_t gpa, const char *signature)
{
	const uint8_t *table = memory_span(memory, gpa, 36);
	uint32_t length;

	cr_assert(table);
	cr_assert_eq(memcmp(table, signature, 4), 0, "%.4s is not %s", (const char *)table,
		     signature);
	length = get32(table + 4);
	cr_assert_geq(gpa, LAYOUT_ACPI);
	cr_assert_leq(gpa + length, LAYOUT_ACPI + LAYOUT_ACPI_BYTES);
	cr_assert_eq(gpa % 16, 0);
	cr_assert_eq(sum(table, length), 0, "checksum of %s", signature);
	cr_assert_eq(memcmp(table + 10, "MAYFLYMICROVM ", 14), 0);
	return table;
}

static struct tables make_tables(unsigned int vcpu_count, unsigned int virtio_count)
{
	struct tables tables = { .memory = make_memory(16 * MIB) };
	struct boot_platform platform = make_platform(vcpu_count, virtio_count);
	const struct memory *memory = &tables.memory;
	struct error err = { 0 };

	cr_assert_eq(acpi_write(&tables.memory, &platform, &err), 0, "%s", err.message);
	tables.rsdp = memory_span(memory, LAYOUT_ACPI, 36);
	cr_assert_eq(memcmp(tables.rsdp, "RSD PTR ", 8), 0);
	cr_assert_eq(sum(tables.rsdp, 20), 0, "ACPI 1.0's checksum of the RSDP");
	cr_assert_eq(sum(tables.rsdp, 36), 0, "extended checksum of the RSDP");
	cr_assert_eq(tables.rsdp[15], 2);
	cr_assert_eq(get32(tables.rsdp + 16), 0, "no RSDT");
	cr_assert_eq(get32(tables.rsdp + 20), 36);
	tables.xsdt = table_at(memory, get64(tables.rsdp + 24), "XSDT");
	cr_assert_eq(get32(tables.xsdt + 4), 36 + 2 * 8);
	tables.fadt = table_at(memory, get64(tables.xsdt + 36), "FACP");
	tables.madt = table_at(memory, get64(tables.xsdt + 44), "APIC");
	tables.dsdt = table_at(memory, get64(tables.fadt + 140), "DSDT");
	return tables;
}

Test(boot_acpi, the_platform_is_hardware_reduced_and_resets_by_the_i8042)
{
	struct tables tables = make_tables(1, 1);
	const uint8_t *fadt = tables.fadt;

	cr_assert_eq(get32(fadt + 4), 276);
	cr_assert_eq(fadt[8], 6);
	cr_assert_eq(fadt[131], 5);
	cr_assert_eq(get32(fadt + 40), (uint32_t)get64(fadt + 140),
		     "both addresses of the DSDT are the same");
	cr_assert_eq(get32(fadt + 112) & (1U << 20), 1U << 20, "HW_REDUCED_ACPI");
	cr_assert_eq(get32(fadt + 112) & (1U << 10), 1U << 10, "RESET_REG_SUP");
	cr_assert_eq(fadt[109] & 2, 2, "8042");
	cr_assert_eq(fadt[116], 1, "system I/O");
	cr_assert_eq(fadt[117], 8, "bits");
	cr_assert_eq(fadt[119], 1, "byte access");
	cr_assert_eq(get64(fadt + 120), 0x64);
	cr_assert_eq(fadt[128], 0xfe);
	memory_destroy(&tables.memory);
}

Test(boot_acpi, the_madt_has_every_cpu_once_and_the_io_apic)
{
	for (unsigned int vcpu_count = 1; vcpu_count <= LAYOUT_MAX_VCPUS; vcpu_count++) {
		struct tables tables = make_tables(vcpu_count, 0);
		const uint8_t *madt = tables.madt, *end = madt + get32(madt + 4);
		unsigned int cpus = 0, io_apics = 0, nmis = 0;

		cr_assert_eq(get32(madt + 36), LAYOUT_LOCAL_APIC);
		for (const uint8_t *entry = madt + 44; entry < end; entry += entry[1]) {
			cr_assert_geq(entry[1], 6);
			switch (entry[0]) {
			case 0:
				cr_assert_eq(entry[1], 8);
				cr_assert_eq(entry[2], cpus, "processor UID");
				cr_assert_eq(entry[3], cpus, "APIC id");
				cr_assert_eq(get32(entry + 4), 1, "enabled");
				cpus++;
				break;
			case 1:
				cr_assert_eq(entry[1], 12);
				cr_assert_eq(get32(entry + 4), LAYOUT_IO_APIC);
				cr_assert_eq(get32(entry + 8), 0, "GSI base");
				io_apics++;
				break;
			case 4:
				cr_assert_eq(entry[1], 6);
				cr_assert_eq(entry[2], 0xff, "of all processors");
				cr_assert_eq(entry[5], 1, "LINT1");
				nmis++;
				break;
			default:
				cr_assert_fail("entry of type %u", entry[0]);
			}
		}
		cr_assert_eq(cpus, vcpu_count);
		cr_assert_eq(io_apics, 1);
		cr_assert_eq(nmis, 1);
		memory_destroy(&tables.memory);
	}
}

/* Byte by byte, as ACPI 6.5 sections 20.2 and 6.4 encode it. */
Test(boot_acpi, the_dsdt_of_one_device_is_as_the_standard_encodes_it)
{
	/* clang-format off */
	static const uint8_t expected[] = {
		0x10, 0x43, 0x14, '\\', '_', 'S', 'B', '_', /* Scope, 0x143 bytes */
		0x5b, 0x82, 0x31, 'C', 'O', 'M', '1',
		0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x05, 0x01, /* PNP0501 */
		0x08, '_', 'U', 'I', 'D', 0x00,
		0x08, '_', 'C', 'R', 'S', 0x11, 0x16, 0x0a, 0x13, /* Buffer of 19 bytes */
		0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08, /* IO (0x3f8, 8 ports) */
		0x89, 0x06, 0x00, 0x03, 0x01, 0x04, 0x00, 0x00, 0x00, /* Interrupt (consumer, edge) { 4 } */
		0x79, 0x00,
		0x5b, 0x82, 0x33, 'K', 'B', 'D', '_',
		0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x03, 0x03, /* PNP0303 */
		0x08, '_', 'C', 'R', 'S', 0x11, 0x1e, 0x0a, 0x1b,
		0x47, 0x01, 0x60, 0x00, 0x60, 0x00, 0x01, 0x01,
		0x47, 0x01, 0x64, 0x00, 0x64, 0x00, 0x01, 0x01,
		0x89, 0x06, 0x00, 0x03, 0x01, 0x01, 0x00, 0x00, 0x00,
		0x79, 0x00,
		0x5b, 0x82, 0x41, 0x05, 'V', 'G', 'E', 'N',
		0x08, '_', 'H', 'I', 'D', 0x0d, 'M', 'F', 'L', 'Y', '0', '0', '0', '1', 0x00,
		0x08, '_', 'C', 'I', 'D', 0x0d, 'V', 'M', '_', 'G', 'e', 'n', '_', 'C', 'o', 'u', 'n', 't', 'e', 'r', 0x00,
		0x08, '_', 'D', 'D', 'N', 0x0d, 'V', 'M', '_', 'G', 'e', 'n', '_', 'C', 'o', 'u', 'n', 't', 'e', 'r', 0x00,
		0x08, 'A', 'D', 'D', 'R', 0x12, 0x0c, 0x02, /* Package of two */
		0x0c, 0x00, 0xf0, 0x0f, 0x00, 0x0c, 0x00, 0x00, 0x00, 0x00, /* 0xff000 */
		0x5b, 0x82, 0x3c, 'G', 'E', 'D', '_',
		0x08, '_', 'H', 'I', 'D', 0x0d, 'A', 'C', 'P', 'I', '0', '0', '1', '3', 0x00,
		0x08, '_', 'U', 'I', 'D', 0x00,
		0x08, '_', 'C', 'R', 'S', 0x11, 0x0e, 0x0a, 0x0b,
		0x89, 0x06, 0x00, 0x03, 0x01, 0x03, 0x00, 0x00, 0x00,
		0x79, 0x00,
		0x14, 0x0d, '_', 'E', 'V', 'T', 0x09, /* Method (one argument, serialized) */
		0x86, 'V', 'G', 'E', 'N', 0x0a, 0x80, /* Notify (VGEN, 0x80) */
		0x5b, 0x82, 0x41, 0x04, 'V', '0', '0', '0', /* 0x41 bytes: a length of two bytes */
		0x08, '_', 'H', 'I', 'D', 0x0d, 'L', 'N', 'R', 'O', '0', '0', '0', '5', 0x00,
		0x08, '_', 'U', 'I', 'D', 0x00,
		0x08, '_', 'C', 'C', 'A', 0x01,
		0x08, '_', 'C', 'R', 'S', 0x11, 0x1a, 0x0a, 0x17,
		0x86, 0x09, 0x00, 0x01, 0x00, 0x10, 0x00, 0xc0, 0x00, 0x10, 0x00, 0x00, /* Memory32Fixed */
		0x89, 0x06, 0x00, 0x03, 0x01, 0x05, 0x00, 0x00, 0x00,
		0x79, 0x00,
	};
	/* clang-format on */
	struct tables tables = make_tables(1, 1);

	cr_assert_eq(get32(tables.dsdt + 4), 36 + sizeof(expected));
	cr_assert_eq(tables.dsdt[8], 2, "64-bit integers");
	for (size_t i = 0; i < sizeof(expected); i++)
		cr_assert_eq(tables.dsdt[36 + i], expected[i], "byte %zu is 0x%02x, not 0x%02x", i,
			     tables.dsdt[36 + i], expected[i]);
	memory_destroy(&tables.memory);
}

Test(boot_acpi, the_largest_machine_fits_and_has_every_device)
{
	struct tables tables = make_tables(LAYOUT_MAX_VCPUS, LAYOUT_MAX_VIRTIO_DEVICES);
	const uint8_t *end = tables.dsdt + get32(tables.dsdt + 4);
	unsigned int found = 0;

	for (const uint8_t *aml = tables.dsdt; aml + 12 <= end; aml++) {
		/* Memory32Fixed, with the interrupt behind it. */
		if (memcmp(aml, "\x86\x09\x00\x01", 4) != 0)
			continue;
		cr_assert_eq(get32(aml + 4), LAYOUT_VIRTIO_MMIO + found * LAYOUT_VIRTIO_MMIO_BYTES);
		cr_assert_eq(get32(aml + 8), LAYOUT_VIRTIO_MMIO_BYTES);
		cr_assert_eq(get32(aml + 17), LAYOUT_IRQ_VIRTIO_FIRST + found);
		found++;
	}
	cr_assert_eq(found, LAYOUT_MAX_VIRTIO_DEVICES);
	memory_destroy(&tables.memory);
}

/* Runs "iasl <option> <file>" in `directory`; its output goes to the file "log" there. */
static int run_iasl(const char *directory, const char *option, const char *file)
{
	int status = -1;
	pid_t child = fork();

	cr_assert_geq(child, 0);
	if (child == 0) {
		int log;

		if (chdir(directory) < 0)
			_exit(126);
		log = open("log", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (log < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
			_exit(126);
		execlp("iasl", "iasl", option, file, (char *)NULL);
		_exit(127);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static char *read_text(const char *directory, const char *name)
{
	char path[64], *text = calloc(1, 65536);
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "re");
	cr_assert(file, "%s", path);
	cr_assert_gt(fread(text, 1, 65535, file), 0);
	fclose(file);
	return text;
}

/* Disassembles the table, compiles the result again, and returns the disassembly. */
static char *disassemble(const char *directory, const char *name, const uint8_t *table)
{
	char path[64], source[32], binary[32], *text, *log;
	FILE *file;
	int status;

	snprintf(binary, sizeof(binary), "%s.dat", name);
	snprintf(source, sizeof(source), "%s.dsl", name);
	snprintf(path, sizeof(path), "%s/%s", directory, binary);
	file = fopen(path, "we");
	cr_assert(file);
	cr_assert_eq(fwrite(table, get32(table + 4), 1, file), 1);
	fclose(file);
	status = run_iasl(directory, "-d", binary);
	if (status == 127)
		cr_skip_test("iasl is not installed (package acpica-tools)");
	log = read_text(directory, "log");
	cr_assert_eq(status, 0, "%s: %s", name, log);
	cr_assert(!strstr(log, "Error") && !strstr(log, "Warning"), "%s: %s", name, log);
	free(log);
	text = read_text(directory, source);
	status = run_iasl(directory, "-pagain", source);
	log = read_text(directory, "log");
	cr_assert_eq(status, 0, "%s: %s", name, log);
	cr_assert(strstr(log, "0 Errors, 0 Warnings, 0 Remarks"), "%s: %s", name, log);
	free(log);
	return text;
}

static void remove_directory(const char *directory)
{
	char pattern[64];
	glob_t found;

	snprintf(pattern, sizeof(pattern), "%s/*", directory);
	if (glob(pattern, 0, NULL, &found) == 0) {
		for (size_t i = 0; i < found.gl_pathc; i++)
			unlink(found.gl_pathv[i]);
		globfree(&found);
	}
	rmdir(directory);
}

static unsigned int occurrences(const char *text, const char *wanted)
{
	unsigned int count = 0;

	while ((text = strstr(text, wanted))) {
		count++;
		text++;
	}
	return count;
}

/* ACPICA is the interpreter of Linux, FreeBSD and others: what it finds is what they find. */
Test(boot_acpi, acpica_reads_the_tables_without_complaint)
{
	struct tables tables = make_tables(LAYOUT_MAX_VCPUS, LAYOUT_MAX_VIRTIO_DEVICES);
	char directory[] = "/tmp/mayfly-acpi-XXXXXX";
	char *text;

	cr_assert(mkdtemp(directory));
	text = disassemble(directory, "dsdt", tables.dsdt);
	cr_assert_eq(occurrences(text, "Name (_HID, \"LNRO0005\")"), LAYOUT_MAX_VIRTIO_DEVICES);
	cr_assert_eq(occurrences(text, "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive"),
		     LAYOUT_MAX_VIRTIO_DEVICES + 3);
	cr_assert_eq(occurrences(text, "Name (_CID, \"VM_Gen_Counter\")"), 1);
	cr_assert_eq(occurrences(text, "Name (_HID, \"ACPI0013\""), 1);
	cr_assert_eq(occurrences(text, "Method (_EVT, 1, Serialized)"), 1);
	cr_assert_eq(occurrences(text, "Notify (VGEN, 0x80)"), 1);
	cr_assert_eq(occurrences(text, "0x000FF000,"), 1, "where the id lies");
	cr_assert_eq(occurrences(text, "EisaId (\"PNP0501\")"), 1);
	cr_assert_eq(occurrences(text, "EisaId (\"PNP0303\")"), 1);
	for (unsigned int i = 0; i < LAYOUT_MAX_VIRTIO_DEVICES; i++) {
		char address[48], interrupt[16];

		snprintf(address, sizeof(address), "0x%08llX,         // Address Base",
			 LAYOUT_VIRTIO_MMIO + i * LAYOUT_VIRTIO_MMIO_BYTES);
		snprintf(interrupt, sizeof(interrupt), "0x%08X,", LAYOUT_IRQ_VIRTIO_FIRST + i);
		cr_assert_eq(occurrences(text, address), 1, "%s", address);
		cr_assert_eq(occurrences(text, interrupt), 1, "%s", interrupt);
	}
	free(text);
	text = disassemble(directory, "facp", tables.fadt);
	cr_assert(strstr(text, "Hardware Reduced (V5) : 1"));
	cr_assert(strstr(text, "Reset Register Supported (V2) : 1"));
	free(text);
	text = disassemble(directory, "apic", tables.madt);
	cr_assert_eq(occurrences(text, "[Processor Local APIC]"), LAYOUT_MAX_VCPUS);
	cr_assert_eq(occurrences(text, "[I/O APIC]"), 1);
	free(text);
	free(disassemble(directory, "xsdt", tables.xsdt));
	remove_directory(directory);
	memory_destroy(&tables.memory);
}

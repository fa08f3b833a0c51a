/*
 * The bzImage: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" and "64-bit
 * Boot Protocol".
 *
 * The file is a setup part of (setup_sects + 1) sectors, whose header at 0x1f1 says everything, and
 * the protected-mode part behind it, which goes to pref_address, is entered 0x200 bytes from its
 * start, and unpacks the kernel within the init_size bytes from there. A relocatable kernel that is
 * loaded below pref_address moves itself up to it (boot.rst, pref_address), so loading it lower
 * would save no memory: the guest must have it.
 */
#include <string.h>

#include "parts.h"

#define SECTOR_BYTES	 512
#define HEADER_OFFSET	 0x1f1
#define HEADER_MAGIC	 0x53726448 /* "HdrS" */
#define HEADER_MAGIC_AT	 0x202
#define HEADER_END_AT	 0x201 /* a byte: how far behind 0x202 the header ends */
#define BOOT_FLAG	 0xaa55
#define VERSION_LEAST	 0x020c /* xloadflags, thereby the 64-bit entry: Linux 3.8 */
#define ENTRY_64_OFFSET	 0x200
#define SETUP_SECTS_OF_0 4 /* what a setup_sects of 0 means */
#define PARAGRAPH_BYTES	 16
#define FIELD_END(member)                                        \
	(HEADER_OFFSET + offsetof(struct setup_header, member) + \
	 sizeof(((struct setup_header *)NULL)->member))

bool bzimage_recognize(const uint8_t *head, size_t head_bytes)
{
	uint32_t magic;

	if (head_bytes < HEADER_MAGIC_AT + sizeof(magic))
		return false;
	memcpy(&magic, head + HEADER_MAGIC_AT, sizeof(magic));
	return magic == HEADER_MAGIC;
}

static int read_header(const struct boot_file *file, struct setup_header *header, struct error *err)
{
	size_t end = FIELD_END(init_size); /* what every header of VERSION_LEAST has */
	uint8_t end_byte;
	int result;

	memset(header, 0, sizeof(*header));
	result = boot_file_read(file, HEADER_END_AT, &end_byte, sizeof(end_byte), "setup header",
				err);
	if (result == 0)
		result = boot_file_read(file, HEADER_OFFSET, header, end - HEADER_OFFSET,
					"setup header", err);
	if (result < 0)
		return result;
	if (header->boot_flag != BOOT_FLAG)
		return boot_file_error(file, err,
				       "is no bzImage: its boot flag is 0x%04x, not 0x%04x",
				       header->boot_flag, BOOT_FLAG);
	if (header->version < VERSION_LEAST)
		return boot_file_error(
			file, err,
			"speaks boot protocol %u.%02u, which is too old: 2.12 (Linux 3.8) or later is needed",
			header->version >> 8, header->version & 0xff);
	if ((size_t)HEADER_MAGIC_AT + end_byte < end)
		return boot_file_error(
			file, err,
			"has a setup header that ends at 0x%x, before its field init_size",
			HEADER_MAGIC_AT + end_byte);
	/* The rest of the header, as long as it is and as far as it is known here. */
	end = (size_t)HEADER_MAGIC_AT + end_byte;
	if (end > HEADER_OFFSET + sizeof(*header))
		end = HEADER_OFFSET + sizeof(*header);
	return boot_file_read(file, HEADER_OFFSET, header, end - HEADER_OFFSET, "setup header",
			      err);
}

static int check_header(const struct boot_file *file, const struct setup_header *header,
			struct error *err)
{
	if (!(header->xloadflags & XLF_KERNEL_64))
		return boot_file_error(file, err,
				       "has no 64-bit entry point: it is a 32-bit kernel");
	if (!(header->loadflags & LOADED_HIGH))
		return boot_file_error(file, err,
				       "is a zImage, which is loaded below 1 MiB: build a bzImage");
	if (header->relocatable_kernel &&
	    (header->kernel_alignment == 0 ||
	     (header->kernel_alignment & (header->kernel_alignment - 1)) != 0))
		return boot_file_error(file, err,
				       "asks for an alignment of 0x%x, which is no power of two",
				       header->kernel_alignment);
	if (header->pref_address < LAYOUT_HIGH_MEMORY ||
	    !is_aligned(header->pref_address, PAGE_SIZE_BYTES))
		return boot_file_error(
			file, err,
			"asks to be loaded at 0x%llx, which is no page at or above 1 MiB",
			(unsigned long long)header->pref_address);
	return 0;
}

int bzimage_load(struct memory *memory, const struct boot_file *file, enum boot_protocol protocol,
		 struct boot_kernel *kernel, struct error *err)
{
	const uint64_t low_end = boot_low_memory_end(memory);
	struct setup_header header;
	uint64_t setup_bytes, payload_bytes, run_address, end;
	int result;

	if (protocol == BOOT_PROTOCOL_PVH)
		return boot_file_error(
			file, err,
			"is a bzImage, which has no PVH entry: give the uncompressed vmlinux, or take the Linux boot protocol");
	result = read_header(file, &header, err);
	if (result == 0)
		result = check_header(file, &header, err);
	if (result < 0)
		return result;

	setup_bytes = ((header.setup_sects ? header.setup_sects : SETUP_SECTS_OF_0) + 1ULL) *
		      SECTOR_BYTES;
	payload_bytes = (uint64_t)header.syssize * PARAGRAPH_BYTES;
	if (payload_bytes <= ENTRY_64_OFFSET)
		return boot_file_error(
			file, err,
			"has a protected-mode part of %llu bytes, which ends before its 64-bit entry",
			(unsigned long long)payload_bytes);
	if (!range_within(setup_bytes, payload_bytes, file->size_bytes))
		return boot_file_error(
			file, err,
			"is truncated: its protected-mode part, %llu bytes at 0x%llx, ends behind the file's %llu bytes",
			(unsigned long long)payload_bytes, (unsigned long long)setup_bytes,
			(unsigned long long)file->size_bytes);

	/* Past this, no sum can wrap: every term is below 4 GiB. */
	if (header.pref_address >= low_end)
		return boot_file_error(
			file, err,
			"is to be loaded at %llu MiB: the guest has only %llu MiB of memory there",
			(unsigned long long)(header.pref_address / MIB),
			(unsigned long long)(low_end / MIB));
	run_address = header.pref_address;
	if (header.relocatable_kernel)
		run_address = align_up(run_address, header.kernel_alignment);
	end = run_address + header.init_size;
	if (end < header.pref_address + payload_bytes)
		end = header.pref_address + payload_bytes;
	if (end > low_end)
		return boot_file_error(
			file, err,
			"needs the memory up to %llu MiB to unpack itself: the guest has %llu MiB%s",
			(unsigned long long)(align_up(end, MIB) / MIB),
			(unsigned long long)(low_end / MIB),
			memory->region_count > 1 ? " below its MMIO gap" : "");

	result = boot_file_load(file, memory, header.pref_address, setup_bytes, payload_bytes, err);
	if (result < 0)
		return result;
	*kernel = (struct boot_kernel) {
		.protocol = BOOT_PROTOCOL_LINUX,
		.entry = header.pref_address + ENTRY_64_OFFSET,
		.start = header.pref_address,
		.end = end,
		.initrd_limit = header.initrd_addr_max + 1ULL,
		.cmdline_max_bytes = header.cmdline_size,
		.header = header,
	};
	return 0;
}

/*
 * ELF kernels: System V ABI, chapters 4 and 5 (Object Files, Program Loading), AMD64 supplement;
 * the note that makes an ELF file bootable through PVH: xen/include/public/elfnote.h,
 * XEN_ELFNOTE_PHYS32_ENTRY.
 *
 * A kernel is loaded by its PT_LOAD segments, to their physical addresses. Everything is checked
 * before anything is written. What a segment has in memory beyond its part of the file stays as it
 * is: zero, in a new guest.
 */
#include <elf.h>
#include <string.h>

#include "parts.h"

#define PROGRAM_HEADERS_MAX 64
#define NOTES_BYTES_MAX	    (64 * KIB)

#define NOTE_OWNER_XEN	  "Xen"
#define NOTE_PHYS32_ENTRY 18
#define NOTE_OWNER_LINUX  "Linux"

/* COMMAND_LINE_SIZE of every x86 Linux, less the NUL; an uncompressed kernel does not carry it. */
#define LINUX_CMDLINE_MAX_BYTES 2047

/* What is said of an uncompressed kernel in the place of the setup header that only its bzImage
 * has. */
#define BOOT_FLAG	     0xaa55
#define SETUP_HEADER_MAGIC   0x53726448
#define SETUP_HEADER_VERSION 0x020f

struct elf_kernel {
	const struct boot_file *file;
	Elf64_Ehdr header;
	Elf64_Phdr segments[PROGRAM_HEADERS_MAX];
	bool is_linux; /* it has a note of Linux' own */
	bool has_pvh_entry;
	uint64_t pvh_entry;
};

bool elf_recognize(const uint8_t *head, size_t head_bytes)
{
	return head_bytes >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0;
}

static int read_header(struct elf_kernel *elf, struct error *err)
{
	const struct boot_file *file = elf->file;
	Elf64_Ehdr *header = &elf->header;
	int result;

	/* Class and byte order say how to read the rest, and a 32-bit header is shorter. */
	result = boot_file_read(file, 0, header->e_ident, EI_NIDENT, "ELF identification", err);
	if (result < 0)
		return result;
	if (header->e_ident[EI_CLASS] == ELFCLASS32)
		return boot_file_error(file, err,
				       "is a 32-bit ELF file: only 64-bit kernels can be started");
	if (header->e_ident[EI_CLASS] != ELFCLASS64)
		return boot_file_error(file, err, "is an ELF file of unknown class %u",
				       header->e_ident[EI_CLASS]);
	if (header->e_ident[EI_DATA] == ELFDATA2MSB)
		return boot_file_error(file, err,
				       "is a big-endian ELF file: x86-64 is little-endian");
	if (header->e_ident[EI_DATA] != ELFDATA2LSB)
		return boot_file_error(file, err, "is an ELF file of unknown byte order %u",
				       header->e_ident[EI_DATA]);
	result = boot_file_read(file, 0, header, sizeof(*header), "ELF header", err);
	if (result < 0)
		return result;
	if (header->e_ident[EI_VERSION] != EV_CURRENT || header->e_version != EV_CURRENT)
		return boot_file_error(file, err, "is an ELF file of unknown version %u",
				       header->e_version);
	if (header->e_machine != EM_X86_64)
		return boot_file_error(
			file, err,
			"is an ELF file for another machine (e_machine %u): only x86-64 (%u) can be started",
			header->e_machine, EM_X86_64);
	if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
		return boot_file_error(
			file, err,
			"is an ELF file of type %u%s: a kernel is an executable (%u or %u)",
			header->e_type, header->e_type == ET_REL ? ", a relocatable object" : "",
			ET_EXEC, ET_DYN);
	return 0;
}

static int read_program_headers(struct elf_kernel *elf, struct error *err)
{
	const Elf64_Ehdr *header = &elf->header;

	if (header->e_phnum == 0)
		return boot_file_error(elf->file, err,
				       "has no ELF program headers: nothing in it can be loaded");
	if (header->e_phentsize != sizeof(Elf64_Phdr))
		return boot_file_error(elf->file, err,
				       "has ELF program headers of %u bytes instead of %zu",
				       header->e_phentsize, sizeof(Elf64_Phdr));
	if (header->e_phnum > PROGRAM_HEADERS_MAX)
		return boot_file_error(elf->file, err,
				       "has %u ELF program headers: at most %d are taken",
				       header->e_phnum, PROGRAM_HEADERS_MAX);
	return boot_file_read(elf->file, header->e_phoff, elf->segments,
			      header->e_phnum * sizeof(Elf64_Phdr), "table of program headers",
			      err);
}

static bool is_loaded(const Elf64_Phdr *segment)
{
	return segment->p_type == PT_LOAD && segment->p_memsz > 0;
}

static int check_segment(const struct elf_kernel *elf, unsigned int i, uint64_t low_end,
			 struct error *err)
{
	const Elf64_Phdr *segment = &elf->segments[i];

	if (segment->p_filesz > segment->p_memsz)
		return boot_file_error(
			elf->file, err,
			"has an ELF segment %u with more bytes in the file (0x%llx) than in memory (0x%llx)",
			i, (unsigned long long)segment->p_filesz,
			(unsigned long long)segment->p_memsz);
	if (!range_within(segment->p_offset, segment->p_filesz, elf->file->size_bytes))
		return boot_file_error(
			elf->file, err,
			"is truncated: its ELF segment %u, 0x%llx bytes at 0x%llx, ends behind the file's 0x%llx bytes",
			i, (unsigned long long)segment->p_filesz,
			(unsigned long long)segment->p_offset,
			(unsigned long long)elf->file->size_bytes);
	if (!range_within(segment->p_paddr, segment->p_memsz, UINT64_MAX))
		return boot_file_error(
			elf->file, err,
			"has an ELF segment %u at 0x%llx whose 0x%llx bytes wrap around the end of the address space",
			i, (unsigned long long)segment->p_paddr,
			(unsigned long long)segment->p_memsz);
	if (segment->p_paddr < LAYOUT_HIGH_MEMORY)
		return boot_file_error(
			elf->file, err,
			"has an ELF segment %u at 0x%llx: what is below 1 MiB belongs to the machine",
			i, (unsigned long long)segment->p_paddr);
	if (!range_within(segment->p_paddr, segment->p_memsz, low_end))
		return boot_file_error(
			elf->file, err,
			"has an ELF segment %u that needs memory from 0x%llx to 0x%llx: the guest's memory%s ends at 0x%llx",
			i, (unsigned long long)segment->p_paddr,
			(unsigned long long)(segment->p_paddr + segment->p_memsz),
			low_end == LAYOUT_MMIO_GAP_START ? " below its MMIO gap" : "",
			(unsigned long long)low_end);
	return 0;
}

static int check_overlap(const struct elf_kernel *elf, unsigned int i, struct error *err)
{
	const Elf64_Phdr *segment = &elf->segments[i];

	for (unsigned int j = 0; j < i; j++) {
		const Elf64_Phdr *other = &elf->segments[j];

		if (is_loaded(other) && segment->p_paddr < other->p_paddr + other->p_memsz &&
		    other->p_paddr < segment->p_paddr + segment->p_memsz)
			return boot_file_error(
				elf->file, err, "has ELF segments %u and %u that overlap at 0x%llx",
				j, i,
				(unsigned long long)(segment->p_paddr > other->p_paddr
							     ? segment->p_paddr
							     : other->p_paddr));
	}
	return 0;
}

/* Checks all segments and finds the memory that they span. */
static int check_segments(const struct elf_kernel *elf, const struct memory *memory,
			  struct boot_kernel *kernel, struct error *err)
{
	kernel->start = UINT64_MAX;
	kernel->end = 0;
	for (unsigned int i = 0; i < elf->header.e_phnum; i++) {
		const Elf64_Phdr *segment = &elf->segments[i];
		int result;

		if (segment->p_type != PT_LOAD || (segment->p_memsz == 0 && segment->p_filesz == 0))
			continue;
		result = check_segment(elf, i, boot_low_memory_end(memory), err);
		if (result == 0)
			result = check_overlap(elf, i, err);
		if (result < 0)
			return result;
		if (segment->p_paddr < kernel->start)
			kernel->start = segment->p_paddr;
		if (segment->p_paddr + segment->p_memsz > kernel->end)
			kernel->end = segment->p_paddr + segment->p_memsz;
	}
	if (kernel->end == 0)
		return boot_file_error(elf->file, err, "has no ELF segment to load (PT_LOAD)");
	return 0;
}

static int take_note(struct elf_kernel *elf, const Elf64_Nhdr *note, const char *owner,
		     const uint8_t *value, struct error *err)
{
	if (note->n_namesz == sizeof(NOTE_OWNER_LINUX) &&
	    memcmp(owner, NOTE_OWNER_LINUX, note->n_namesz) == 0)
		elf->is_linux = true;
	if (note->n_namesz != sizeof(NOTE_OWNER_XEN) ||
	    memcmp(owner, NOTE_OWNER_XEN, note->n_namesz) != 0 || note->n_type != NOTE_PHYS32_ENTRY)
		return 0;
	/* The note's value is a word of the kernel's choice: both sizes are in use. */
	if (note->n_descsz != sizeof(uint32_t) && note->n_descsz != sizeof(uint64_t))
		return boot_file_error(elf->file, err,
				       "has a PVH entry note of %u bytes instead of 4 or 8",
				       note->n_descsz);
	elf->pvh_entry = 0;
	memcpy(&elf->pvh_entry, value, note->n_descsz);
	elf->has_pvh_entry = true;
	return 0;
}

static int read_notes(struct elf_kernel *elf, unsigned int i, struct error *err)
{
	const Elf64_Phdr *segment = &elf->segments[i];
	/* Notes are padded to 4 bytes, those of a segment aligned to 8 to 8 (gABI, Note Section).
	 */
	const uint64_t alignment = segment->p_align == 8 ? 8 : 4;
	cleanup_free uint8_t *notes = NULL;
	uint64_t offset = 0;
	int result;

	if (segment->p_filesz > NOTES_BYTES_MAX)
		return boot_file_error(
			elf->file, err,
			"has %llu bytes of ELF notes in segment %u: at most %llu are taken",
			(unsigned long long)segment->p_filesz, i, NOTES_BYTES_MAX);
	if (segment->p_filesz == 0)
		return 0;
	notes = malloc(segment->p_filesz);
	if (!notes)
		return error_set(err, ENOMEM, "no memory for the notes of the kernel file %s",
				 elf->file->path);
	result = boot_file_read(elf->file, segment->p_offset, notes, segment->p_filesz, "ELF notes",
				err);
	while (result == 0 && segment->p_filesz - offset >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t owner_at = offset + sizeof(note), value_at;

		memcpy(&note, notes + offset, sizeof(note));
		value_at = offset + align_up(sizeof(note) + (uint64_t)note.n_namesz, alignment);
		if (!range_within(owner_at, note.n_namesz, segment->p_filesz) ||
		    !range_within(value_at, note.n_descsz, segment->p_filesz))
			return boot_file_error(
				elf->file, err,
				"has a truncated ELF note at offset 0x%llx of segment %u",
				(unsigned long long)offset, i);
		result = take_note(elf, &note, (const char *)notes + owner_at, notes + value_at,
				   err);
		offset = value_at + align_up(note.n_descsz, alignment);
		if (offset > segment->p_filesz) /* the last note need not be padded */
			offset = segment->p_filesz;
	}
	return result;
}

static int find_notes(struct elf_kernel *elf, struct error *err)
{
	for (unsigned int i = 0; i < elf->header.e_phnum; i++) {
		int result;

		if (elf->segments[i].p_type != PT_NOTE)
			continue;
		result = read_notes(elf, i, err);
		if (result < 0)
			return result;
	}
	return 0;
}

/*
 * Every Linux with a PVH entry also has notes of the owner "Linux" (its build salt, since 4.19); it
 * gets the 64-bit protocol, which needs no detour through 32-bit code. Unikernels have only the PVH
 * note, and no boot protocol of Linux behind their ELF entry.
 */
static int choose_entry(const struct elf_kernel *elf, enum boot_protocol protocol,
			struct boot_kernel *kernel, struct error *err)
{
	const char *name;

	if (protocol == BOOT_PROTOCOL_PVH && !elf->has_pvh_entry)
		return boot_file_error(
			elf->file, err,
			"has no PVH entry note: build it with CONFIG_PVH, or take the Linux boot protocol");
	if (protocol == BOOT_PROTOCOL_PVH ||
	    (protocol == BOOT_PROTOCOL_ANY && elf->has_pvh_entry && !elf->is_linux)) {
		kernel->protocol = BOOT_PROTOCOL_PVH;
		kernel->entry = elf->pvh_entry;
		name = "PVH entry";
	} else {
		kernel->protocol = BOOT_PROTOCOL_LINUX;
		kernel->entry = elf->header.e_entry;
		name = "entry point";
	}
	for (unsigned int i = 0; i < elf->header.e_phnum; i++) {
		const Elf64_Phdr *segment = &elf->segments[i];

		/* Behind the part that comes from the file there is only zero, no code. */
		if (is_loaded(segment) && kernel->entry >= segment->p_paddr &&
		    kernel->entry - segment->p_paddr < segment->p_filesz)
			return 0;
	}
	return boot_file_error(elf->file, err,
			       "has its %s at 0x%llx, which is in none of its segments", name,
			       (unsigned long long)kernel->entry);
}

static int load_segments(const struct elf_kernel *elf, struct memory *memory, struct error *err)
{
	for (unsigned int i = 0; i < elf->header.e_phnum; i++) {
		const Elf64_Phdr *segment = &elf->segments[i];
		int result;

		if (segment->p_type != PT_LOAD || segment->p_filesz == 0)
			continue;
		result = boot_file_load(elf->file, memory, segment->p_paddr, segment->p_offset,
					segment->p_filesz, err);
		if (result < 0)
			return result;
	}
	return 0;
}

int elf_load(struct memory *memory, const struct boot_file *file, enum boot_protocol protocol,
	     struct boot_kernel *kernel, struct error *err)
{
	struct elf_kernel elf = { .file = file };
	int result;

	*kernel = (struct boot_kernel){
		.initrd_limit = LAYOUT_MMIO_GAP_START,
		.header = {
			.boot_flag = BOOT_FLAG,
			.header = SETUP_HEADER_MAGIC,
			.version = SETUP_HEADER_VERSION,
			.loadflags = LOADED_HIGH,
			.kernel_alignment = (uint32_t)(2 * MIB),
			.cmdline_size = LINUX_CMDLINE_MAX_BYTES,
		},
	};
	result = read_header(&elf, err);
	if (result == 0)
		result = read_program_headers(&elf, err);
	if (result == 0)
		result = check_segments(&elf, memory, kernel, err);
	if (result == 0)
		result = find_notes(&elf, err);
	if (result == 0)
		result = choose_entry(&elf, protocol, kernel, err);
	if (result < 0)
		return result;
	/* A unikernel may take more than Linux does; how much, it does not say. */
	kernel->cmdline_max_bytes = kernel->protocol == BOOT_PROTOCOL_PVH && !elf.is_linux
					    ? LAYOUT_CMDLINE_BYTES - 1
					    : LINUX_CMDLINE_MAX_BYTES;
	return load_segments(&elf, memory, err);
}

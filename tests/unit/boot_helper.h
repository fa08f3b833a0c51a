/* What the tests of src/boot share: files made in memory, guest memory, and how a request looks. */
#ifndef BOOT_HELPER_H
#define BOOT_HELPER_H

#include <criterion/criterion.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "src/boot/parts.h"

#define GUEST_BYTES (64 * MIB)

/* A file with a path, which is gone when its descriptor is closed. */
struct test_file {
	int fd;
	char path[32];
};

static inline struct test_file make_file(const char *name, const void *bytes, size_t length)
{
	struct test_file file = { .fd = memfd_create(name, MFD_CLOEXEC) };

	cr_assert_geq(file.fd, 0);
	cr_assert_eq(write(file.fd, bytes, length), (ssize_t)length);
	snprintf(file.path, sizeof(file.path), "/proc/self/fd/%d", file.fd);
	return file;
}

static inline struct memory make_memory(uint64_t size_bytes)
{
	struct memory memory;
	struct error err = { 0 };

	cr_assert_eq(memory_create(&memory, size_bytes, HUGE_PAGES_NONE, &err), 0, "%s",
		     err.message);
	return memory;
}

static inline struct boot_platform make_platform(unsigned int vcpu_count, unsigned int virtio_count)
{
	struct boot_platform platform = { .vcpu_count = vcpu_count, .virtio_count = virtio_count };

	for (unsigned int i = 0; i < virtio_count; i++)
		platform.virtio[i] = (struct boot_virtio_device) {
			.base = LAYOUT_VIRTIO_MMIO + i * LAYOUT_VIRTIO_MMIO_BYTES,
			.cmdline_base = LAYOUT_VIRTIO_MMIO_CMDLINE + i * LAYOUT_VIRTIO_MMIO_BYTES,
			.irq = LAYOUT_IRQ_VIRTIO_FIRST + i,
		};
	return platform;
}

/* Loads `bytes` as a kernel; what was loaded stays after the file is closed. */
static inline int load_kernel_bytes(struct memory *memory, const void *bytes, size_t length,
				    struct boot_request request, struct boot_entry *entry,
				    struct error *err)
{
	struct boot_platform platform = make_platform(1, 0);
	struct test_file file = make_file("kernel", bytes, length);
	int result;

	request.kernel_path = file.path;
	memset(err, 0, sizeof(*err));
	result = boot_load(memory, &request, &platform, entry, err);
	close(file.fd);
	return result;
}

/* True when the page at `gpa` is a page of the file made with this name, not anonymous memory. */
static inline bool is_mapped_from(const struct memory *memory, uint64_t gpa, const char *name)
{
	uintptr_t hva = (uintptr_t)memory_span(memory, gpa, 1);
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512], wanted[64];
	bool found = false;

	cr_assert(maps);
	snprintf(wanted, sizeof(wanted), "/memfd:%s", name);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && hva >= start && hva < end)
			found = strstr(line, wanted) != NULL;
	}
	fclose(maps);
	return found;
}

/*
 * A small kernel: ELF header, program headers, notes at 0x200 (one of the owner GNU, one PVH
 * entry), then
 *
 * - text: 0x1800 bytes at offset 0x1000 to 0x200000, all mapped but for its last half page;
 * - data: 0x1c56 bytes at offset 0x2823 to 0x202823 (congruent, one whole page), 0x2000 in memory.
 */
#define ELF_NOTES_AT	0x200
#define ELF_TEXT_AT	0x1000
#define ELF_TEXT_BYTES	0x1800
#define ELF_TEXT_GPA	0x200000
#define ELF_DATA_AT	0x2823
#define ELF_DATA_BYTES	0x1c56
#define ELF_DATA_GPA	0x202823
#define ELF_DATA_MEMORY 0x2000
#define ELF_IMAGE_BYTES (ELF_DATA_AT + ELF_DATA_BYTES)
#define ELF_ENTRY	(ELF_TEXT_GPA + 0x40)
#define ELF_PVH_ENTRY	(ELF_TEXT_GPA + 0x80)

struct elf_image {
	Elf64_Ehdr header;
	Elf64_Phdr text, data, notes;
	uint8_t gap[ELF_NOTES_AT - sizeof(Elf64_Ehdr) - 3 * sizeof(Elf64_Phdr)];
	struct {
		Elf64_Nhdr gnu_header;
		char gnu_owner[4];
		uint8_t gnu_value[8];
		Elf64_Nhdr header;
		char owner[4];
		uint64_t value;
	} note;
	uint8_t rest[ELF_IMAGE_BYTES - ELF_NOTES_AT - 48];
} __attribute__((packed));

static inline struct elf_image make_elf(void)
{
	struct elf_image image = {
		.header = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = ELF_ENTRY,
			.e_phoff = sizeof(Elf64_Ehdr),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 3,
		},
		.text = { .p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_offset = ELF_TEXT_AT,
			  .p_vaddr = 0xffffffff80000000ULL + ELF_TEXT_GPA, .p_paddr = ELF_TEXT_GPA,
			  .p_filesz = ELF_TEXT_BYTES, .p_memsz = ELF_TEXT_BYTES, .p_align = 0x1000 },
		.data = { .p_type = PT_LOAD, .p_flags = PF_R | PF_W, .p_offset = ELF_DATA_AT,
			  .p_vaddr = 0xffffffff80000000ULL + ELF_DATA_GPA, .p_paddr = ELF_DATA_GPA,
			  .p_filesz = ELF_DATA_BYTES, .p_memsz = ELF_DATA_MEMORY, .p_align = 0x1000 },
		.notes = { .p_type = PT_NOTE, .p_offset = ELF_NOTES_AT, .p_filesz = sizeof(image.note),
			   .p_memsz = sizeof(image.note), .p_align = 4 },
		.note = { .gnu_header = { .n_namesz = 4, .n_descsz = 8, .n_type = 3 },
			  .gnu_owner = "GNU",
			  .header = { .n_namesz = 4, .n_descsz = 8, .n_type = 18 },
			  .owner = "Xen",
			  .value = ELF_PVH_ENTRY },
	};
	uint8_t *bytes = (uint8_t *)&image;

	_Static_assert(sizeof(struct elf_image) == ELF_IMAGE_BYTES,
		       "the image ends where its data ends");
	_Static_assert(offsetof(struct elf_image, note) == ELF_NOTES_AT,
		       "the notes are where the header says");
	for (size_t i = ELF_TEXT_AT; i < sizeof(image); i++)
		bytes[i] = (uint8_t)(1 + i % 251);
	return image;
}

#endif

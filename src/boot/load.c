/*
 * The order in which a guest is filled: kernel, initrd, command line, platform tables, then what
 * the protocol hands over. Guest memory is new, hence zero: only what is not zero is written, and
 * no page is touched without need.
 */
#include <stdio.h>
#include <string.h>

#include "parts.h"

#define HEAD_BYTES 1024 /* enough to recognize every format named here */

/* Formats that people give by mistake, and what to do instead. */
static const struct {
	size_t offset;
	const char *magic;
	size_t magic_bytes;
	const char *advice;
} mistakes[] = {
	{ 0, "\x1f\x8b", 2, "is compressed with gzip: unpack it first (gzip -d)" },
	{ 0, "\xfd\x37zXZ", 5, "is compressed with xz: unpack it first (xz -d)" },
	{ 0, "\x28\xb5\x2f\xfd", 4, "is compressed with zstd: unpack it first (zstd -d)" },
	{ 0, "BZh", 3, "is compressed with bzip2: unpack it first (bzip2 -d)" },
	{ 0x38, "ARM\x64", 4, "is a kernel for 64-bit ARM, not for x86-64" },
};

static int refuse_format(const struct boot_file *file, const uint8_t *head, size_t head_bytes,
			 struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(mistakes); i++) {
		if (range_within(mistakes[i].offset, mistakes[i].magic_bytes, head_bytes) &&
		    memcmp(head + mistakes[i].offset, mistakes[i].magic, mistakes[i].magic_bytes) ==
			    0)
			return boot_file_error(file, err, "%s", mistakes[i].advice);
	}
	return boot_file_error(file, err, "is neither an ELF file nor a bzImage");
}

static int load_kernel(struct memory *memory, const struct boot_request *request,
		       struct boot_kernel *kernel, struct error *err)
{
	cleanup_boot_file struct boot_file file = { .fd = -1 };
	uint8_t head[HEAD_BYTES];
	size_t head_bytes;
	int result;

	result = boot_file_open(&file, "kernel", request->kernel_path, err);
	if (result < 0)
		return result;
	head_bytes = file.size_bytes < sizeof(head) ? (size_t)file.size_bytes : sizeof(head);
	result = boot_file_read(&file, 0, head, head_bytes, "beginning", err);
	if (result < 0)
		return result;
	if (elf_recognize(head, head_bytes))
		return elf_load(memory, &file, request->protocol, kernel, err);
	if (bzimage_recognize(head, head_bytes))
		return bzimage_load(memory, &file, request->protocol, kernel, err);
	return refuse_format(&file, head, head_bytes, err);
}

/*
 * As high as allowed, where kernels disturb it least, and at the beginning of a page, so that it is
 * mapped. A kernel that lies in the way pushes it below.
 */
static bool place_initrd(const struct memory *memory, const struct boot_kernel *kernel,
			 uint64_t size_bytes, uint64_t *gpa)
{
	uint64_t limit = boot_low_memory_end(memory);

	if (limit > kernel->initrd_limit)
		limit = kernel->initrd_limit;
	if (size_bytes <= limit) {
		*gpa = (limit - size_bytes) & ~(PAGE_SIZE_BYTES - 1);
		if (*gpa >= kernel->end)
			return true;
	}
	if (limit > kernel->start)
		limit = kernel->start;
	if (size_bytes > limit)
		return false;
	*gpa = (limit - size_bytes) & ~(PAGE_SIZE_BYTES - 1);
	return *gpa >= LAYOUT_HIGH_MEMORY;
}

static int load_initrd(struct memory *memory, const char *path, const struct boot_kernel *kernel,
		       struct boot_initrd *initrd, struct error *err)
{
	cleanup_boot_file struct boot_file file = { .fd = -1 };
	int result;

	*initrd = (struct boot_initrd) { 0 };
	if (!path)
		return 0;
	result = boot_file_open(&file, "initrd", path, err);
	if (result < 0)
		return result;
	if (!place_initrd(memory, kernel, file.size_bytes, &initrd->gpa))
		return boot_file_error(
			&file, err,
			"does not fit: it has %llu KiB, the guest %llu MiB of memory, and the kernel takes what is below %llu MiB",
			(unsigned long long)(align_up(file.size_bytes, KIB) / KIB),
			(unsigned long long)(memory->size_bytes / MIB),
			(unsigned long long)(align_up(kernel->end, MIB) / MIB));
	initrd->size_bytes = file.size_bytes;
	return boot_file_load(&file, memory, initrd->gpa, 0, file.size_bytes, err);
}

static int write_cmdline(struct memory *memory, const struct boot_request *request,
			 const struct boot_platform *platform, const struct boot_kernel *kernel,
			 struct error *err)
{
	size_t bytes = kernel->cmdline_max_bytes < LAYOUT_CMDLINE_BYTES
			       ? kernel->cmdline_max_bytes + 1
			       : LAYOUT_CMDLINE_BYTES;
	cleanup_free char *text = malloc(bytes);
	int result;

	if (!text)
		return error_set(err, ENOMEM, "no memory for a command line of %zu bytes", bytes);
	result = boot_cmdline_build(request, platform, text, bytes, err);
	if (result < 0)
		return result;
	if (!memory_write(memory, LAYOUT_CMDLINE, text, strlen(text) + 1))
		return error_set(err, EINVAL,
				 "the guest has no memory at 0x%llx for its command line",
				 LAYOUT_CMDLINE);
	return 0;
}

static int check_platform(const struct memory *memory, const struct boot_platform *platform,
			  struct error *err)
{
	if (memory->region_count == 0 || boot_low_memory_end(memory) <= LAYOUT_HIGH_MEMORY)
		return error_set(err, EINVAL, "a guest needs more than %llu MiB of memory",
				 LAYOUT_HIGH_MEMORY / MIB);
	if (platform->vcpu_count < 1 || platform->vcpu_count > LAYOUT_MAX_VCPUS)
		return error_set(err, EINVAL, "%u vCPUs: a guest has 1 to %d", platform->vcpu_count,
				 LAYOUT_MAX_VCPUS);
	if (platform->virtio_count > LAYOUT_MAX_VIRTIO_DEVICES)
		return error_set(err, EINVAL, "%u virtio devices: a guest has at most %d",
				 platform->virtio_count, LAYOUT_MAX_VIRTIO_DEVICES);
	return 0;
}

int boot_load(struct memory *memory, const struct boot_request *request,
	      const struct boot_platform *platform, struct boot_entry *entry, struct error *err)
{
	struct boot_kernel kernel = { 0 };
	struct boot_initrd initrd;
	int result;

	*entry = (struct boot_entry) { 0 };
	result = check_platform(memory, platform, err);
	if (result == 0)
		result = load_kernel(memory, request, &kernel, err);
	if (result == 0)
		result = load_initrd(memory, request->initrd_path, &kernel, &initrd, err);
	if (result == 0)
		result = write_cmdline(memory, request, platform, &kernel, err);
	if (result == 0)
		result = acpi_write(memory, platform, err);
	if (result == 0)
		result = mptable_write(memory, platform, err);
	if (result < 0)
		return result;
	entry->kernel_end = kernel.end;
	return kernel.protocol == BOOT_PROTOCOL_PVH
		       ? pvh_write(memory, &kernel, &initrd, entry, err)
		       : linux64_write(memory, &kernel, &initrd, entry, err);
}

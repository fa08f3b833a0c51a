/*
 * The input is a kernel file: loaded by every protocol into a guest of 32 MiB, alone and with
 * itself as the initrd. Whatever it holds, it is either refused with a message that names it, or
 * entered within what was loaded.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "mayfly/boot.h"

#define GUEST_BYTES (32 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool condition, const char *what, const struct error *err)
{
	if (condition)
		return;
	fprintf(stderr, "%s: %s\n", what, err->message);
	abort();
}

static void load(struct memory *memory, const char *path, bool with_initrd,
		 enum boot_protocol protocol)
{
	const struct boot_platform platform = {
		.vcpu_count = 2,
		.virtio_count = 1,
		.virtio = { { LAYOUT_VIRTIO_MMIO, LAYOUT_VIRTIO_MMIO_CMDLINE,
			      LAYOUT_IRQ_VIRTIO_FIRST } },
	};
	const struct boot_request request = { .kernel_path = path,
					      .initrd_path = with_initrd ? path : NULL,
					      .cmdline = "console=ttyS0",
					      .protocol = protocol };
	struct boot_entry entry;
	struct error err = { 0 };
	int result = boot_load(memory, &request, &platform, &entry, &err);

	if (result < 0) {
		check(err.code == -result, "the code is not the result", &err);
		/* Of what may be wrong, only the command line is not the file's. */
		check(strstr(err.message, path) || strstr(err.message, "command line"),
		      "the file is not named", &err);
		return;
	}
	check(entry.protocol == BOOT_PROTOCOL_LINUX || entry.protocol == BOOT_PROTOCOL_PVH,
	      "no protocol", &err);
	check(protocol == BOOT_PROTOCOL_ANY || entry.protocol == protocol,
	      "another protocol than asked for", &err);
	check(entry.kernel_end <= GUEST_BYTES, "the kernel ends behind the memory", &err);
	check(entry.rip >= LAYOUT_HIGH_MEMORY && entry.rip < entry.kernel_end,
	      "the entry is outside of the kernel", &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Made once: what earlier inputs left in it has no influence, as nothing is read back from
	 * guest memory. */
	static struct memory memory;
	struct error err = { 0 };
	char path[32];
	int fd;

	if (memory.region_count == 0)
		check(memory_create(&memory, GUEST_BYTES, HUGE_PAGES_NONE, &err) == 0, "no memory",
		      &err);
	/* A file of its own for each input: pages of the last ones are still mapped. */
	fd = memfd_create("kernel", MFD_CLOEXEC);
	check(fd >= 0 && write(fd, data, size) == (ssize_t)size, "no file", &err);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	for (int protocol = BOOT_PROTOCOL_ANY; protocol <= BOOT_PROTOCOL_PVH; protocol++)
		load(&memory, path, protocol == BOOT_PROTOCOL_ANY, (enum boot_protocol)protocol);
	close(fd);
	return 0;
}

/* The files that a guest is booted from: opened without ever waiting, read with every length
 * checked. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "parts.h"

int boot_file_error(const struct boot_file *file, struct error *err, const char *format, ...)
{
	char text[ERROR_MESSAGE_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return error_set(err, ENOEXEC, "The %s file %s %s", file->role, file->path, text);
}

static int cannot_open(const char *role, const char *path, struct error *err)
{
	int code = errno;
	char text[128];

	/* Clients match the beginning of this message, up to the closing parenthesis. */
	return error_set(err, code, "The %s file cannot be opened: %s (os error %d): %s", role,
			 strerror_r(code, text, sizeof(text)), code, path);
}

int boot_file_open(struct boot_file *file, const char *role, const char *path, struct error *err)
{
	/* Without O_NONBLOCK, opening a FIFO would wait for its writer. */
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat status;

	*file = (struct boot_file) { .fd = -1, .path = path, .role = role };
	if (fd < 0)
		return cannot_open(role, path, err);
	if (fstat(fd, &status) < 0)
		return cannot_open(role, path, err);
	if (S_ISDIR(status.st_mode))
		return error_set(err, EISDIR, "The %s file %s is a directory", role, path);
	if (!S_ISREG(status.st_mode))
		return error_set(err, EINVAL, "The %s file %s is not a regular file", role, path);
	if (status.st_size <= 0)
		return error_set(err, ENOEXEC, "The %s file %s is empty", role, path);
	file->size_bytes = (uint64_t)status.st_size;
	file->fd = take_fd(&fd);
	return 0;
}

void boot_file_close(struct boot_file *file)
{
	close_fd(&file->fd);
}

int boot_file_check(const char *role, const char *path, struct error *err)
{
	cleanup_boot_file struct boot_file file = { .fd = -1 };

	return boot_file_open(&file, role, path, err);
}

int boot_file_read(const struct boot_file *file, uint64_t offset, void *destination, size_t length,
		   const char *structure, struct error *err)
{
	uint8_t *next = destination;

	if (!range_within(offset, length, file->size_bytes))
		return boot_file_error(
			file, err,
			"is truncated: its %s, %zu bytes at 0x%llx, ends behind the file's %llu bytes",
			structure, length, (unsigned long long)offset,
			(unsigned long long)file->size_bytes);
	while (length > 0) {
		ssize_t got = pread(file->fd, next, length, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_errno(err, "The %s file %s cannot be read", file->role,
					   file->path);
		if (got == 0)
			return boot_file_error(file, err, "was truncated while its %s was read",
					       structure);
		next += got;
		offset += (uint64_t)got;
		length -= (size_t)got;
	}
	return 0;
}

int boot_file_load(const struct boot_file *file, struct memory *memory, uint64_t gpa,
		   uint64_t offset, uint64_t length, struct error *err)
{
	uint64_t head = 0;
	char what[ERROR_MESSAGE_BYTES / 2];
	int result;

	snprintf(what, sizeof(what), "The %s file %s", file->role, file->path);
	/* Where both addresses have the same place within a page, all but the first piece of a page
	 * can be mapped. */
	if (gpa % PAGE_SIZE_BYTES == offset % PAGE_SIZE_BYTES)
		head = align_up(gpa, PAGE_SIZE_BYTES) - gpa;
	if (head > length)
		head = length;
	if (head) {
		result = memory_load_file(memory, gpa, file->fd, offset, head, what, err);
		if (result < 0)
			return result;
	}
	if (length == head)
		return 0;
	return memory_load_file(memory, gpa + head, file->fd, offset + head, length - head, what,
				err);
}

/* The memory file as the handler sees it: see handler.h. */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "handler.h"
#include "src/snapshot/memory_tail.h"

/* A file without a tail was made by others: then regions are held against its size alone. */
static int read_tail(struct memory_image *image, const char *path, struct error *err)
{
	struct tail_mark mark;
	bool complete = false;

	if (tail_read(image->fd, image->size_bytes, &mark, &complete, NULL) < 0)
		return 0;
	if (!complete)
		return error_set(
			err, EINVAL,
			"memory file %s is a diff, or a merge into it was interrupted: merge "
			"it into the memory file of the snapshot before (mayfly merge-memory "
			"BASE DIFF)",
			path);
	image->memory_bytes = mark.memory_bytes;
	return 0;
}

int memory_image_open(struct memory_image *image, const char *path, struct error *err)
{
	/* A FIFO would make the open wait. */
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat status;
	void *bytes;

	*image = (struct memory_image) { .fd = -1 };
	if (fd < 0)
		return error_errno(err, "memory file %s", path);
	/* Held for as long as a guest may ask for a page: what is merged into it would be others'.
	 */
	if (flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return error_set(err, EBUSY, "memory file %s: a diff is being merged into it",
				 path);
	if (fstat(fd, &status) < 0)
		return error_errno(err, "memory file %s", path);
	if (!S_ISREG(status.st_mode) || status.st_size == 0)
		return error_set(err, EINVAL, "memory file %s is no regular file with content",
				 path);
	bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		return error_errno(err, "memory file %s cannot be mapped", path);
	image->bytes = bytes;
	image->size_bytes = (uint64_t)status.st_size;
	image->fd = take_fd(&fd);
	if (read_tail(image, path, err) < 0) {
		memory_image_close(image);
		return -EINVAL;
	}
	return 0;
}

void memory_image_close(struct memory_image *image)
{
	if (image->bytes)
		munmap((void *)(uintptr_t)image->bytes, image->size_bytes);
	close_fd(&image->fd);
	*image = (struct memory_image) { .fd = -1 };
}

bool memory_image_is_whole(const struct memory_image *image)
{
	off_t end = lseek(image->fd, 0, SEEK_END);

	return end >= 0 && (uint64_t)end >= image->size_bytes;
}

uint64_t memory_image_run(const struct memory_image *image, uint64_t offset, uint64_t length,
			  bool *hole)
{
	off_t data = lseek(image->fd, (off_t)offset, SEEK_DATA), end;

	/* ENXIO: nothing but a hole up to the end of the file. */
	*hole = data < 0 ? errno == ENXIO : (uint64_t)data >= offset + PAGE_SIZE_BYTES;
	end = *hole ? data : lseek(image->fd, (off_t)offset, SEEK_HOLE);
	if (end < 0 || (uint64_t)end >= offset + length)
		return length;
	/* A page that begins as one and ends as the other has data. */
	if (*hole)
		return ((uint64_t)end - offset) & ~(PAGE_SIZE_BYTES - 1);
	return align_up((uint64_t)end - offset, PAGE_SIZE_BYTES);
}

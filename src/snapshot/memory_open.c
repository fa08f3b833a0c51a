/* Opening a memory file for a load, and what stands behind the memory in it: memory_file.h. */
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "mayfly/state.h"
#include "memory_tail.h"

static uint32_t mark_checksum(struct tail_mark mark)
{
	mark.checksum = 0;
	return state_crc32c(0, &mark, sizeof(mark));
}

struct tail_mark tail_make_mark(uint64_t memory_bytes, const struct memory_file_id *id,
				const struct memory_file_id *base)
{
	struct tail_mark mark = { .version = TAIL_VERSION,
				  .memory_bytes = memory_bytes,
				  .id = *id };

	memcpy(mark.magic, TAIL_MARK_MAGIC, TAIL_MAGIC_BYTES);
	if (base)
		mark.base = *base;
	mark.checksum = mark_checksum(mark);
	return mark;
}

int tail_read(int fd, uint64_t file_bytes, struct tail_mark *mark, bool *complete,
	      struct error *err)
{
	uint8_t tail[MEMORY_FILE_TAIL_BYTES];
	uint64_t memory_bytes = file_bytes - sizeof(tail);

	if (file_bytes < sizeof(tail) ||
	    read_at(fd, tail, sizeof(tail), memory_bytes) != (ssize_t)sizeof(tail))
		return error_set(err, EINVAL, "it is cut, or no memory file of Mayfly's");
	memcpy(mark, tail, sizeof(*mark));
	if (memcmp(mark->magic, TAIL_MARK_MAGIC, TAIL_MAGIC_BYTES) != 0 ||
	    mark->checksum != mark_checksum(*mark))
		return error_set(err, EINVAL, "it is cut, damaged, or no memory file of Mayfly's");
	if (mark->version != TAIL_VERSION)
		return error_set(err, ENOTSUP,
				 "it has version %u, and this Mayfly knows version %d",
				 mark->version, TAIL_VERSION);
	if (mark->memory_bytes != memory_bytes)
		return error_set(
			err, EINVAL, "it says that it holds %llu bytes of memory, but it has %llu",
			(unsigned long long)mark->memory_bytes, (unsigned long long)memory_bytes);
	*complete = memcmp(tail + PAGE_SIZE_BYTES, tail_complete, sizeof(tail_complete)) == 0;
	return 0;
}

static int check(int fd, uint64_t memory_bytes, const struct memory_file_id *id, struct error *err)
{
	struct tail_mark mark;
	struct stat status;
	bool complete = false;
	int result;

	if (fstat(fd, &status) < 0)
		return error_errno(err, "it cannot be examined");
	if (!S_ISREG(status.st_mode))
		return error_set(err, EINVAL, "it is no regular file");
	if ((uint64_t)status.st_size != memory_bytes + MEMORY_FILE_TAIL_BYTES)
		return error_set(
			err, EINVAL,
			"it has %llu bytes; the memory file of a guest with %llu MiB has %llu",
			(unsigned long long)status.st_size,
			(unsigned long long)(memory_bytes / MIB),
			(unsigned long long)(memory_bytes + MEMORY_FILE_TAIL_BYTES));
	result = tail_read(fd, (uint64_t)status.st_size, &mark, &complete, err);
	if (result < 0)
		return result;
	if (memcmp(&mark.id, id, sizeof(*id)) != 0)
		return error_set(err, EINVAL, "it belongs to another snapshot than the state file");
	if (!complete)
		return error_set(err, EINVAL,
				 "it is a diff, or a merge into it was interrupted: merge it into "
				 "the memory file of the snapshot before (mayfly merge-memory "
				 "BASE DIFF)");
	return 0;
}

int memory_file_open(const char *path, uint64_t memory_bytes, const struct memory_file_id *id,
		     int *out, struct error *err)
{
	/* A FIFO would make the open wait. */
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return error_errno(err, "memory file %s: it cannot be opened", path);
	if (flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return error_set(err, EBUSY, "memory file %s: a diff is being merged into it",
				 path);
	if (check(fd, memory_bytes, id, err) < 0)
		return error_prefix(err, "memory file %s", path);
	*out = take_fd(&fd);
	return 0;
}

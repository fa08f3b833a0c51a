/*
 * Merging a diff into its base: see include/mayfly/memory_file.h.
 *
 * The page of the base which says that it is complete goes first, and comes back last: an
 * interrupted merge leaves a file that no load takes, and that the same merge can finish, since its
 * mark still names the base until then. In that page's place stands meanwhile which diff it is: no
 * other one of the same base may follow, whose holes would leave the first one's pages.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "memory_tail.h"

#define COPY_BYTES (1 * MIB)

struct merge_file {
	const char *path;
	int fd;
	struct tail_mark mark;
	bool complete;
	bool merging; /* with the diff of this id, which did not come to its end */
	struct memory_file_id merging_id;
};

/* In the place of tail_complete while a diff is merged into the file, before the diff's id. */
static const char tail_merging[TAIL_MAGIC_BYTES] = "Mayfly merging\n";

struct merging_page {
	char words[TAIL_MAGIC_BYTES];
	struct memory_file_id id;
};

static void read_merging(struct merge_file *file)
{
	struct merging_page page;

	if (read_at(file->fd, &page, sizeof(page), file->mark.memory_bytes + PAGE_SIZE_BYTES) !=
		    (ssize_t)sizeof(page) ||
	    memcmp(page.words, tail_merging, sizeof(tail_merging)) != 0)
		return;
	file->merging = true;
	file->merging_id = page.id;
}

static int open_one(struct merge_file *file, int flags, int lock, struct error *err)
{
	struct stat status;

	file->fd = open(file->path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (file->fd < 0)
		return error_errno(err, "it cannot be opened");
	if (flock(file->fd, lock | LOCK_NB) < 0)
		return errno == EWOULDBLOCK
			       ? error_set(err, EBUSY, "a microVM or another merge uses it")
			       : error_errno(err, "it cannot be locked");
	if (fstat(file->fd, &status) < 0)
		return error_errno(err, "it cannot be examined");
	if (!S_ISREG(status.st_mode))
		return error_set(err, EINVAL, "it is no regular file");
	if (tail_read(file->fd, (uint64_t)status.st_size, &file->mark, &file->complete, err) < 0)
		return -err->code;
	read_merging(file);
	return 0;
}

static bool same_id(const struct memory_file_id *one, const struct memory_file_id *other)
{
	return memcmp(one, other, sizeof(*one)) == 0;
}

static int check_pair(const struct merge_file *base, const struct merge_file *diff,
		      struct error *err)
{
	static const struct memory_file_id none;

	if (diff->complete)
		return error_set(err, EINVAL, "%s is no diff: it is complete by itself",
				 diff->path);
	if (base->mark.memory_bytes != diff->mark.memory_bytes)
		return error_set(err, EINVAL, "%s holds %llu MiB of memory, and %s %llu",
				 base->path, (unsigned long long)(base->mark.memory_bytes / MIB),
				 diff->path, (unsigned long long)(diff->mark.memory_bytes / MIB));
	if (!same_id(&base->mark.base, &none))
		return error_set(err, EINVAL, "%s is a diff itself: merge into a complete file",
				 base->path);
	if (base->merging && !same_id(&base->merging_id, &diff->mark.id))
		return error_set(err, EINVAL,
				 "%s was left half merged with another diff than %s: repeat that "
				 "merge first",
				 base->path, diff->path);
	/* Of a merge that was interrupted at its very end the mark is the diff's already. */
	if (!same_id(&base->mark.id, &diff->mark.base) &&
	    (base->complete || !same_id(&base->mark.id, &diff->mark.id)))
		return error_set(
			err, EINVAL,
			"%s is not a diff of %s but of another snapshot: diffs are merged in "
			"the order in which they were made",
			diff->path, base->path);
	return 0;
}

static int copy(int from, int to, uint64_t start, uint64_t end, uint8_t *buffer, struct error *err)
{
	struct atomic_file target = { .fd = to, .name = (char *)(uintptr_t) "the base" };

	while (start < end) {
		size_t want = end - start < COPY_BYTES ? end - start : COPY_BYTES;
		ssize_t got = read_at(from, buffer, want, start);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? error_errno(err, "the diff cannot be read")
				   : error_set(err, EINVAL, "the diff was cut while it was read");
		if (atomic_file_write(&target, buffer, (size_t)got, start, err) < 0)
			return -err->code;
		start += (uint64_t)got;
	}
	return 0;
}

static int copy_data(const struct merge_file *base, const struct merge_file *diff,
		     struct error *err)
{
	cleanup_free uint8_t *buffer = malloc(COPY_BYTES);
	uint64_t end = base->mark.memory_bytes, at = 0;
	int result = 0;

	if (!buffer)
		return error_set(err, ENOMEM, "no memory to copy with");
	while (result == 0 && at < end) {
		off_t data = lseek(diff->fd, (off_t)at, SEEK_DATA), hole;
		uint64_t stop;

		if (data < 0 && errno == ENXIO)
			break;
		hole = data < 0 ? -1 : lseek(diff->fd, data, SEEK_HOLE);
		if (hole < 0)
			return error_errno(err, "%s does not say where it has holes", diff->path);
		stop = (uint64_t)hole < end ? (uint64_t)hole : end;
		result = copy(diff->fd, base->fd, (uint64_t)data, stop, buffer, err);
		at = stop;
	}
	return result;
}

/* `of`: not complete, while this diff is merged; NULL: complete. */
static int set_complete(const struct merge_file *base, const struct merge_file *of,
			struct error *err)
{
	uint8_t page[PAGE_SIZE_BYTES] = { 0 };
	struct atomic_file target = { .fd = base->fd, .name = (char *)(uintptr_t)base->path };

	if (of) {
		memcpy(page, tail_merging, sizeof(tail_merging));
		memcpy(page + sizeof(tail_merging), &of->mark.id, sizeof(of->mark.id));
	} else {
		memcpy(page, tail_complete, sizeof(tail_complete));
	}
	if (atomic_file_write(&target, page, sizeof(page), base->mark.memory_bytes + sizeof(page),
			      err) < 0 ||
	    atomic_file_flush(&target, err) < 0)
		return -err->code;
	return 0;
}

static int set_mark(const struct merge_file *base, const struct merge_file *diff, struct error *err)
{
	struct tail_mark mark = tail_make_mark(base->mark.memory_bytes, &diff->mark.id, NULL);
	struct atomic_file target = { .fd = base->fd, .name = (char *)(uintptr_t)base->path };

	if (atomic_file_write(&target, &mark, sizeof(mark), mark.memory_bytes, err) < 0 ||
	    atomic_file_flush(&target, err) < 0)
		return -err->code;
	return 0;
}

/* Otherwise the second lock would be said to be somebody else's. */
static int check_two_files(const char *base_path, const char *diff_path, struct error *err)
{
	struct stat base, diff;

	if (stat(base_path, &base) == 0 && stat(diff_path, &diff) == 0 &&
	    base.st_dev == diff.st_dev && base.st_ino == diff.st_ino)
		return error_set(err, EINVAL, "%s and %s are the same file", base_path, diff_path);
	return 0;
}

int memory_file_merge(const char *base_path, const char *diff_path, struct error *err)
{
	struct merge_file base = { .path = base_path, .fd = -1 };
	struct merge_file diff = { .path = diff_path, .fd = -1 };
	int result = check_two_files(base_path, diff_path, err);

	if (result < 0)
		return result;
	result = open_one(&base, O_RDWR, LOCK_EX, err);
	if (result < 0)
		result = error_prefix(err, "memory file %s", base_path);
	if (result == 0 && open_one(&diff, O_RDONLY, LOCK_SH, err) < 0)
		result = error_prefix(err, "memory file %s", diff_path);
	if (result == 0)
		result = check_pair(&base, &diff, err);
	if (result == 0)
		result = set_complete(&base, &diff, err);
	if (result == 0)
		result = copy_data(&base, &diff, err);
	if (result == 0)
		result = atomic_file_flush(
			&(struct atomic_file) { .fd = base.fd,
						.name = (char *)(uintptr_t)base_path },
			err);
	if (result == 0)
		result = set_mark(&base, &diff, err);
	if (result == 0)
		result = set_complete(&base, NULL, err);
	close_fd(&diff.fd);
	close_fd(&base.fd);
	return result;
}

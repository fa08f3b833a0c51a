/*
 * Serving one monitor: see handler.h.
 *
 * Faults come first: whenever one waits, it is served. In between, pages are brought ahead in steps
 * of a few: those of the working set, then, when asked to, all others.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "handler.h"
#include "mayfly/uffd.h"

#define FAULTS_AT_ONCE 16
#define STEP_BYTES     (256 * KIB) /* what is brought ahead between two looks at the faults */

struct server {
	struct connection *connection;
	const struct memory_image *image;
	const struct handler_options *options;
	struct working_set ahead;    /* to bring; of memory_bytes 0 when there is none */
	struct working_set_run run;  /* what of it is being brought */
	struct working_set recorded; /* likewise; what was touched */
	uint64_t record_until_ns;    /* 0: nothing was touched yet */
	uint64_t filled_bytes;	     /* of all regions, one behind the other */
	bool ends;		     /* the monitor is gone */
};

/* Offsets of working sets count regions one behind the other, as the monitor does. */
static const struct handler_region *find_offset(const struct connection *connection,
						uint64_t offset, uint64_t *within)
{
	for (unsigned int i = 0; i < connection->region_count; i++) {
		const struct handler_region *region = &connection->regions[i];

		if (offset < region->size_bytes) {
			*within = offset;
			return region;
		}
		offset -= region->size_bytes;
	}
	return NULL;
}

static const struct handler_region *find_address(const struct connection *connection,
						 uint64_t address, uint64_t *offset)
{
	uint64_t before = 0;

	for (unsigned int i = 0; i < connection->region_count; i++) {
		const struct handler_region *region = &connection->regions[i];

		if (address >= region->start && address - region->start < region->size_bytes) {
			*offset = before + (address - region->start);
			return region;
		}
		before += region->size_bytes;
	}
	return NULL;
}

static int wake(const struct server *server, uint64_t start, uint64_t length)
{
	struct uffdio_range range = { .start = start, .len = length };

	return ioctl(server->connection->uffd, UFFDIO_WAKE, &range);
}

/* One ioctl for a part of the range, from its beginning; says in `done` how much is there now. */
static int place(const struct server *server, const struct handler_region *region, uint64_t within,
		 uint64_t length, uint64_t *done)
{
	uint64_t start = region->start + within, offset = region->offset + within;
	bool hole = false;
	int64_t got;
	int result;

	*done = 0;
	/* There are no zero pages of 2 MiB to be had that way. */
	if (region->page_bytes == PAGE_SIZE_BYTES)
		length = memory_image_run(server->image, offset, length, &hole);
	/* Behind the end of a file that was cut there is nothing, which is not zeroes. */
	if (!memory_image_is_whole(server->image)) {
		errno = ENODATA;
		return -1;
	}
	if (hole) {
		struct uffdio_zeropage zero = { .range = { .start = start, .len = length } };

		result = ioctl(server->connection->uffd, UFFDIO_ZEROPAGE, &zero);
		got = zero.zeropage;
	} else {
		struct uffdio_copy copy = { .dst = start,
					    .src = (uintptr_t)(server->image->bytes + offset),
					    .len = length };

		result = ioctl(server->connection->uffd, UFFDIO_COPY, &copy);
		got = copy.copy;
	}
	*done = result == 0 ? length : got > 0 ? (uint64_t)got : 0;
	return result;
}

/*
 * Brings whole pages. Those that are there already stay as they are; if somebody may wait for them
 * (`awaited`), they are told.
 */
static int bring(struct server *server, const struct handler_region *region, uint64_t within,
		 uint64_t length, bool awaited, struct error *err)
{
	while (length > 0) {
		uint64_t done;

		if (place(server, region, within, length, &done) < 0) {
			switch (errno) {
			case EAGAIN: /* the monitor's mappings changed under it, or a part is done
				      */
				break;
			case EEXIST:
				/* Nobody else would tell. */
				if (awaited)
					wake(server, region->start + within + done,
					     region->page_bytes);
				done += region->page_bytes;
				break;
			case ESRCH: /* the monitor's memory is gone, with its process */
				server->ends = true;
				return 0;
			case ENODATA:
				return error_set(err, EIO,
						 "the memory file was cut under a guest: it has "
						 "nothing at offset %llu, or beyond",
						 (unsigned long long)(region->offset + within));
			default:
				return error_errno(err, "cannot bring %llu bytes at offset %llu",
						   (unsigned long long)length,
						   (unsigned long long)(region->offset + within));
			}
		}
		if (done > length)
			done = length;
		within += done;
		length -= done;
	}
	return 0;
}

static void record(struct server *server, uint64_t offset, uint64_t page_bytes, bool written)
{
	if (server->recorded.memory_bytes == 0)
		return;
	if (server->record_until_ns == 0)
		server->record_until_ns =
			clock_ns(CLOCK_MONOTONIC) + server->options->record_ms * 1000000;
	working_set_add(&server->recorded, offset, page_bytes, written);
}

/*
 * The neighbours of a page that was asked for, up to a block of its own alignment: they are likely
 * to be next, and a fault takes much longer than a copy. Not while a working set is recorded, which
 * would miss what is touched of them.
 */
static int bring_around(struct server *server, const struct handler_region *region, uint64_t page,
			struct error *err)
{
	uint64_t block = server->options->around_bytes;
	uint64_t start = page & ~(block - 1), end = start + block;
	int result;

	if (server->recorded.memory_bytes != 0 || block <= region->page_bytes)
		return 0;
	if (end > region->size_bytes)
		end = region->size_bytes;
	result = bring(server, region, page + region->page_bytes, end - (page + region->page_bytes),
		       false, err);
	return result < 0 ? result : bring(server, region, start, page - start, false, err);
}

static int serve_fault(struct server *server, const struct uffd_msg *message, struct error *err)
{
	uint64_t address = message->arg.pagefault.address, offset, page;
	bool written = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;
	int result;
	const struct handler_region *region = find_address(server->connection, address, &offset);

	if (!region)
		return error_set(err, EFAULT, "the monitor asks for 0x%llx, which it did not name",
				 (unsigned long long)address);
	page = (address - region->start) & ~(region->page_bytes - 1);
	record(server, offset & ~(region->page_bytes - 1), region->page_bytes, written);
	result = bring(server, region, page, region->page_bytes, true, err);
	return result < 0 ? result : bring_around(server, region, page, err);
}

static int serve_faults(struct server *server, struct error *err)
{
	struct uffd_msg messages[FAULTS_AT_ONCE];
	ssize_t got = read(server->connection->uffd, messages, sizeof(messages));
	int result = 0;

	if (got < 0)
		return errno == EAGAIN || errno == EINTR
			       ? 0
			       : error_errno(err, "cannot read the userfaultfd");
	for (size_t i = 0; i < (size_t)got / sizeof(messages[0]) && result == 0; i++) {
		if (messages[i].event == UFFD_EVENT_PAGEFAULT)
			result = serve_fault(server, &messages[i], err);
	}
	return result;
}

/* Brings up to STEP_BYTES from `offset` on, within one region; says how many. */
static int bring_step(struct server *server, uint64_t offset, uint64_t wanted, uint64_t *brought,
		      struct error *err)
{
	uint64_t within, start, length;
	const struct handler_region *region = find_offset(server->connection, offset, &within);

	*brought = wanted;
	if (!region)
		return 0;
	start = within & ~(region->page_bytes - 1);
	length = align_up(within + (wanted < STEP_BYTES ? wanted : STEP_BYTES), region->page_bytes);
	if (length > region->size_bytes)
		length = region->size_bytes;
	if (length - within < wanted)
		*brought = length - within;
	return bring(server, region, start, length - start, false, err);
}

/* True while there is something to bring ahead. */
static bool has_work(const struct server *server)
{
	return server->ahead.memory_bytes != 0 ||
	       (server->options->fill && server->filled_bytes < server->connection->memory_bytes);
}

static int work_ahead(struct server *server, struct error *err)
{
	struct working_set_run *run = &server->run;
	uint64_t brought;
	int result;

	if (server->ahead.memory_bytes != 0) {
		/* A run that is brought shrinks to its end. */
		if (run->length_bytes == 0 && !working_set_next(&server->ahead, run)) {
			working_set_destroy(&server->ahead);
			return 0;
		}
		result = bring_step(server, run->offset, run->length_bytes, &brought, err);
		run->offset += brought;
		run->length_bytes -= brought;
		return result;
	}
	result = bring_step(server, server->filled_bytes,
			    server->connection->memory_bytes - server->filled_bytes, &brought, err);
	server->filled_bytes += brought;
	return result;
}

/* Every page is there: from now on the monitor's memory is like any other. */
static int complete(struct server *server, struct error *err)
{
	for (unsigned int i = 0; i < server->connection->region_count; i++) {
		struct uffdio_range range = { .start = server->connection->regions[i].start,
					      .len = server->connection->regions[i].size_bytes };

		if (ioctl(server->connection->uffd, UFFDIO_UNREGISTER, &range) < 0)
			return errno == ESRCH ? 0 : error_errno(err, "cannot let go of the memory");
	}
	if (send(server->connection->fd, UFFD_COMPLETE, strlen(UFFD_COMPLETE), MSG_NOSIGNAL) < 0 &&
	    errno != EPIPE && errno != ECONNRESET)
		return error_errno(err, "cannot tell the monitor that its memory is complete");
	return 0;
}

/* Nothing touched is nothing known. A guest is as well without the file: it is not to end for it.
 */
static void end_record(struct server *server)
{
	struct error err = { 0 };

	if (server->record_until_ns != 0 &&
	    working_set_save(&server->recorded, server->options->working_set, &err) < 0) {
		error_prefix(&err, "the working set is not recorded");
		error_print(HANDLER_PROGRAM, &err);
	}
	working_set_destroy(&server->recorded);
}

/* Milliseconds until there is something to do without a fault; -1: never. */
static int time_left(const struct server *server)
{
	uint64_t now;

	if (has_work(server))
		return 0;
	if (server->recorded.memory_bytes == 0 || server->record_until_ns == 0)
		return -1;
	now = clock_ns(CLOCK_MONOTONIC);
	return server->record_until_ns <= now
		       ? 0
		       : (int)((server->record_until_ns - now + 999999) / 1000000);
}

static int turn(struct server *server, struct error *err)
{
	struct pollfd fds[] = { { .fd = server->connection->uffd, .events = POLLIN },
				{ .fd = server->connection->fd, .events = POLLIN } };
	char ignored[64];
	int result = 0;

	if (poll(fds, ARRAY_SIZE(fds), time_left(server)) < 0)
		return errno == EINTR ? 0 : error_errno(err, "cannot wait for the monitor");
	if (fds[1].revents && recv(server->connection->fd, ignored, sizeof(ignored), 0) <= 0) {
		server->ends = true;
		return 0;
	}
	if (fds[0].revents & POLLIN)
		result = serve_faults(server, err);
	else if (fds[0].revents)
		server->ends = true; /* the monitor let go of its memory */
	else if (has_work(server))
		result = work_ahead(server, err);
	if (result == 0 && server->recorded.memory_bytes != 0 && time_left(server) == 0)
		end_record(server);
	return result;
}

static int prepare(struct server *server, struct error *err)
{
	const char *path = server->options->working_set;
	uint64_t memory_bytes = server->connection->memory_bytes;
	struct error reason = { 0 };
	int result;

	if (!path)
		return 0;
	result = working_set_load(&server->ahead, memory_bytes, path, &reason);
	if (result == -ENOENT)
		return working_set_create(&server->recorded, memory_bytes, err);
	/* The monitor has been told that its guest is there: all of it comes, if later. */
	if (result < 0) {
		error_prefix(&reason, "pages are not brought ahead");
		error_print(HANDLER_PROGRAM, &reason);
	}
	return 0;
}

int serve(struct connection *connection, const struct memory_image *image,
	  const struct handler_options *options, struct error *err)
{
	struct server server = { .connection = connection, .image = image, .options = options };
	bool done = false;
	int result = prepare(&server, err);

	while (result == 0 && !server.ends && !done) {
		result = turn(&server, err);
		if (result == 0 && !server.ends && options->fill && !has_work(&server)) {
			result = complete(&server, err);
			done = true;
		}
	}
	if (result == 0 && server.recorded.memory_bytes != 0)
		end_record(&server);
	working_set_destroy(&server.ahead);
	working_set_destroy(&server.recorded);
	return result;
}

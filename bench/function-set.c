/*
 * Which kernel functions were called: reads what the function tracer wrote, keeps each address
 * once.
 *
 *   function-set TRACE_PIPE_RAW ...
 *
 * The files are per_cpu/cpuN/trace_pipe_raw of a tracing instance. They are read all the time, for
 * the tracer fills hundreds of MiB. Each line on standard input ends a phase: what was written up
 * to then is read, and the phase's functions are printed, "ADDRESS COUNT WHERE" a line (WHERE: t
 * for a process's own context, s for a soft interrupt in it, i for an interrupt, the first that
 * applies to any call), then "end CALLS". The end of standard input ends the program.
 *
 * Source: Linux Documentation/trace/ring-buffer-map.rst and include/linux/ring_buffer.h: a page is
 * a time stamp, its length with flags, then events of 32-bit headers; kernel/trace/trace.h, struct
 * ftrace_entry and enum trace_flag_type.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES	4096
#define PAGE_HEAD_BYTES 16
#define LENGTH_MASK	0xfffffu /* of a page's length; above it are flags */
#define MISSED_EVENTS	(1u << 31)

/* enum ring_buffer_type */
#define TYPE_PADDING	 29
#define TYPE_TIME_EXTEND 30
#define TYPE_TIME_STAMP	 31

#define TRACE_FN     1
#define FLAG_HARDIRQ 0x08
#define FLAG_SOFTIRQ 0x10
#define FLAG_NMI     0x40

#define MAX_CPUS 64
#define TABLE	 (1u << 17) /* kernels have some 60,000 functions */

enum where {
	WHERE_TASK = 1,
	WHERE_SOFT = 2,
	WHERE_HARD = 4
};

struct function {
	uint64_t address;
	uint64_t count;
	unsigned int where;
};

struct event {
	uint16_t type;
	uint8_t flags, preempt_count;
	int32_t pid;
	uint64_t address, parent;
};

static struct function table[TABLE];
static uint64_t calls, missed;

static void die(const char *what)
{
	fprintf(stderr, "function-set: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void note(const struct event *event)
{
	size_t at = (size_t)(event->address * 0x9e3779b97f4a7c15ULL >> 40) % TABLE;
	unsigned int where = WHERE_TASK;

	if (event->flags & (FLAG_HARDIRQ | FLAG_NMI))
		where = WHERE_HARD;
	else if (event->flags & FLAG_SOFTIRQ)
		where = WHERE_SOFT;
	for (size_t tries = 0; tries < TABLE; tries++, at = (at + 1) % TABLE) {
		if (table[at].count != 0 && table[at].address != event->address)
			continue;
		table[at].address = event->address;
		table[at].count++;
		table[at].where |= where;
		calls++;
		return;
	}
	errno = ENOSPC;
	die("more functions than expected");
}

/* Events of one page; `length` bytes of them. */
static void use_events(const uint8_t *data, size_t length)
{
	size_t at = 0;

	while (at + 4 <= length) {
		uint32_t head, size;
		size_t begin = at + 4;
		struct event event;

		memcpy(&head, data + at, 4);
		switch (head & 31) {
		case TYPE_PADDING:
			if (head >> 5 == 0)
				return; /* the rest of the page */
			if (begin + 4 > length)
				return;
			memcpy(&size, data + begin, 4);
			at = begin + size;
			continue;
		case TYPE_TIME_EXTEND:
		case TYPE_TIME_STAMP:
			at = begin + 4;
			continue;
		case 0: /* the length follows, itself counted */
			if (begin + 4 > length)
				return;
			memcpy(&size, data + begin, 4);
			at = begin + size;
			begin += 4;
			break;
		default:
			at = begin + 4 * (size_t)(head & 31);
		}
		if (at > length || at < begin || at - begin < sizeof(event))
			continue;
		memcpy(&event, data + begin, sizeof(event));
		if (event.type == TRACE_FN)
			note(&event);
	}
}

/* Returns false when nothing is there. */
static bool read_page(int fd)
{
	uint8_t page[PAGE_BYTES];
	uint64_t length;
	ssize_t got = read(fd, page, sizeof(page));

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got < 0)
		die("cannot read the trace");
	if ((size_t)got < PAGE_HEAD_BYTES)
		return false;
	memcpy(&length, page + 8, sizeof(length));
	if (length & MISSED_EVENTS)
		missed++;
	length &= LENGTH_MASK;
	if (length > (size_t)got - PAGE_HEAD_BYTES)
		length = (size_t)got - PAGE_HEAD_BYTES;
	use_events(page + PAGE_HEAD_BYTES, length);
	return true;
}

static void print_phase(void)
{
	for (size_t i = 0; i < TABLE; i++) {
		unsigned int where = table[i].where;

		if (table[i].count)
			printf("%" PRIx64 " %" PRIu64 " %c\n", table[i].address, table[i].count,
			       where & WHERE_TASK   ? 't'
			       : where & WHERE_SOFT ? 's'
						    : 'i');
	}
	if (missed)
		printf("missed %" PRIu64 "\n", missed);
	printf("end %" PRIu64 "\n", calls);
	fflush(stdout);
	memset(table, 0, sizeof(table));
	calls = missed = 0;
}

int main(int argc, char **argv)
{
	struct pollfd command = { .fd = STDIN_FILENO, .events = POLLIN };
	int fds[MAX_CPUS], count = 0;
	bool ends = false;

	for (int i = 1; i < argc && count < MAX_CPUS; i++) {
		fds[count] = open(argv[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fds[count] < 0)
			die(argv[i]);
		count++;
	}
	if (count == 0) {
		fprintf(stderr, "usage: function-set TRACE_PIPE_RAW ...\n");
		return 2;
	}
	while (!ends) {
		bool asked = false, any = true;
		char line[64];

		if (poll(&command, 1, 20) > 0) {
			ssize_t got = read(STDIN_FILENO, line, sizeof(line));

			asked = got > 0;
			ends = got <= 0;
		}
		while (any) {
			any = false;
			for (int i = 0; i < count; i++) {
				while (read_page(fds[i]))
					any = true;
			}
			if (!asked)
				break; /* to see a line */
		}
		if (asked)
			print_phase();
	}
	return 0;
}

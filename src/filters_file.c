/*
 * Reads compiled system-call filters (--seccomp-filter): see include/mayfly/filters.h for the
 * format.
 *
 * All that the kernel would refuse is refused here, before there is a guest, by its place in the
 * file: taken are the instructions that compilers of filters use (no scratch memory, no index
 * register), loads within struct seccomp_data, jumps that stay in the program, and a return at its
 * end (Linux kernel/seccomp.c, seccomp_check_filter(); net/core/filter.c, bpf_check_classic()).
 */
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/stat.h>

#include "mayfly/filters.h"

#define FILE_MAX_BYTES                                            \
	(sizeof(struct filters_file_head) +                       \
	 FILTERS_THREADS * (sizeof(struct filters_file_program) + \
			    BPF_MAXINSNS * sizeof(struct sock_filter)))

static const char *const thread_names[FILTERS_THREADS] = {
	[FILTERS_VMM] = "vmm",
	[FILTERS_VCPU] = "vcpu",
	[FILTERS_UFFD] = "uffd",
	[FILTERS_FORK] = "fork",
};

struct reader {
	const uint8_t *data;
	size_t bytes, offset;
	const char *name;
	struct error *err;
};

static int refuse_at(const struct reader *reader, size_t offset, const char *what)
{
	return error_set(reader->err, EINVAL, "system-call filters %s: offset %zu: %s",
			 reader->name, offset, what);
}

/* Copies what comes next; false: there is not so much. */
static bool take(struct reader *reader, void *destination, size_t bytes)
{
	if (bytes > reader->bytes - reader->offset)
		return false;
	memcpy(destination, reader->data + reader->offset, bytes);
	reader->offset += bytes;
	return true;
}

/* Of a jump, how many of the instructions behind it the farthest target leaves out. */
static uint32_t jump_distance(const struct sock_filter *instruction)
{
	if (BPF_OP(instruction->code) == BPF_JA)
		return instruction->k;
	return instruction->jt > instruction->jf ? instruction->jt : instruction->jf;
}

/* NULL, or what is wrong with it. `left` is the number of instructions behind this one. */
static const char *check_instruction(const struct sock_filter *instruction, uint32_t left)
{
	switch (instruction->code) {
	case BPF_LD | BPF_W | BPF_ABS:
		if (instruction->k % sizeof(uint32_t) ||
		    instruction->k > sizeof(struct seccomp_data) - sizeof(uint32_t))
			return "a load from outside of what a filter is given";
		return NULL;
	case BPF_JMP | BPF_JA:
	case BPF_JMP | BPF_JEQ | BPF_K:
	case BPF_JMP | BPF_JGE | BPF_K:
	case BPF_JMP | BPF_JGT | BPF_K:
	case BPF_JMP | BPF_JSET | BPF_K:
		return jump_distance(instruction) < left ? NULL : "a jump out of the program";
	case BPF_ALU | BPF_AND | BPF_K:
	case BPF_RET | BPF_K:
	case BPF_RET | BPF_A:
		return NULL;
	default:
		return "an instruction that filters do not use";
	}
}

static int check_program(const struct reader *reader, size_t offset,
			 const struct sock_filter *instructions, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const char *wrong = check_instruction(&instructions[i], count - 1 - i);

		if (wrong)
			return refuse_at(reader, offset + i * sizeof(instructions[0]), wrong);
	}
	if (BPF_CLASS(instructions[count - 1].code) != BPF_RET)
		return refuse_at(reader, offset + (count - 1) * sizeof(instructions[0]),
				 "the program does not end with a return");
	return 0;
}

static int find_thread(const char *name)
{
	for (int i = 0; i < FILTERS_THREADS; i++) {
		char wanted[sizeof(((struct filters_file_program *)0)->thread)] = "";

		strncpy(wanted, thread_names[i], sizeof(wanted) - 1);
		if (memcmp(name, wanted, sizeof(wanted)) == 0)
			return i;
	}
	return -1;
}

static int parse_program(struct filters *filters, struct reader *reader, struct sock_filter *room)
{
	size_t start = reader->offset, offset = start + sizeof(struct filters_file_program);
	struct filters_file_program head;
	int thread, result;

	if (!take(reader, &head, sizeof(head)))
		return refuse_at(reader, start, "the file ends within a program's head");
	thread = find_thread(head.thread);
	if (thread < 0)
		return refuse_at(reader, start, "the thread is none of vmm, vcpu, uffd and fork");
	if (filters->programs[thread].count)
		return refuse_at(reader, start, "a second program for the same thread");
	if (head.instruction_count == 0 || head.instruction_count > BPF_MAXINSNS)
		return refuse_at(reader,
				 start + offsetof(struct filters_file_program, instruction_count),
				 "a program has from 1 to 4096 instructions");
	if (head.reserved)
		return refuse_at(reader, start + offsetof(struct filters_file_program, reserved),
				 "this must be 0");
	if (!take(reader, room, head.instruction_count * sizeof(*room)))
		return refuse_at(reader, offset, "the file ends within a program");
	result = check_program(reader, offset, room, head.instruction_count);
	if (result < 0)
		return result;
	filters->programs[thread] =
		(struct filters_program) { room, (unsigned short)head.instruction_count };
	return (int)head.instruction_count;
}

static int parse_head(struct reader *reader, uint32_t *program_count)
{
	struct filters_file_head head;

	if (!take(reader, &head, sizeof(head)))
		return refuse_at(reader, 0, "the file is too short for its head");
	if (memcmp(head.magic, FILTERS_FILE_MAGIC, sizeof(head.magic)) != 0)
		return refuse_at(reader, 0,
				 "this is no file of filters (mayfly-seccomp compile makes one)");
	if (head.version != FILTERS_FILE_VERSION)
		return refuse_at(reader, offsetof(struct filters_file_head, version),
				 "a version that this Mayfly does not know");
	if (head.architecture != AUDIT_ARCH_X86_64)
		return refuse_at(reader, offsetof(struct filters_file_head, architecture),
				 "the filters are for another architecture");
	if (head.program_count < FILTERS_THREADS - 2 || head.program_count > FILTERS_THREADS)
		return refuse_at(
			reader, offsetof(struct filters_file_head, program_count),
			"there are two to four programs: vmm, vcpu, and maybe uffd and fork");
	if (head.reserved)
		return refuse_at(reader, offsetof(struct filters_file_head, reserved),
				 "this must be 0");
	*program_count = head.program_count;
	return 0;
}

/* Files older than these have nothing for them: they may what the main thread may. */
static int complete(struct filters *filters, const struct reader *reader)
{
	if (!filters->programs[FILTERS_VMM].count || !filters->programs[FILTERS_VCPU].count)
		return refuse_at(reader, reader->offset, "vmm and vcpu each need a program");
	if (!filters->programs[FILTERS_UFFD].count)
		filters->programs[FILTERS_UFFD] = filters->programs[FILTERS_VMM];
	if (!filters->programs[FILTERS_FORK].count)
		filters->programs[FILTERS_FORK] = filters->programs[FILTERS_VMM];
	return 0;
}

int filters_parse(struct filters *filters, const void *data, size_t bytes, const char *name,
		  struct error *err)
{
	struct reader reader = { .data = data, .bytes = bytes, .name = name, .err = err };
	struct sock_filter *room;
	uint32_t program_count = 0;
	int result;

	*filters = (struct filters) { 0 };
	result = parse_head(&reader, &program_count);
	if (result < 0)
		return result;
	/* Never more than the file is long, and that is more than its head. */
	room = filters->owned = malloc(bytes + 1);
	if (!room)
		return error_set(err, ENOMEM, "no memory for the system-call filters");
	for (uint32_t i = 0; result >= 0 && i < program_count; i++) {
		result = parse_program(filters, &reader, room);
		room += result > 0 ? result : 0;
	}
	if (result >= 0)
		result = reader.offset == reader.bytes
				 ? 0
				 : refuse_at(&reader, reader.offset,
					     "there is something behind the last program");
	if (result == 0)
		result = complete(filters, &reader);
	if (result < 0)
		filters_clear(filters);
	return result;
}

int filters_load(struct filters *filters, const char *path, struct error *err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	cleanup_free uint8_t *data = NULL;
	struct stat status;
	size_t length = 0;
	ssize_t got = 1;

	*filters = (struct filters) { 0 };
	if (fd < 0 || fstat(fd, &status) < 0)
		return error_errno(err, "cannot open the system-call filters %s", path);
	if (!S_ISREG(status.st_mode))
		return error_set(err, EINVAL, "the system-call filters %s are no regular file",
				 path);
	data = malloc(FILE_MAX_BYTES + 1);
	if (!data)
		return error_set(err, ENOMEM, "no memory for the system-call filters %s", path);
	while (got > 0 && length <= FILE_MAX_BYTES) {
		got = read(fd, data + length, FILE_MAX_BYTES + 1 - length);
		if (got < 0)
			return error_errno(err, "cannot read the system-call filters %s", path);
		length += (size_t)got;
	}
	if (length > FILE_MAX_BYTES)
		return error_set(
			err, EFBIG,
			"system-call filters %s: offset %zu: the file is longer than any filters are",
			path, FILE_MAX_BYTES);
	return filters_parse(filters, data, length, path, err);
}

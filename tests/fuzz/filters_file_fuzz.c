/*
 * The file of --seccomp-filter with hostile bytes. Once as they are; once as the instructions of
 * its programs in a file whose heads are right, behind which most of the checks lie. Whatever
 * comes: what is accepted is what the kernel takes (jumps forward and within the program, loads
 * within what a filter is given, a return at the end), and what is refused says where.
 */
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_input.h"
#include "mayfly/filters.h"

#define FILE_BYTES 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

/* The kernel's rules, said again: net/core/filter.c and kernel/seccomp.c. */
static void check_program(const struct filters_program *program)
{
	FUZZ_CHECK(program->count > 0 && program->count <= BPF_MAXINSNS);
	for (unsigned int at = 0; at < program->count; at++) {
		const struct sock_filter *one = &program->instructions[at];
		unsigned int behind = program->count - at - 1;

		switch (BPF_CLASS(one->code)) {
		case BPF_LD:
			FUZZ_CHECK(one->k % 4 == 0 && one->k < sizeof(struct seccomp_data));
			break;
		case BPF_JMP:
			if (BPF_OP(one->code) == BPF_JA)
				FUZZ_CHECK(one->k < behind);
			else
				FUZZ_CHECK(one->jt < behind && one->jf < behind);
			break;
		case BPF_ALU:
		case BPF_RET:
			break;
		default:
			FUZZ_CHECK(false);
		}
	}
	FUZZ_CHECK(BPF_CLASS(program->instructions[program->count - 1].code) == BPF_RET);
}

static void parse(const uint8_t *data, size_t length)
{
	/* A copy of its own size, so that a read behind it is found. */
	uint8_t *copy = malloc(length ? length : 1);
	struct filters filters;
	struct error err = { 0 };

	FUZZ_CHECK(copy != NULL);
	if (length)
		memcpy(copy, data, length);
	if (filters_parse(&filters, copy, length, "f", &err) < 0) {
		FUZZ_CHECK(strncmp(err.message, "system-call filters f: offset ", 30) == 0);
		FUZZ_CHECK(!filters.owned && !filters.programs[FILTERS_VMM].count);
	} else {
		for (unsigned int i = 0; i < FILTERS_THREADS; i++)
			check_program(&filters.programs[i]);
	}
	filters_clear(&filters);
	free(copy);
}

static void put(uint8_t *file, size_t *used, const void *bytes, size_t length)
{
	memcpy(file + *used, bytes, length);
	*used += length;
}

/* The first byte says how much of the rest is whose. */
static void parse_as_instructions(struct fuzz_input *input)
{
	static const char *const names[] = { "vmm", "vcpu", "uffd", "fork" };
	static uint8_t file[FILE_BYTES];
	uint32_t total = (uint32_t)((input->length - 1) / sizeof(struct sock_filter));
	uint8_t share = input_u8(input);
	struct filters_file_head head = { .magic = FILTERS_FILE_MAGIC,
					  .version = FILTERS_FILE_VERSION,
					  .architecture = AUDIT_ARCH_X86_64,
					  .program_count = 2 + share % 3 };
	size_t used = 0;

	put(file, &used, &head, sizeof(head));
	for (uint32_t i = 0; i < head.program_count; i++) {
		uint32_t left = head.program_count - i;
		struct filters_file_program program = {
			.instruction_count = left == 1 ? total : total * share / 256 / left,
		};

		strcpy(program.thread, names[i]);
		total -= program.instruction_count;
		put(file, &used, &program, sizeof(program));
		for (uint32_t at = 0; at < program.instruction_count; at++) {
			struct sock_filter one;

			input_bytes(input, &one, sizeof(one));
			put(file, &used, &one, sizeof(one));
		}
	}
	parse(file, used);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	struct fuzz_input input = { data, length };

	parse(data, length);
	if (length > sizeof(struct sock_filter) && length < FILE_BYTES - 256)
		parse_as_instructions(&input);
	return 0;
}

/* A vCPU in a state file: src/vcpu_state.c. */
#include <criterion/criterion.h>
#include <string.h>

#include "src/vcpu_state.h"

#define XSAVE_BYTES 4160

/* Every byte that is kept is another, and what has a count has some. */
static struct vcpu_state *make_state(void)
{
	struct vcpu_state *state = calloc(1, sizeof(*state));
	uint8_t *bytes = (uint8_t *)state;

	cr_assert(state);
	for (size_t i = 0; i < sizeof(*state); i++)
		bytes[i] = (uint8_t)(i * 37 + i / 251 + 1);
	state->cpuid.head.nent = 3;
	state->xcrs.nr_xcrs = 2;
	state->msrs.head.nmsrs = 5;
	state->xsave_bytes = XSAVE_BYTES;
	return state;
}

static void write_state(const struct vcpu_state *state, struct state_writer *writer)
{
	struct error err = { 0 };

	state_writer_init(writer);
	vcpu_state_write(state, 3, writer);
	cr_assert_eq(state_writer_finish(writer, &err), 0, "%s", err.message);
}

static int read_state(struct vcpu_state *state, const struct state_writer *writer,
		      struct error *err)
{
	struct state_file file;
	int result;

	cr_assert_eq(state_file_parse(&file, writer->bytes, writer->used_bytes, err), 0, "%s",
		     err->message);
	result = vcpu_state_read(state, 3, &file, err);
	state_file_close(&file);
	return result;
}

Test(vcpu_state, all_of_it_comes_back)
{
	struct vcpu_state *before = make_state(), *after = make_state();
	struct state_writer first, second;
	struct error err = { 0 };

	write_state(before, &first);
	cr_assert_eq(read_state(after, &first, &err), 0, "%s", err.message);
	cr_assert_arr_eq(&after->regs, &before->regs, sizeof(after->regs));
	cr_assert_eq(after->sregs.gs.base, before->sregs.gs.base);
	cr_assert_eq(after->sregs.pdptrs[3], before->sregs.pdptrs[3]);
	cr_assert_eq(after->events.smi.latched_init, before->events.smi.latched_init);
	cr_assert_eq(after->msrs.entries[4].data, before->msrs.entries[4].data);
	cr_assert_arr_eq(after->xsave, before->xsave, XSAVE_BYTES);
	write_state(after, &second);
	cr_assert_eq(first.used_bytes, second.used_bytes);
	cr_assert_arr_eq(first.bytes, second.bytes, first.used_bytes);
	state_writer_destroy(&first);
	state_writer_destroy(&second);
	free(before);
	free(after);
}

Test(vcpu_state, every_cut_of_the_section_and_every_extra_byte_is_refused)
{
	struct vcpu_state *state = make_state(), *read = malloc(sizeof(*read));
	struct state_writer whole;
	struct state_file file;
	uint32_t length;

	write_state(state, &whole);
	cr_assert_eq(state_file_parse(&file, whole.bytes, whole.used_bytes, NULL), 0);
	length = file.entries[0].body_bytes;
	/* The XSAVE area alone is long; its inside is one field. */
	for (uint32_t cut = 0; cut <= length + 1;
	     cut += cut + 64 < length - XSAVE_BYTES || cut + 64 > length ? 1 : 64) {
		struct error err = { 0 };
		struct state_writer writer;

		if (cut == length)
			continue;
		state_writer_init(&writer);
		state_begin(&writer, VCPU_STATE_SECTION, "3", VCPU_STATE_VERSION);
		for (uint32_t i = 0; i < cut; i++)
			state_put_u8(&writer, i < length ? file.entries[0].body[i] : 0);
		state_end(&writer);
		cr_assert_eq(state_writer_finish(&writer, &err), 0);
		cr_assert_eq(read_state(read, &writer, &err), -EINVAL, "cut at %u", cut);
		cr_assert(strstr(err.message, "section vcpu 3"), "%s", err.message);
		state_writer_destroy(&writer);
	}
	state_file_close(&file);
	state_writer_destroy(&whole);
	free(read);
	free(state);
}

Test(vcpu_state, counts_and_lengths_that_cannot_be_are_named)
{
	static const struct {
		size_t offset;
		uint32_t value;
		const char *words;
	} cases[] = {
		{ offsetof(struct vcpu_state, xcrs.nr_xcrs), KVM_MAX_XCRS + 1,
		  "xcrs: there are 17" },
		{ offsetof(struct vcpu_state, xsave_bytes), 4095, "xsave: it has 4095 bytes" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		/* Room behind it: the writer takes as much as it is told. */
		struct vcpu_state *state = make_state(), *read = malloc(sizeof(*read));
		struct state_writer writer;
		struct error err = { 0 };

		*(uint32_t *)(void *)((char *)state + cases[i].offset) = cases[i].value;
		write_state(state, &writer);
		cr_assert_eq(read_state(read, &writer, &err), -EINVAL);
		cr_assert(strstr(err.message, cases[i].words), "%s", err.message);
		state_writer_destroy(&writer);
		free(state);
		free(read);
	}
}

Test(vcpu_state, a_vcpu_that_is_not_there_is_missing)
{
	struct vcpu_state *state = make_state();
	struct state_writer writer;
	struct state_file file;
	struct error err = { 0 };

	write_state(state, &writer);
	cr_assert_eq(state_file_parse(&file, writer.bytes, writer.used_bytes, &err), 0);
	cr_assert_eq(vcpu_state_read(state, 0, &file, &err), -ENOENT);
	cr_assert_str_eq(err.message, "section vcpu 0 is missing");
	state_file_close(&file);
	state_writer_destroy(&writer);
	free(state);
}

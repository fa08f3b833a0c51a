/* See compile.h. */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compile.h"

static uint32_t kernel_action(const struct rule *rule)
{
	switch (rule->action) {
	case RULE_ALLOW:
		return SCMP_ACT_ALLOW;
	case RULE_REFUSE:
		return SCMP_ACT_ERRNO((uint32_t)rule->error);
	case RULE_KILL:
		break;
	}
	return SCMP_ACT_KILL_PROCESS;
}

static int add_rule(scmp_filter_ctx context, const struct rule *rule)
{
	struct scmp_arg_cmp comparisons[DEFINITION_MAX_CONDITIONS];

	for (unsigned int i = 0; i < rule->condition_count; i++) {
		const struct condition *condition = &rule->conditions[i];

		/* The mask has no upper half: what the kernel takes as an int may have anything
		 * there. */
		comparisons[i] = (struct scmp_arg_cmp) {
			.arg = condition->argument,
			.op = SCMP_CMP_MASKED_EQ,
			.datum_a = condition->mask,
			.datum_b = condition->value,
		};
	}
	return seccomp_rule_add_exact_array(context, kernel_action(rule), rule->number,
					    rule->condition_count, comparisons);
}

static int build(scmp_filter_ctx context, const struct definition *definition,
		 enum filter_thread thread)
{
	int result = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

	/* A tree over the numbers: whichever call it is, a dozen comparisons find it. */
	if (result == 0)
		result = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (unsigned int i = 0; result == 0 && i < definition->rule_count; i++) {
		const struct rule *rule = &definition->rules[i];

		if (!(rule->threads & 1U << thread))
			continue;
		result = add_rule(context, rule);
		if (result < 0)
			fprintf(stderr, "%s:%u: libseccomp refuses this rule\n", definition->path,
				rule->line);
	}
	return result;
}

/* libseccomp writes programs to descriptors only. */
static int take_out(scmp_filter_ctx context, struct compiled *compiled)
{
	int fd = memfd_create("filter", MFD_CLOEXEC);
	int result = fd < 0 ? -errno : seccomp_export_bpf(context, fd);
	struct stat status;

	if (result == 0 && fstat(fd, &status) < 0)
		result = -errno;
	if (result == 0) {
		compiled->count =
			(unsigned int)((size_t)status.st_size / sizeof(struct sock_filter));
		compiled->instructions = malloc((size_t)status.st_size);
		if (!compiled->instructions)
			result = -ENOMEM;
		else if (pread(fd, compiled->instructions, (size_t)status.st_size, 0) !=
			 status.st_size)
			result = -EIO;
	}
	if (fd >= 0)
		close(fd);
	return result;
}

bool compile_thread(const struct definition *definition, enum filter_thread thread,
		    struct compiled *compiled)
{
	scmp_filter_ctx context = seccomp_init(SCMP_ACT_TRAP);
	int result = -ENOMEM;

	*compiled = (struct compiled) { 0 };
	if (context) {
		result = build(context, definition, thread);
		if (result == 0)
			result = take_out(context, compiled);
		seccomp_release(context);
	}
	if (result == 0 && compiled->count <= BPF_MAXINSNS)
		return true;
	fprintf(stderr, "%s: the filter of %s cannot be made: %s\n", definition->path,
		filter_thread_name(thread),
		result == 0 ? "it is too long for the kernel" : strerror(-result));
	free(compiled->instructions);
	compiled->instructions = NULL;
	return false;
}

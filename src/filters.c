/*
 * Installs system-call filters: see include/mayfly/filters.h. What they allow is in
 * jail/filters/mayfly.filter.
 *
 * System calls: prctl (PR_SET_NO_NEW_PRIVS), seccomp.
 */
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "filters_programs.h" /* made when Mayfly is built */
#include "mayfly/filters.h"

bool filters_are_default(void)
{
	return MAYFLY_FILTERS;
}

void filters_use_built_in(struct filters *filters)
{
	*filters = (struct filters) { 0 };
	filters->programs[FILTERS_VMM] =
		(struct filters_program) { vmm_program, ARRAY_SIZE(vmm_program) };
	filters->programs[FILTERS_VCPU] =
		(struct filters_program) { vcpu_program, ARRAY_SIZE(vcpu_program) };
	filters->programs[FILTERS_UFFD] =
		(struct filters_program) { uffd_program, ARRAY_SIZE(uffd_program) };
	filters->programs[FILTERS_FORK] =
		(struct filters_program) { fork_program, ARRAY_SIZE(fork_program) };
}

void filters_clear(struct filters *filters)
{
	free(filters->owned);
	*filters = (struct filters) { 0 };
}

static const char *const thread_words[FILTERS_THREADS] = {
	[FILTERS_VMM] = "main thread",
	[FILTERS_VCPU] = "vCPU threads",
	[FILTERS_UFFD] = "thread that watches the handler",
	[FILTERS_FORK] = "main thread",
};

int filters_enter(const struct filters *filters, enum filters_thread thread, struct error *err)
{
	const struct filters_program *program = filters ? &filters->programs[thread] : NULL;
	struct sock_fprog given;

	if (!program || !program->count)
		return 0;
	/* The kernel only reads it. */
	given = (struct sock_fprog) {
		.len = program->count,
		.filter = (struct sock_filter *)(uintptr_t)program->instructions
	};
	/* Without it the kernel takes filters of the privileged only. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(err, "cannot give up the right to new privileges");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &given) < 0)
		return error_errno(
			err,
			"the kernel does not take the system-call filter of the %s (--no-seccomp starts without)",
			thread_words[thread]);
	return 0;
}

const char *filters_call_name(unsigned int number)
{
	const char *name = call_names;

	if (number >= CALL_NAMES)
		return "?";
	while (number-- > 0)
		name += strlen(name) + 1;
	return *name ? name : "?";
}

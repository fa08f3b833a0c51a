/*
 * A double of vmm for the tests of the API: remembers what it was asked, keeps the configuration,
 * and fails when told to. It has no rules of its own, so that a test sees what the API itself does.
 */
#ifndef TESTS_VMM_MOCK_H
#define TESTS_VMM_MOCK_H

#include "mayfly/vmm.h"

struct vmm {
	enum vmm_state state;
	struct vm_config config;
	struct log log;
	const char *failure; /* not NULL: every call fails with this message */
	/* A fork's answer, which is given with the next FlushMetrics; NULL: none is under way. */
	void (*on_forked)(void *context, const struct vmm_fork_report *report,
			  const struct error *err);
	void *fork_context;
	char calls[4096]; /* one line a call: its name and what tells it from others */
};

void vmm_mock_init(struct vmm *vmm);
void vmm_mock_clear(struct vmm *vmm);

#endif

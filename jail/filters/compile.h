/* From a definition to the program for the kernel (seccomp(2), classic BPF), by libseccomp. */
#ifndef JAIL_FILTERS_COMPILE_H
#define JAIL_FILTERS_COMPILE_H

#include <linux/filter.h>

#include "definition.h"

struct compiled {
	struct sock_filter *instructions; /* free() */
	unsigned int count;
};

/* False, and a message on standard error, when libseccomp cannot. */
bool compile_thread(const struct definition *definition, enum filter_thread thread,
		    struct compiled *compiled);

#endif

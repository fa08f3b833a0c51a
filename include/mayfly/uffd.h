/*
 * Guest memory that another process fills, page by page as it is touched: userfaultfd(2).
 *
 * The handler listens on a Unix stream socket. It gets one message: the userfaultfd by SCM_RIGHTS,
 * and a JSON array with one object for each region of guest memory,
 *
 *	{"base_host_virt_addr": 140000000, "size": 134217728, "offset": 0, "page_size": 4096}
 *
 * where `offset` is the region's place in the memory file and all numbers are bytes. From then on a
 * page that is missing waits for the handler. The connection stays open: its end is the end of the
 * handler, and so of the guest, whose threads may wait for pages that nobody brings. A handler that
 * has brought every page may say so with the line "complete" and go.
 *
 * Which is why a thread of its own waits for that: every other one, the main thread too, may be
 *among those that wait for a page.
 */
#ifndef MAYFLY_UFFD_H
#define MAYFLY_UFFD_H

#include "mayfly/filters.h"
#include "mayfly/log.h"
#include "mayfly/memory.h"

#define UFFD_COMPLETE "complete\n"

struct uffd;

struct uffd_options {
	const char *path;	       /* the handler's socket */
	struct memory *memory;	       /* new and untouched; borrowed until uffd_destroy() */
	struct log *log;	       /* likewise */
	const struct filters *filters; /* for the thread, the main thread's; NULL: none */
	/* The handler is gone. Called once, by the thread; must end the process. */
	void (*on_lost)(void *context);
	void *context;
};

/*
 * Hands the memory over to the handler. The message names the path, or says what the host must
 * allow for userfaultfd. Main thread.
 */
int uffd_create(struct uffd **uffd, const struct uffd_options *options, struct error *err);

/* Before the memory goes. Main thread; NULL is fine. */
void uffd_destroy(struct uffd *uffd);

#endif

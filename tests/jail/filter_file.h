/* A file of mayfly-seccomp, for programs that put themselves behind one of its filters. */
#ifndef TESTS_JAIL_FILTER_FILE_H
#define TESTS_JAIL_FILTER_FILE_H

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "mayfly/filters.h"

/* The program of this thread; -1: there is none. It lies in a place that the next call overwrites.
 */
static inline int filter_file_find(FILE *file, const char *thread, struct sock_fprog *program)
{
	static struct sock_filter room[BPF_MAXINSNS];
	struct filters_file_program head;
	struct filters_file_head first;

	if (fread(&first, sizeof(first), 1, file) != 1)
		return -1;
	while (fread(&head, sizeof(head), 1, file) == 1 && head.instruction_count <= BPF_MAXINSNS) {
		if (fread(room, sizeof(room[0]), head.instruction_count, file) !=
		    head.instruction_count)
			return -1;
		if (strncmp(head.thread, thread, sizeof(head.thread)) == 0) {
			*program = (struct sock_fprog) { (unsigned short)head.instruction_count,
							 room };
			return 0;
		}
	}
	return -1;
}

/* For the calling thread, and those that it makes. */
static inline int filter_enter(const struct sock_fprog *program)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program);
}

#endif

/*
 * Runs a program for which some system calls are denied, as containers deny them:
 *
 *   deny CALL[,CALL...] PROGRAM [ARGUMENT ...]
 *
 * A denied call fails with EPERM. seccomp(2).
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_CALLS 16

static const struct {
	const char *name;
	unsigned int number;
} calls[] = {
	{ "pivot_root", SYS_pivot_root }, { "open_tree", SYS_open_tree },
	{ "move_mount", SYS_move_mount }, { "mount", SYS_mount },
	{ "unshare", SYS_unshare },	  { "keyctl", SYS_keyctl },
	{ "mknodat", SYS_mknodat },	  { "chroot", SYS_chroot },
};

static int find_call(const char *name, size_t length, unsigned int *number)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (strlen(calls[i].name) == length && memcmp(calls[i].name, name, length) == 0) {
			*number = calls[i].number;
			return 0;
		}
	}
	return -1;
}

int main(int argc, char **argv)
{
	struct sock_filter code[2 * MAX_CALLS + 2] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	struct sock_fprog program = { .filter = code };
	unsigned short length = 1;
	const char *list;

	if (argc < 3)
		return 2;
	for (list = argv[1]; *list && length < 2 * MAX_CALLS; list += *list == ',') {
		size_t name_length = strcspn(list, ",");
		unsigned int number;

		if (find_call(list, name_length, &number) < 0) {
			fprintf(stderr, "deny: no system call '%s'\n", list);
			return 2;
		}
		code[length++] =
			(struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
		code[length++] =
			(struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
		list += name_length;
	}
	code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program.len = length;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
		perror("deny");
		return 2;
	}
	execv(argv[2], argv + 2);
	perror(argv[2]);
	return 2;
}

/*
 * Makes system calls under one of the monitor's filters and says what becomes of each:
 *
 *   every_call FILE vmm|vcpu|uffd|fork
 *
 * FILE is one of mayfly-seccomp. A line of standard input is a call: its number and six arguments.
 * Each is made in a process of its own, and answered with a line: "allowed", "refused ERRNO" (only
 * when it was -1 with an errno of seccomp's, which the caller knows to expect), "trapped NUMBER"
 * (by SIGSYS, to a handler), or "killed".
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filter_file.h"

/* What a child says of itself. */
static struct told {
	int trapped; /* number of the call, or -1 */
	int error;   /* of the call that returned */
} * told;

static void handle_sigsys(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	told->trapped = info->si_syscall;
	_exit(0);
}

static void make_call(const struct sock_fprog *program, const long *words)
{
	struct sigaction action = { .sa_sigaction = handle_sigsys, .sa_flags = SA_SIGINFO };

	sigaction(SIGSYS, &action, NULL);
	if (filter_enter(program) < 0) {
		told->error = -1;
		_exit(0);
	}
	errno = 0;
	syscall(words[0], words[1], words[2], words[3], words[4], words[5], words[6]);
	told->error = errno;
	syscall(SYS_exit_group, 0);
}

static void try_call(const struct sock_fprog *program, const long *words)
{
	int status = 0;
	pid_t pid;

	*told = (struct told) { .trapped = -1 };
	pid = fork();
	if (pid == 0)
		make_call(program, words);
	waitpid(pid, &status, 0);
	if (pid < 0 || told->error == -1)
		printf("failed\n");
	else if (told->trapped >= 0)
		printf("trapped %d\n", told->trapped);
	else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		printf("killed\n");
	else if (told->error == ENOMEM)
		printf("refused %d\n", told->error);
	else
		printf("allowed\n");
}

int main(int argc, char **argv)
{
	struct sock_fprog program;
	long words[7];
	FILE *file;

	if (argc != 3)
		return 2;
	file = fopen(argv[1], "re");
	if (!file || filter_file_find(file, argv[2], &program) < 0)
		return 1;
	fclose(file);
	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (told == MAP_FAILED)
		return 1;
	/* Children share standard input: what they do to it must not be noticed. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%li %li %li %li %li %li %li", &words[0], &words[1], &words[2], &words[3],
		     &words[4], &words[5], &words[6]) == 7)
		try_call(&program, words);
	return 0;
}

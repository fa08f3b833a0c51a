/* What Landlock takes away, each in a child that was restricted; and what it must leave. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "mayfly/landlock.h"

static char folder[] = "/tmp/mayfly-landlock-XXXXXX";

static void setup(void)
{
	cr_assert_not_null(mkdtemp(folder));
	cr_assert_eq(chdir(folder), 0);
	cr_assert_eq(mkdir("sub", 0700), 0);
}

static void teardown(void)
{
	static const char *const files[] = { "a", "b", "sub/a", "sub/b", "sub/c", "socket" };

	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		unlink(files[i]);
	rmdir("sub");
	cr_assert_eq(rmdir(folder), 0);
}

TestSuite(landlock, .init = setup, .fini = teardown);

/* The exit status of a child that was restricted and then did this; -1: this kernel has no Landlock
 * of that version. */
static int restricted(int (*act)(void), int abi)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		struct error err = { 0 };
		int got = landlock_enter(&err);

		if (got < 0)
			fprintf(stderr, "%s\n", err.message);
		_exit(got < 0 ? 100 : got < abi ? 101 : act());
	}
	waitpid(pid, &status, 0);
	cr_assert(WIFEXITED(status), "%x", (unsigned int)status);
	cr_assert_neq(WEXITSTATUS(status), 100);
	return WEXITSTATUS(status) == 101 ? -1 : WEXITSTATUS(status);
}

#define ASSERT_DONE(act, abi)                                                         \
	do {                                                                          \
		int line = restricted(act, abi);                                      \
		if (line < 0)                                                         \
			cr_skip_test("this kernel has no Landlock, or an older one"); \
		cr_assert_eq(line, 0, "check %d of the child failed", line);          \
	} while (0)

/* Ends the child with the number of the first check that does not hold. */
#define CHECK(number, condition) \
	if (!(condition))        \
	return number

static int make_things(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "socket" };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(1, mkdir("d", 0700) < 0 && errno == EACCES);
	CHECK(2, mkfifo("f", 0600) < 0 && errno == EACCES);
	CHECK(3, mknod("n", S_IFCHR | 0600, 0x103) < 0 && (errno == EACCES || errno == EPERM));
	CHECK(4, symlink("/", "l") < 0 && errno == EACCES);
	CHECK(5, rmdir("sub") < 0 && errno == EACCES);
	CHECK(6, bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno == EACCES);
	CHECK(7, execl("/bin/true", "true", NULL) < 0 && errno == EACCES);
	return 0;
}

Test(landlock, nothing_is_made_or_executed)
{
	ASSERT_DONE(make_things, 1);
}

static int use_files(void)
{
	char text[2] = "";
	int fd = open("a", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	CHECK(1, fd >= 0 && write(fd, "x", 1) == 1 && pread(fd, text, 1, 0) == 1 && text[0] == 'x');
	CHECK(2, ftruncate(fd, 4096) == 0);
	close(fd);
	CHECK(3, rename("a", "b") == 0);
	CHECK(4, rename("b", "sub/b") == 0);
	CHECK(5, link("sub/b", "a") == 0 && unlink("a") == 0);
	fd = open("sub", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(6, fd >= 0 && fsync(fd) == 0);
	close(fd);
	return 0;
}

Test(landlock, files_are_used_as_before)
{
	ASSERT_DONE(use_files, 0);
}

/* As a snapshot's file gets its name. */
static int name_a_file(void)
{
	char self[32];
	int fd = open("sub", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

	if (fd < 0 && errno == EOPNOTSUPP)
		return 0;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	CHECK(1, linkat(AT_FDCWD, self, AT_FDCWD, "sub/c", AT_SYMLINK_FOLLOW) == 0);
	return 0;
}

Test(landlock, a_file_without_a_name_gets_one)
{
	ASSERT_DONE(name_a_file, 0);
}

static int use_tcp(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(1, fd < 0 || (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 &&
			    errno == EACCES));
	address.sin_port = htons(9);
	CHECK(2, fd < 0 || (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 &&
			    errno == EACCES));
	return 0;
}

Test(landlock, no_tcp)
{
	ASSERT_DONE(use_tcp, 4);
}

static int send_signals(void)
{
	CHECK(1, kill(getppid(), 0) < 0 && errno == EPERM);
	CHECK(2, kill(getpid(), 0) == 0);
	return 0;
}

Test(landlock, no_signals_to_others)
{
	ASSERT_DONE(send_signals, 6);
}

/*
 * A program to put into a jail in the monitor's place: it tries to get out, and says how each
 * attempt ended.
 *
 *   prisoner [what the jailer adds] ATTEMPT [ARGUMENT] ...
 *
 * Each attempt is one line of output, "ATTEMPT RESULT": "ok", a number where one is meant, or the
 * name of an errno. Those that come after "filtered FILE" are made in processes of their own behind
 * the main thread's filter in that file of mayfly-seccomp, and may end by "SIGSYS". It knows
 * nothing of the jail it is in, so that a wall that is missing shows.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <linux/reboot.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/io.h>
#include <sys/ipc.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "filter_file.h"

#define MANY 100000

static void say(const char *attempt, const char *argument, long result)
{
	printf("%s%s%s %s\n", attempt, *argument ? ":" : "", argument,
	       result < 0 ? strerrorname_np((int)-result) : "ok");
}

static void say_number(const char *attempt, long number)
{
	printf("%s %ld\n", attempt, number);
}

static long outcome(long result)
{
	return result < 0 ? -errno : 0;
}

static long open_only(const char *path, int flags)
{
	int fd = open(path, flags, 0600);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

/* Everything below the root, one name a line. */
static void list(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	char path[4096];

	if (!dir) {
		printf("entry %s %s\n", folder, strerrorname_np(errno));
		return;
	}
	while ((entry = readdir(dir))) {
		struct stat status;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(path, sizeof(path), "%s%s%s", folder, strcmp(folder, "/") ? "/" : "",
			 entry->d_name);
		printf("entry %s\n", path);
		if (lstat(path, &status) == 0 && S_ISDIR(status.st_mode))
			list(path);
	}
	closedir(dir);
}

static long connect_loopback(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(9) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	long result;

	if (fd < 0)
		return -errno;
	inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
	result = outcome(connect(fd, (struct sockaddr *)&address, sizeof(address)));
	close(fd);
	return result;
}

static long connect_unix(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	long result;

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	result = outcome(connect(fd, (struct sockaddr *)&address, sizeof(address)));
	close(fd);
	return result;
}

/* A name without a file, which belongs to a network namespace. */
static long connect_abstract(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	size_t length = strlen(name);
	long result;

	if (fd < 0)
		return -errno;
	memcpy(address.sun_path + 1, name, length);
	result = outcome(connect(fd, (struct sockaddr *)&address,
				 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)));
	close(fd);
	return result;
}

static long trace(pid_t pid)
{
	if (ptrace(PTRACE_ATTACH, pid, NULL, NULL) < 0)
		return -errno;
	waitpid(pid, NULL, 0);
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return 0;
}

/* How far one file may grow. */
static long largest_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	long size = 0;

	signal(SIGXFSZ, SIG_IGN);
	if (fd < 0)
		return -errno;
	while (size < 64 * 1024 * 1024) {
		static const char block[65536];
		ssize_t written = write(fd, block, sizeof(block));

		if (written <= 0)
			break;
		size += written;
	}
	close(fd);
	unlink(path);
	return size;
}

/* The number of descriptors that can be open at once, those that were given included. */
static long most_descriptors(void)
{
	int first = -1, last = -1;

	for (int i = 0; i < MANY; i++) {
		int fd = dup(STDOUT_FILENO);

		if (fd < 0)
			break;
		if (first < 0)
			first = fd;
		last = fd;
	}
	for (int fd = first; fd >= 0 && fd <= last; fd++)
		close(fd);
	return last + 1;
}

/* The number of processes, this one included. */
static long most_processes(void)
{
	pid_t children[512];
	int count = 0;

	while (count < 512) {
		pid_t pid = fork();

		if (pid < 0)
			break;
		if (pid == 0) {
			pause();
			_exit(0);
		}
		children[count++] = pid;
	}
	for (int i = 0; i < count; i++) {
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
	}
	return count + 1;
}

/* Touches memory in a child until the child has this many MiB, or is killed. */
static long memory(long mib)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		for (long i = 0; i < mib; i++) {
			char *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			if (page == MAP_FAILED)
				_exit(1);
			memset(page, 1, 1 << 20);
		}
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? -ENOMEM : -(long)WEXITSTATUS(status);
}

struct attempt {
	const char *name;
	bool takes_argument;
	long (*run)(const char *argument);
};

static long try_open(const char *path)
{
	return open_only(path, O_RDONLY);
}

static long try_write(const char *path)
{
	return open_only(path, O_RDWR);
}

static long try_create(const char *path)
{
	long result = open_only(path, O_WRONLY | O_CREAT | O_EXCL);

	unlink(path);
	return result;
}

static long try_unlink(const char *path)
{
	return outcome(unlink(path));
}

static long try_rename(const char *path)
{
	return outcome(rename(path, "/elsewhere"));
}

static long try_mount(const char *unused)
{
	(void)unused;
	return outcome(mount("none", "/run", "tmpfs", 0, NULL));
}

static long try_remount(const char *unused)
{
	(void)unused;
	return outcome(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
}

static long try_umount(const char *path)
{
	return outcome(umount2(path, MNT_DETACH));
}

static long try_chroot(const char *unused)
{
	(void)unused;
	return outcome(chroot("/run"));
}

static long try_pivot_root(const char *unused)
{
	(void)unused;
	return outcome(syscall(SYS_pivot_root, ".", "."));
}

static long try_unshare(const char *unused)
{
	(void)unused;
	return outcome(unshare(CLONE_NEWNS));
}

static long try_setuid(const char *unused)
{
	(void)unused;
	return outcome(setuid(0));
}

static long try_setgid(const char *unused)
{
	(void)unused;
	return outcome(setgid(0));
}

static long try_setgroups(const char *unused)
{
	const gid_t groups[] = { 0 };

	(void)unused;
	return outcome(syscall(SYS_setgroups, 1, groups));
}

static long try_mknod(const char *unused)
{
	(void)unused;
	return outcome(mknod("/run/disk", S_IFBLK | 0600, makedev(8, 0)));
}

static long try_chown(const char *path)
{
	return outcome(chown(path, getuid(), getgid()));
}

static long try_chmod(const char *path)
{
	return outcome(chmod(path, 0777));
}

static long try_kill(const char *pid)
{
	return outcome(kill(atoi(pid), 0));
}

static long try_ptrace(const char *pid)
{
	return trace(atoi(pid));
}

static long try_loopback(const char *unused)
{
	(void)unused;
	return connect_loopback();
}

static long try_shm(const char *key)
{
	return outcome(shmget((key_t)atoi(key), 0, 0));
}

static long try_escape(const char *unused)
{
	/* The way out of a chroot that left a folder open. */
	(void)unused;
	for (int i = 0; i < 64; i++) {
		if (chdir("..") < 0)
			return -errno;
	}
	return open_only("etc/passwd", O_RDONLY);
}

static long try_descriptors(const char *unused)
{
	(void)unused;
	for (int fd = 3; fd < 4096; fd++) {
		if (fcntl(fd, F_GETFD) >= 0)
			return 0;
	}
	return -EBADF;
}

static long try_execute(const char *path)
{
	char *const words[] = { (char *)path, NULL };

	return outcome(execv(path, words));
}

/* Opens a file by io_uring's own open. */
static long try_uring_open(const char *path)
{
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	long result = io_uring_queue_init(2, &ring, 0);

	if (result < 0)
		return result;
	io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, path, O_RDONLY, 0);
	result = io_uring_submit_and_wait(&ring, 1);
	if (result >= 0)
		result = io_uring_peek_cqe(&ring, &cqe);
	if (result == 0)
		result = cqe->res;
	io_uring_queue_exit(&ring);
	return result;
}

/* What follows changes nothing even where it is allowed. */

static long try_bpf(const char *unused)
{
	static const struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attributes = {
		.prog_type = BPF_PROG_TYPE_KPROBE,
		.insn_cnt = 2,
		.insns = (uintptr_t)program,
		.license = (uintptr_t) "GPL",
	};

	(void)unused;
	return outcome(syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof(attributes)));
}

static long try_perf(const char *unused)
{
	struct perf_event_attr attributes = { .type = PERF_TYPE_SOFTWARE,
					      .size = sizeof(attributes),
					      .config = PERF_COUNT_SW_CPU_CLOCK };

	(void)unused;
	return outcome(syscall(SYS_perf_event_open, &attributes, -1, 0, -1, 0));
}

static long try_module(const char *unused)
{
	(void)unused;
	return outcome(syscall(SYS_init_module, NULL, 0, ""));
}

static long try_kexec(const char *unused)
{
	(void)unused;
	return outcome(syscall(SYS_kexec_load, 0, 0, NULL, 0));
}

static long try_restart(const char *unused)
{
	(void)unused;
	return outcome(syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, -1, NULL));
}

static long try_swapon(const char *unused)
{
	(void)unused;
	return outcome(swapon("/none", 0));
}

static long try_clock(const char *unused)
{
	struct timespec now;

	(void)unused;
	clock_gettime(CLOCK_REALTIME, &now);
	return outcome(clock_settime(CLOCK_REALTIME, &now));
}

static long try_hostname(const char *unused)
{
	char name[256];

	(void)unused;
	gethostname(name, sizeof(name));
	return outcome(sethostname(name, strlen(name)));
}

static long try_ports(const char *unused)
{
	(void)unused;
	return outcome(iopl(3));
}

static long try_log(const char *unused)
{
	(void)unused;
	return outcome(klogctl(8 /* the console's level */, NULL, -1));
}

/* A file by its inode, whatever root one has. */
static long try_handle(const char *unused)
{
	struct {
		struct file_handle head;
		unsigned char bytes[8];
	} handle = { .head = { .handle_bytes = 8, .handle_type = 1 }, .bytes = { 2 } };

	(void)unused;
	return outcome(open_by_handle_at(AT_FDCWD, &handle.head, O_RDONLY));
}

static long try_fanotify(const char *unused)
{
	(void)unused;
	return outcome(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY));
}

static long try_limits(const char *unused)
{
	struct rlimit limit;

	(void)unused;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = ++limit.rlim_max;
	return outcome(setrlimit(RLIMIT_NOFILE, &limit));
}

static long try_memory(const char *mib)
{
	return memory(atol(mib));
}

static const struct attempt attempts[] = {
	{ "open", true, try_open },
	{ "write", true, try_write },
	{ "create", true, try_create },
	{ "unlink", true, try_unlink },
	{ "rename", true, try_rename },
	{ "mount", false, try_mount },
	{ "remount", false, try_remount },
	{ "umount", true, try_umount },
	{ "chroot", false, try_chroot },
	{ "pivot_root", false, try_pivot_root },
	{ "unshare", false, try_unshare },
	{ "setuid", false, try_setuid },
	{ "setgid", false, try_setgid },
	{ "setgroups", false, try_setgroups },
	{ "mknod", false, try_mknod },
	{ "chown", true, try_chown },
	{ "chmod", true, try_chmod },
	{ "kill", true, try_kill },
	{ "ptrace", true, try_ptrace },
	{ "loopback", false, try_loopback },
	{ "connect", true, connect_unix },
	{ "shm", true, try_shm },
	{ "escape", false, try_escape },
	{ "descriptors", false, try_descriptors },
	{ "memory", true, try_memory },
	{ "execute", true, try_execute },
	{ "bpf", false, try_bpf },
	{ "perf", false, try_perf },
	{ "module", false, try_module },
	{ "kexec", false, try_kexec },
	{ "restart", false, try_restart },
	{ "swapon", false, try_swapon },
	{ "clock", false, try_clock },
	{ "hostname", false, try_hostname },
	{ "ports", false, try_ports },
	{ "log", false, try_log },
	{ "handle", false, try_handle },
	{ "fanotify", false, try_fanotify },
	{ "limits", false, try_limits },
	{ "uring-open", true, try_uring_open },
	{ "abstract", true, connect_abstract },
};

static const struct attempt *find(const char *name)
{
	for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
		if (strcmp(attempts[i].name, name) == 0)
			return &attempts[i];
	}
	return NULL;
}

static bool read_filter(const char *path, struct sock_fprog *program)
{
	FILE *file = fopen(path, "re");
	bool found = file && filter_file_find(file, "vmm", program) == 0;

	if (file)
		fclose(file);
	return found;
}

static void try_filtered(const struct attempt *attempt, const char *argument,
			 const struct sock_fprog *program)
{
	long *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0;
	pid_t pid;

	if (result == MAP_FAILED)
		exit(3);
	pid = fork();
	if (pid == 0) {
		if (filter_enter(program) < 0)
			_exit(1);
		*result = attempt->run(argument);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		exit(3);
	if (WIFSIGNALED(status))
		printf("%s%s%s SIG%s\n", attempt->name, *argument ? ":" : "", argument,
		       sigabbrev_np(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == 0)
		say(attempt->name, argument, *result);
	else
		printf("%s no filter\n", attempt->name);
	munmap(result, sizeof(*result));
}

/* What is no attempt at breaking out: shows numbers, or waits. */
static bool show(const char *word, const char *argument)
{
	if (strcmp(word, "list") == 0)
		list("/");
	else if (strcmp(word, "environment") == 0)
		say_number(word, environ[0] != NULL);
	else if (strcmp(word, "pid") == 0)
		say_number(word, getpid());
	else if (strcmp(word, "most-descriptors") == 0)
		say_number(word, most_descriptors());
	else if (strcmp(word, "most-processes") == 0)
		say_number(word, most_processes());
	else if (strcmp(word, "largest-file") == 0)
		say_number(word, largest_file("/run/large"));
	else if (strcmp(word, "arguments") == 0)
		printf("arguments %s\n", argument);
	else
		return false;
	return true;
}

static void join(char *text, size_t size, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		size_t used = strlen(text);

		snprintf(text + used, size - used, "%s%s", i ? " " : "", argv[i]);
	}
}

int main(int argc, char **argv)
{
	struct sock_fprog program;
	char words[8192] = "";
	bool filtered = false;
	int i = 1;

	join(words, sizeof(words), argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (i < argc && strncmp(argv[i], "--", 2) == 0)
		i++;
	for (; i < argc; i++) {
		const struct attempt *attempt = find(argv[i]);
		const char *argument;

		if (strcmp(argv[i], "wait") == 0) {
			printf("waiting\n");
			for (;;)
				pause();
		}
		if (strcmp(argv[i], "exit") == 0 && i + 1 < argc)
			return atoi(argv[i + 1]);
		if (show(argv[i], words))
			continue;
		if (strcmp(argv[i], "filtered") == 0 && i + 1 < argc) {
			filtered = read_filter(argv[++i], &program);
			if (!filtered)
				return 3;
			continue;
		}
		if (!attempt || (attempt->takes_argument && i + 1 == argc)) {
			fprintf(stderr, "prisoner: what is '%s'?\n", argv[i]);
			return 2;
		}
		argument = attempt->takes_argument ? argv[++i] : "";
		if (filtered)
			try_filtered(attempt, argument, &program);
		else
			say(attempt->name, argument, attempt->run(argument));
	}
	return 0;
}

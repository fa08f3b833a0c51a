/* The host around the monitor, for a fuzzer: see fake.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake.h"

#define TURN_STOPPED  (-4711) /* loop_stop() of ours: the loop rests */
#define TURNS_AT_MOST 20000   /* a loop that does not come to rest is a finding */

/* The files that paths of the API can name. */
enum content {
	EMPTY,
	PATTERN,
	KERNEL
};

static struct fake_file {
	const char *name;
	enum content content;
	uint64_t bytes;
	int fd;
} files[] = {
	{ "kernel", KERNEL, 0x1300, -1 }, { "initrd", PATTERN, 5000, -1 },
	{ "disk0", PATTERN, 65536, -1 },  { "disk1", PATTERN, 131072, -1 },
	{ "odd", PATTERN, 1000, -1 },	  { "huge", EMPTY, 1ULL << 40, -1 },
	{ "empty", EMPTY, 0, -1 },	  { "log", EMPTY, 0, -1 },
	{ "metrics", EMPTY, 0, -1 },	  { "serial", EMPTY, 0, -1 },
};
#define FILES (sizeof(files) / sizeof(*files))

static struct {
	uint64_t clock_ns;
	struct loop *loop; /* whose turn it is */
	bool resting;
	unsigned int turns;
	int terminal;
	int listener;
	int wires[FAKE_TAPS];
	int taps[FAKE_TAPS];
	unsigned int tap_count;
	unsigned int open_fds;
} host = { .terminal = -1, .listener = -1 };

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_stat64(const char *path, struct stat *status);
int __wrap_stat64(const char *path, struct stat *status);
int __real_lstat64(const char *path, struct stat *status);
int __wrap_lstat64(const char *path, struct stat *status);
int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
int __wrap_landlock_enter(struct error *err);
int __real_bind(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t length);
int __real_timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old);
int __wrap_epoll_pwait2(int fd, struct epoll_event *events, int count,
			const struct timespec *timeout, const sigset_t *mask);

/* An ELF file of one segment, as tests/fuzz/make-kernel-seeds makes them. */
static void put_kernel(uint8_t *image)
{
	static const uint8_t head[] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };
	static const uint64_t segment[] = { 0x700000001, 0,	 0x200000, 0x200000,
					    0x1100,	 0x1800, 0x1000 };
	static const uint16_t sizes[] = { 64, 56, 1 };
	const uint32_t type = 62U << 16 | 2, version = 1;
	const uint64_t entry = 0x200400, table = 64;

	memcpy(image, head, sizeof(head));
	memcpy(image + 16, &type, sizeof(type));
	memcpy(image + 20, &version, sizeof(version));
	memcpy(image + 24, &entry, sizeof(entry));
	memcpy(image + 32, &table, sizeof(table));
	memcpy(image + 52, sizes, sizeof(sizes));
	memcpy(image + 64, segment, sizeof(segment));
}

static void fill(struct fake_file *file)
{
	static uint8_t content[131072];

	FUZZ_CHECK(ftruncate(file->fd, 0) == 0 && ftruncate(file->fd, (off_t)file->bytes) == 0);
	if (file->content == EMPTY)
		return;
	memset(content, 0, sizeof(content));
	if (file->content == KERNEL) {
		put_kernel(content);
	} else {
		for (size_t i = 0; i < file->bytes; i++)
			content[i] = (uint8_t)(i * 31 + i / 512);
	}
	FUZZ_CHECK(pwrite(file->fd, content, file->bytes, 0) == (ssize_t)file->bytes);
}

void fake_host_init(void)
{
	const int small = 32768;
	int ends[2];

	for (size_t i = 0; i < FILES; i++) {
		files[i].fd = memfd_create(files[i].name, MFD_CLOEXEC);
		FUZZ_CHECK(files[i].fd >= 0);
		fill(&files[i]);
	}
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	host.terminal = ends[0];
	FUZZ_CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
	/* Full soon, so that a reader that stalls is met. */
	FUZZ_CHECK(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
	FUZZ_CHECK(dup2(ends[1], STDIN_FILENO) == STDIN_FILENO &&
		   dup2(ends[1], STDOUT_FILENO) == STDOUT_FILENO);
	close(ends[1]);
}

int fake_host_terminal(void)
{
	return host.terminal;
}

static unsigned int count_open_fds(void)
{
	unsigned int count = 0;

	for (int fd = 0; fd < FAKE_FDS_FROM; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* What one end still has to read. */
static void drain(int fd)
{
	char bytes[4096];

	while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

void fake_host_begin(unsigned int fail_at, int fail_errno)
{
	for (size_t i = 0; i < FILES; i++) {
		struct stat status;

		/* The contents of disks do not matter to anybody, sizes do. */
		FUZZ_CHECK(fstat(files[i].fd, &status) == 0);
		if ((uint64_t)status.st_size != files[i].bytes || files[i].content == EMPTY)
			FUZZ_CHECK(ftruncate(files[i].fd, 0) == 0 &&
				   ftruncate(files[i].fd, (off_t)files[i].bytes) == 0);
	}
	drain(host.terminal);
	drain(STDIN_FILENO);
	fake_snapshots_clear();
	host.clock_ns = 1000000000;
	host.tap_count = 0;
	host.listener = -1;
	fake_kvm_begin(fail_at, fail_errno);
	host.open_fds = count_open_fds();
}

void fake_host_end(void)
{
	for (unsigned int i = 0; i < host.tap_count && i < FAKE_TAPS; i++)
		close(host.wires[i]);
	FUZZ_CHECK(count_open_fds() == host.open_fds);
	for (size_t i = 0; i < FILES; i++) {
		struct stat status;

		FUZZ_CHECK(fstat(files[i].fd, &status) == 0);
		FUZZ_CHECK(files[i].content == EMPTY || (uint64_t)status.st_size == files[i].bytes);
	}
}

/* Files. */

static struct fake_file *find_file(const char *path)
{
	for (size_t i = 0; i < FILES; i++) {
		if (strcmp(files[i].name, path) == 0)
			return &files[i];
	}
	errno = ENOENT;
	return NULL;
}

static int open_tap(void)
{
	int ends[2];

	if (host.tap_count == FAKE_TAPS) {
		/* Those that were only looked at have been closed by the monitor. */
		close(host.wires[0]);
		memmove(host.wires, host.wires + 1, sizeof(host.wires) - sizeof(*host.wires));
		memmove(host.taps, host.taps + 1, sizeof(host.taps) - sizeof(*host.taps));
		host.tap_count--;
	}
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) ==
		   0);
	host.wires[host.tap_count] = fcntl(ends[1], F_DUPFD_CLOEXEC, FAKE_FDS_FROM);
	close(ends[1]);
	host.taps[host.tap_count++] = ends[0];
	return ends[0];
}

int fake_host_wire(unsigned int index)
{
	return index < host.tap_count ? host.wires[host.tap_count - 1 - index] : -1;
}

int fake_tap_ioctl(int fd, unsigned long request, void *argument, bool *mine)
{
	for (unsigned int i = 0; i < host.tap_count; i++) {
		if (host.taps[i] != fd)
			continue;
		*mine = true;
		if (request == TUNGETIFF)
			((struct ifreq *)argument)->ifr_flags = IFF_TAP | IFF_PERSIST;
		return 0;
	}
	return 0;
}

int __wrap_open64(const char *path, int flags, ...)
{
	struct fake_file *file;
	unsigned int mode;
	char own[32];
	va_list list;
	int fd;

	va_start(list, flags);
	mode = va_arg(list, unsigned int);
	va_end(list);
	if (strcmp(path, "/dev/kvm") == 0)
		return fake_kvm_open();
	if (strcmp(path, "/dev/net/tun") == 0)
		return open_tap();
	/* libFuzzer's and the sanitizers' own, between executions. */
	if (!host.loop)
		return __real_open64(path, flags, mode);
	/* The folder of snapshots, and what is zero of a guest's memory. */
	if (strcmp(path, ".") == 0)
		return __real_open64("/", flags, mode);
	if (strcmp(path, "/proc/self/pagemap") == 0)
		return __real_open64(path, flags, mode);
	file = find_file(path);
	fd = file ? file->fd : fake_snapshot_fd(path);
	if (fd < 0)
		return -1;
	if (flags & O_EXCL) {
		errno = EEXIST;
		return -1;
	}
	snprintf(own, sizeof(own), "/proc/self/fd/%d", fd);
	return __real_open64(own, flags & ~O_CREAT);
}

int __wrap_stat64(const char *path, struct stat *status)
{
	const struct fake_file *file;

	if (!host.loop)
		return __real_stat64(path, status);
	file = find_file(path);
	return file ? fstat(file->fd, status) : -1;
}

/* The API's socket has no file. */
int __wrap_lstat64(const char *path, struct stat *status)
{
	if (!host.loop)
		return __real_lstat64(path, status);
	*status = (struct stat) { 0 };
	return 0;
}

int __wrap_access(const char *path, int mode)
{
	if (!host.loop)
		return __real_access(path, mode);
	return find_file(path) || fake_snapshot_fd(path) >= 0 ? 0 : -1;
}

/* It could not be undone: one execution would restrict all that follow. */
int __wrap_landlock_enter(struct error *err)
{
	(void)err;
	return 0;
}

/* The API's socket gets a name that the kernel finds, and leaves nothing behind. */
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t length)
{
	const struct sockaddr_un automatic = { .sun_family = AF_UNIX };

	(void)address;
	(void)length;
	host.listener = fd;
	return __real_bind(fd, (const struct sockaddr *)&automatic, sizeof(automatic.sun_family));
}

int fake_host_connect(void)
{
	struct sockaddr_un address;
	socklen_t length = sizeof(address);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	FUZZ_CHECK(fd >= 0);
	if (host.listener < 0 ||
	    getsockname(host.listener, (struct sockaddr *)&address, &length) < 0 ||
	    connect(fd, (struct sockaddr *)&address, length) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Time. */

static uint64_t now_ns(void)
{
	return host.clock_ns;
}

uint64_t fake_clock_ns(void)
{
	return host.clock_ns;
}

void fake_clock_advance(uint64_t ns)
{
	host.clock_ns += ns;
}

/* Once, and at once. */
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
	struct itimerspec soon = *new;

	soon.it_interval = (struct timespec) { 0 };
	if (soon.it_value.tv_sec || soon.it_value.tv_nsec)
		soon.it_value = (struct timespec) { .tv_nsec = 1 };
	return __real_timerfd_settime(fd, flags, &soon, old);
}

/* When nothing is ready, timers get their turn; when nothing is ready again, the loop rests. */
int __wrap_epoll_pwait2(int fd, struct epoll_event *events, int count,
			const struct timespec *timeout, const sigset_t *mask)
{
	int ready = epoll_wait(fd, events, count, 0);

	(void)timeout;
	(void)mask;
	/* The loop is not there yet while it is made. */
	if (!host.loop)
		return ready;
	FUZZ_CHECK(++host.turns < TURNS_AT_MOST);
	if (ready == 0 && host.resting)
		loop_stop(host.loop, TURN_STOPPED);
	host.resting = ready == 0;
	return ready;
}

bool fake_host_turn(struct loop *loop, int *result)
{
	host.turns = 0;
	host.resting = false;
	*result = loop_run(loop);
	return *result != TURN_STOPPED;
}

bool fake_host_is_entered(void)
{
	return host.loop != NULL;
}

void fake_host_enter(struct loop *loop)
{
	host.loop = loop;
	if (loop)
		loop->clock_ns = now_ns;
}

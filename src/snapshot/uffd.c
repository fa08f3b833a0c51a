/* The monitor's side of userfaultfd: see include/mayfly/uffd.h. */
#include <fcntl.h>
#include <jansson.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "mayfly/signals.h"
#include "mayfly/uffd.h"

#define UFFD_DEVICE	"/dev/userfaultfd"
#define HUGE_PAGE_BYTES (2 * MIB)
#define STACK_BYTES	65536

/* linux/userfaultfd.h, since 6.1. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

struct uffd {
	struct uffd_options options;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* what options.path points to */
	int fd;
	int handler_fd;
	pthread_t thread;
	bool thread_runs;
	atomic_bool closing;
};

/*
 * The system call serves faults of the kernel (KVM's among them) only to the privileged, or to all
 * where vm.unprivileged_userfaultfd is 1; the device serves whoever may open it.
 */
static int open_userfaultfd(struct error *err)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 && errno == EPERM) {
		cleanup_fd int device = open(UFFD_DEVICE, O_RDWR | O_CLOEXEC);

		if (device >= 0)
			fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		else
			errno = EPERM;
	}
	if (fd < 0 && errno == EPERM)
		return error_errno(
			err, "this host does not let this user have a userfaultfd: let the "
			     "user open " UFFD_DEVICE ", or set vm.unprivileged_userfaultfd to 1");
	if (fd < 0)
		return error_errno(err, "cannot make a userfaultfd");
	return fd;
}

static int register_memory(int fd, const struct memory *memory, struct error *err)
{
	bool huge = memory->huge_pages == HUGE_PAGES_2M;
	struct uffdio_api api = { .api = UFFD_API,
				  .features = huge ? UFFD_FEATURE_MISSING_HUGETLBFS : 0 };

	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return error_errno(err, "the host's userfaultfd does not serve guest memory%s",
				   huge ? " of 2 MiB pages" : "");
	for (unsigned int i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];
		struct uffdio_register range = {
			.range = { .start = (uintptr_t)region->hva, .len = region->size_bytes },
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		if (ioctl(fd, UFFDIO_REGISTER, &range) < 0)
			return error_errno(
				err, "cannot register guest memory at 0x%llx with userfaultfd",
				(unsigned long long)region->gpa);
	}
	return 0;
}

static char *describe(const struct memory *memory)
{
	json_t *regions = json_array();
	uint64_t offset = 0;
	char *text;

	for (unsigned int i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];

		json_array_append_new(regions,
				      json_pack("{s:I, s:I, s:I, s:I}", "base_host_virt_addr",
						(json_int_t)(uintptr_t)region->hva, "size",
						(json_int_t)region->size_bytes, "offset",
						(json_int_t)offset, "page_size",
						(json_int_t)(memory->huge_pages == HUGE_PAGES_2M
								     ? HUGE_PAGE_BYTES
								     : PAGE_SIZE_BYTES)));
		offset += region->size_bytes;
	}
	text = json_dumps(regions, JSON_COMPACT);
	json_decref(regions);
	return text;
}

static int connect_handler(const char *path, struct error *err)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd < 0)
		return error_errno(err, "cannot make a socket");
	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG, "%s: a socket's path has at most %zu bytes",
				 path, sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_errno(err, "no handler answers on %s", path);
	return take_fd(&fd);
}

static int send_memory(int handler_fd, int fd, const struct memory *memory, struct error *err)
{
	cleanup_free char *text = describe(memory);
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = text, .iov_len = text ? strlen(text) : 0 };
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	ssize_t sent;

	if (!text)
		return error_set(err, ENOMEM, "no memory for the message to the handler");
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	do {
		sent = sendmsg(handler_fd, &message, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return error_errno(err, "cannot hand the guest's memory to the handler");
	if ((size_t)sent != iov.iov_len)
		return error_set(err, EPIPE, "the handler took %zd of %zu bytes", sent,
				 iov.iov_len);
	return 0;
}

/* True when the handler has brought every page, false when it is gone before that. */
static bool wait_for_end(const struct uffd *uffd)
{
	static const char complete[] = UFFD_COMPLETE;
	size_t matched = 0;
	char byte;

	for (;;) {
		ssize_t got = read(uffd->handler_fd, &byte, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		matched = byte == complete[matched] ? matched + 1 : byte == complete[0];
		if (matched == sizeof(complete) - 1)
			return true;
	}
}

static void *watch(void *argument)
{
	struct uffd *uffd = argument;
	struct error err = { 0 };

	log_name_thread("uffd");
	if (filters_enter(uffd->options.filters, FILTERS_UFFD, &err) < 0) {
		log_error(uffd->options.log, "the thread that watches the handler: %s",
			  err.message);
		uffd->options.on_lost(uffd->options.context);
	}
	if (wait_for_end(uffd)) {
		log_info(uffd->options.log,
			 "the handler on %s has brought all of the guest's memory",
			 uffd->options.path);
		return NULL;
	}
	if (atomic_load(&uffd->closing))
		return NULL;
	log_error(uffd->options.log,
		  "the handler on %s is gone, and with it the guest's memory: the guest ends",
		  uffd->options.path);
	uffd->options.on_lost(uffd->options.context);
	return NULL;
}

static int start_thread(struct uffd *uffd, struct error *err)
{
	sigset_t blocked, before;
	pthread_attr_t attributes;
	int code;

	signals_all_but_faults(&blocked);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	code = pthread_create(&uffd->thread, &attributes, watch, uffd);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (code != 0)
		return error_set(err, code, "cannot start the thread that watches the handler");
	uffd->thread_runs = true;
	return 0;
}

int uffd_create(struct uffd **out, const struct uffd_options *options, struct error *err)
{
	struct uffd *uffd = calloc(1, sizeof(*uffd));
	int result;

	if (!uffd)
		return error_set(err, ENOMEM, "no memory for userfaultfd");
	*uffd = (struct uffd) { .options = *options, .fd = -1, .handler_fd = -1 };
	result = uffd->handler_fd = connect_handler(options->path, err);
	if (result >= 0)
		uffd->options.path = strcpy(uffd->path, options->path);
	if (result >= 0)
		result = uffd->fd = open_userfaultfd(err);
	if (result >= 0)
		result = register_memory(uffd->fd, options->memory, err);
	if (result >= 0)
		result = send_memory(uffd->handler_fd, uffd->fd, options->memory, err);
	if (result >= 0)
		result = start_thread(uffd, err);
	if (result < 0) {
		uffd_destroy(uffd);
		return result;
	}
	/* What nobody has touched yet is not zero: a snapshot has to ask for it. */
	options->memory->file_ranges[0] =
		(struct memory_range) { .length_bytes = options->memory->size_bytes };
	options->memory->file_range_count = 1;
	*out = uffd;
	return 0;
}

void uffd_destroy(struct uffd *uffd)
{
	if (!uffd)
		return;
	if (uffd->thread_runs) {
		atomic_store(&uffd->closing, true);
		shutdown(uffd->handler_fd, SHUT_RDWR);
		pthread_join(uffd->thread, NULL);
	}
	close_fd(&uffd->handler_fd);
	close_fd(&uffd->fd);
	free(uffd);
}

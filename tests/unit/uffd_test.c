/*
 * The monitor's side of userfaultfd (src/snapshot/uffd.c) and mayfly-uffd's (uffd/), against each
 * other: the handler runs in a process of its own, as it does in life.
 */
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "boot_helper.h"
#include "mayfly/memory_file.h"
#include "mayfly/uffd.h"
#include "src/snapshot/memory_tail.h"
#include "uffd/handler.h"

#define PAGES(n)     ((n)*PAGE_SIZE_BYTES)
#define MEMORY_PAGES 512
#define LOST_STATUS  42
#define WAIT_SECONDS 60

struct setting {
	char folder[40], socket[64], file[64], working_set[64];
	struct handler_options options;
	struct memory memory;
	struct log log;
	struct uffd *uffd;
	pid_t handler;
	atomic_int lost;
};

/* Every third page of the file is a hole. */
static uint8_t content(uint64_t page)
{
	return page % 3 == 2 ? 0 : (uint8_t)(1 + page % 250);
}

static void write_memory_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	uint8_t bytes[PAGE_SIZE_BYTES];

	cr_assert_geq(fd, 0);
	for (uint64_t page = 0; page < MEMORY_PAGES; page++) {
		memset(bytes, content(page), sizeof(bytes));
		if (content(page) != 0)
			cr_assert_eq(pwrite(fd, bytes, sizeof(bytes), (off_t)PAGES(page)),
				     (ssize_t)sizeof(bytes));
	}
	cr_assert_eq(ftruncate(fd, PAGES(MEMORY_PAGES + 2)), 0);
	close(fd);
}

/* Listens first, so that the monitor can connect at once; serves one monitor. */
static void run_handler(struct setting *setting)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, setting->socket);
	cr_assert_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(listener, 1), 0);
	setting->handler = fork();
	cr_assert_geq(setting->handler, 0);
	if (setting->handler == 0) {
		struct memory_image image;
		struct connection connection;
		struct error err = { 0 };
		int result;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		result = memory_image_open(&image, setting->file, &err);
		if (result == 0)
			result = connection_open(&connection, accept(listener, NULL, NULL), &image,
						 &err);
		if (result == 0)
			result = serve(&connection, &image, &setting->options, &err);
		if (result < 0)
			fprintf(stderr, "handler: %s\n", err.message);
		_exit(result < 0);
	}
	close(listener);
}

static void note_lost(void *context)
{
	struct setting *setting = context;

	atomic_store(&setting->lost, 1);
}

static void end_lost(void *context)
{
	(void)context;
	_exit(LOST_STATUS);
}

static void prepare(struct setting *setting)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		cr_skip_test("userfaultfd is not for this user");
	close(fd);
	*setting = (struct setting) { .folder = "/tmp/mayfly-uffd-XXXXXX" };
	cr_assert(mkdtemp(setting->folder));
	snprintf(setting->socket, sizeof(setting->socket), "%s/socket", setting->folder);
	snprintf(setting->file, sizeof(setting->file), "%s/memory", setting->folder);
	snprintf(setting->working_set, sizeof(setting->working_set), "%s/set", setting->folder);
	write_memory_file(setting->file);
	setting->options.record_ms = 60000;
	setting->options.around_bytes = PAGE_SIZE_BYTES;
	log_init(&setting->log);
	setting->log.level = LOG_OFF;
	setting->memory = make_memory(PAGES(MEMORY_PAGES));
}

static void attach(struct setting *setting, void (*on_lost)(void *context))
{
	const struct uffd_options options = { .path = setting->socket,
					      .memory = &setting->memory,
					      .log = &setting->log,
					      .on_lost = on_lost,
					      .context = setting };
	struct error err = { 0 };

	cr_assert_eq(uffd_create(&setting->uffd, &options, &err), 0, "%s", err.message);
}

static int wait_for_handler(struct setting *setting)
{
	int status = -1;

	cr_assert_eq(waitpid(setting->handler, &status, 0), setting->handler);
	return status;
}

static void finish(struct setting *setting)
{
	uffd_destroy(setting->uffd);
	cr_assert_eq(wait_for_handler(setting), 0, "the handler ends well when the monitor leaves");
	cr_assert_eq(atomic_load(&setting->lost), 0);
}

static void clean(struct setting *setting)
{
	memory_destroy(&setting->memory);
	unlink(setting->socket);
	unlink(setting->file);
	unlink(setting->working_set);
	rmdir(setting->folder);
}

static void check_page(struct setting *setting, uint64_t page)
{
	const uint8_t *bytes = memory_span(&setting->memory, PAGES(page), PAGE_SIZE_BYTES);

	cr_assert_eq(bytes[0], content(page), "page %llu", (unsigned long long)page);
	cr_assert_eq(bytes[PAGE_SIZE_BYTES - 1], content(page), "page %llu",
		     (unsigned long long)page);
}

static bool is_present(const struct memory *memory, uint64_t page)
{
	unsigned char there = 0;

	cr_assert_eq(mincore(memory_span(memory, PAGES(page), 1), PAGE_SIZE_BYTES, &there), 0);
	return there & 1;
}

Test(uffd, every_page_has_the_files_content_in_whatever_order_it_is_touched)
{
	struct setting setting;

	prepare(&setting);
	run_handler(&setting);
	attach(&setting, note_lost);
	for (uint64_t i = 0; i < MEMORY_PAGES; i++)
		check_page(&setting, i * 211 % MEMORY_PAGES);
	finish(&setting);
	clean(&setting);
}

Test(uffd, neighbours_of_a_page_come_with_it_when_asked_for)
{
	struct setting setting;
	uint64_t until = clock_ns(CLOCK_MONOTONIC) + WAIT_SECONDS * 1000000000ULL;

	prepare(&setting);
	setting.options.around_bytes = PAGES(8);
	run_handler(&setting);
	attach(&setting, note_lost);
	check_page(&setting, 19);
	for (uint64_t page = 16; page < 24; page++) {
		while (!is_present(&setting.memory, page) && clock_ns(CLOCK_MONOTONIC) < until)
			usleep(1000);
		cr_assert(is_present(&setting.memory, page), "page %llu", (unsigned long long)page);
		check_page(&setting, page);
	}
	cr_assert(!is_present(&setting.memory, 15) && !is_present(&setting.memory, 24));
	/* The last block of memory, and one that is there in parts. */
	check_page(&setting, MEMORY_PAGES - 1);
	for (uint64_t i = 0; i < MEMORY_PAGES; i++)
		check_page(&setting, i * 211 % MEMORY_PAGES);
	finish(&setting);
	clean(&setting);
}

Test(uffd, what_the_guest_writes_stays)
{
	struct setting setting;
	uint8_t *bytes;

	prepare(&setting);
	setting.options.fill = true;
	run_handler(&setting);
	attach(&setting, note_lost);
	bytes = memory_span(&setting.memory, 0, PAGES(MEMORY_PAGES));
	for (uint64_t page = 0; page < MEMORY_PAGES; page += 7)
		bytes[PAGES(page) + 5] = 0xee;
	cr_assert_eq(wait_for_handler(&setting), 0);
	for (uint64_t page = 0; page < MEMORY_PAGES; page++) {
		check_page(&setting, page);
		cr_assert_eq(bytes[PAGES(page) + 5], page % 7 == 0 ? 0xee : content(page));
	}
	uffd_destroy(setting.uffd);
	clean(&setting);
}

/* Nobody touches anything: what is there afterwards was brought by the handler itself. */
Test(uffd, a_handler_that_fills_brings_everything_and_may_go)
{
	struct setting setting;

	prepare(&setting);
	setting.options.fill = true;
	run_handler(&setting);
	attach(&setting, note_lost);
	cr_assert_eq(wait_for_handler(&setting), 0);
	for (uint64_t page = 0; page < MEMORY_PAGES; page++)
		check_page(&setting, page);
	uffd_destroy(setting.uffd);
	cr_assert_eq(atomic_load(&setting.lost), 0, "a handler that is done is not missed");
	clean(&setting);
}

Test(uffd, the_first_guests_faults_are_recorded_and_brought_ahead_for_the_next)
{
	static const uint64_t touched[] = { 3, 4, 77, 300, 511 };
	struct setting setting;
	struct working_set set;
	struct error err = { 0 };

	prepare(&setting);
	setting.options.working_set = setting.working_set;
	run_handler(&setting);
	attach(&setting, note_lost);
	for (size_t i = 0; i < ARRAY_SIZE(touched); i++)
		check_page(&setting, touched[i]);
	finish(&setting);
	cr_assert_eq(working_set_load(&set, PAGES(MEMORY_PAGES), setting.working_set, &err), 0,
		     "%s", err.message);
	cr_assert_eq(working_set_count_pages(&set), ARRAY_SIZE(touched));
	working_set_destroy(&set);

	memory_destroy(&setting.memory);
	unlink(setting.socket);
	setting.memory = make_memory(PAGES(MEMORY_PAGES));
	run_handler(&setting);
	attach(&setting, note_lost);
	for (size_t i = 0; i < ARRAY_SIZE(touched); i++) {
		uint64_t until = clock_ns(CLOCK_MONOTONIC) + WAIT_SECONDS * 1000000000ULL;

		while (!is_present(&setting.memory, touched[i]) &&
		       clock_ns(CLOCK_MONOTONIC) < until)
			usleep(1000);
		cr_assert(is_present(&setting.memory, touched[i]), "page %llu is not brought ahead",
			  (unsigned long long)touched[i]);
		check_page(&setting, touched[i]);
	}
	cr_assert_not(is_present(&setting.memory, 100), "and nothing else is");
	finish(&setting);
	clean(&setting);
}

/* A guest is as well without a working set: it lives on what the handler brings. */
Test(uffd, a_working_set_that_cannot_be_written_does_not_end_the_guest, .timeout = 120)
{
	struct setting setting;

	prepare(&setting);
	setting.options.working_set = "/nonexistent/folder/set";
	setting.options.record_ms = 1;
	run_handler(&setting);
	attach(&setting, note_lost);
	for (uint64_t page = 0; page < 100; page++) {
		usleep(1000);
		cr_assert_eq(atomic_load(&setting.lost), 0);
		check_page(&setting, page);
	}
	finish(&setting);
	clean(&setting);
}

Test(uffd, a_working_set_that_is_damaged_does_not_end_the_guest, .timeout = 120)
{
	struct setting setting;
	FILE *set;

	prepare(&setting);
	set = fopen(setting.working_set, "w");
	cr_assert(set && fputs("no working set", set) > 0 && fclose(set) == 0);
	setting.options.working_set = setting.working_set;
	run_handler(&setting);
	attach(&setting, note_lost);
	for (uint64_t page = 0; page < MEMORY_PAGES; page += 7)
		check_page(&setting, page);
	finish(&setting);
	clean(&setting);
}

Test(uffd, a_snapshot_of_memory_that_was_not_brought_yet_has_all_of_it)
{
	struct memory_file_size size = { 0 };
	struct atomic_file file;
	struct setting setting;
	char path[64];
	struct error err = { 0 };
	struct memory_file_options to = { .path = path };

	prepare(&setting);
	snprintf(path, sizeof(path), "%s/again", setting.folder);
	run_handler(&setting);
	attach(&setting, note_lost);
	cr_assert_eq(memory_file_save(&setting.memory, &to, &file, &size, &err), 0, "%s",
		     err.message);
	for (uint64_t page = 0; page < MEMORY_PAGES; page++) {
		uint8_t byte = 0xff;

		cr_assert_eq(pread(file.fd, &byte, 1, (off_t)PAGES(page)), 1);
		cr_assert_eq(byte, content(page), "page %llu", (unsigned long long)page);
	}
	atomic_file_close(&file);
	finish(&setting);
	clean(&setting);
}

/* In a process of its own, whose main thread waits for a page that nobody will ever bring. */
static int status_of_monitor_whose_handler_dies(struct setting *setting)
{
	int status = -1;
	pid_t monitor = fork();

	cr_assert_geq(monitor, 0);
	if (monitor == 0) {
		struct uffd_options options = { .path = setting->socket,
						.memory = &setting->memory,
						.log = &setting->log,
						.on_lost = end_lost };
		volatile uint8_t *bytes = memory_span(&setting->memory, 0, PAGES(2));
		struct error err = { 0 };

		alarm(WAIT_SECONDS);
		if (uffd_create(&setting->uffd, &options, &err) < 0)
			_exit(1);
		_exit(bytes[PAGES(1)]);
	}
	cr_assert_eq(waitpid(monitor, &status, 0), monitor);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A handler that takes the memory, and goes without a word once a page was asked for. */
static void run_bad_handler(struct setting *setting)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, setting->socket);
	cr_assert_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(listener, 1), 0);
	setting->handler = fork();
	cr_assert_geq(setting->handler, 0);
	if (setting->handler == 0) {
		struct memory_image image;
		struct connection connection;
		struct uffd_msg message;
		struct error err = { 0 };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (memory_image_open(&image, setting->file, &err) < 0 ||
		    connection_open(&connection, accept(listener, NULL, NULL), &image, &err) < 0)
			_exit(1);
		while (read(connection.uffd, &message, sizeof(message)) < 0 && errno == EAGAIN)
			usleep(1000);
		_exit(0);
	}
	close(listener);
}

Test(uffd, a_handler_that_dies_ends_a_monitor_whose_every_thread_waits_for_a_page)
{
	struct setting setting;

	prepare(&setting);
	run_bad_handler(&setting);
	cr_assert_eq(status_of_monitor_whose_handler_dies(&setting), LOST_STATUS);
	cr_assert_eq(wait_for_handler(&setting), 0);
	clean(&setting);
}

Test(uffd, a_path_without_a_handler_is_named)
{
	struct setting setting;
	struct uffd_options options = { .memory = &setting.memory, .log = &setting.log };
	struct error err = { 0 };

	prepare(&setting);
	options.path = setting.socket;
	cr_assert_eq(uffd_create(&setting.uffd, &options, &err), -ENOENT);
	cr_assert(strstr(err.message, setting.socket), "%s", err.message);
	clean(&setting);
}

static int parse(const char *text, struct error *err)
{
	static const struct memory_image image = { .size_bytes = MIB, .fd = -1 };
	struct connection connection;

	return connection_parse(&connection, text, strlen(text), &image, err);
}

#define REGION(base, size, offset, page)                                              \
	"{\"base_host_virt_addr\": " base ", \"size\": " size ", \"offset\": " offset \
	", \"page_size\": " page "}"

Test(uffd, messages_that_cannot_be_served_are_refused)
{
	static const struct {
		const char *text;
		const char *wrong;
	} cases[] = {
		{ "[]", "array" },
		{ "{}", "array" },
		{ "[7]", "base_host_virt_addr" },
		{ "[" REGION("-4096", "4096", "0", "4096") "]", "base_host_virt_addr" },
		{ "[" REGION("4096", "1.5", "0", "4096") "]", "size" },
		{ "[" REGION("4096", "0", "0", "4096") "]", "size" },
		{ "[" REGION("4097", "4096", "0", "4096") "]", "base_host_virt_addr" },
		{ "[" REGION("4096", "4096", "0", "8192") "]", "page_size" },
		{ "[" REGION("4096", "2097152", "0", "2097152") "]", "whole pages" },
		{ "[" REGION("4096", "4096", "1048576", "4096") "]", "memory file" },
		{ "[" REGION("4096", "4096", "9223372036854775807", "4096") "]", "memory file" },
		{ "[" REGION("4096", "4096", "1", "4096") "]", "memory file" },
		{ "[" REGION("9223372036854771712", "9223372036854771712", "0", "4096") "]",
		  "memory file" },
		{ "[{\"base_host_virt_addr\": 4096, \"size\": 4096, \"offset\": 0}]", "page_size" },
	};
	struct error err = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cr_assert_eq(parse(cases[i].text, &err), -EINVAL, "case %zu", i);
		cr_assert(strstr(err.message, cases[i].wrong), "case %zu: %s", i, err.message);
	}
	cr_assert_eq(parse("[" REGION("4096", "1048576", "0", "4096") "]", &err), 0, "%s",
		     err.message);
	cr_assert_eq(parse("[" REGION("4096", "40", "0", "409"), &err), -EBADMSG,
		     "the rest may still come");
}

Test(uffd, a_guest_of_another_size_than_the_memory_file_is_refused)
{
	static const struct memory_image image = { .size_bytes = MIB + MEMORY_FILE_TAIL_BYTES,
						   .memory_bytes = MIB,
						   .fd = -1 };
	static const char whole[] = "[" REGION("4096", "1048576", "0", "4096") "]";
	static const char half[] = "[" REGION("4096", "524288", "0", "4096") "]";
	static const char tail[] = "[" REGION("4096", "4096", "1048576", "4096") "]";
	struct connection connection;
	struct error err = { 0 };

	cr_assert_eq(connection_parse(&connection, whole, strlen(whole), &image, &err), 0, "%s",
		     err.message);
	cr_assert_eq(connection_parse(&connection, half, strlen(half), &image, &err), -EINVAL);
	cr_assert_str_eq(err.message, "the guest has 524288 bytes of memory, and the memory file "
				      "is of one with 1048576");
	/* What a file of Mayfly's says behind the memory is not handed out. */
	cr_assert_eq(connection_parse(&connection, tail, strlen(tail), &image, &err), -EINVAL);
	cr_assert(strstr(err.message, "the memory file has no 4096 bytes"), "%s", err.message);
}

/* A snapshot's memory file, or a diff, of one page. */
static void write_own_file(const char *path, const struct memory_file_id *base)
{
	struct tail_mark mark =
		tail_make_mark(PAGE_SIZE_BYTES, &(struct memory_file_id) { { 1 } }, base);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_eq(ftruncate(fd, PAGES(3)), 0);
	cr_assert_eq(pwrite(fd, &mark, sizeof(mark), PAGES(1)), (ssize_t)sizeof(mark));
	if (!base)
		cr_assert_eq(pwrite(fd, tail_complete, sizeof(tail_complete), PAGES(2)),
			     (ssize_t)sizeof(tail_complete));
	close(fd);
}

Test(uffd, a_memory_file_says_how_large_its_guest_is_and_a_diff_is_refused)
{
	struct setting setting;
	struct memory_image image;
	struct error err = { 0 };

	prepare(&setting);
	cr_assert_eq(memory_image_open(&image, setting.file, &err), 0, "%s", err.message);
	cr_assert_eq(image.memory_bytes, 0, "another tool's file says nothing");
	memory_image_close(&image);
	write_own_file(setting.file, NULL);
	cr_assert_eq(memory_image_open(&image, setting.file, &err), 0, "%s", err.message);
	cr_assert_eq(image.memory_bytes, PAGES(1));
	memory_image_close(&image);
	write_own_file(setting.file, &(struct memory_file_id) { { 2 } });
	cr_assert_eq(memory_image_open(&image, setting.file, &err), -EINVAL);
	cr_assert(strstr(err.message, "is a diff"), "%s", err.message);
	cr_assert_eq(image.fd, -1);
	clean(&setting);
}

/* Guests of the handler would get pages of two snapshots. */
Test(uffd, nothing_is_merged_into_a_memory_file_that_is_served)
{
	struct setting setting;
	struct memory_image image, second;
	struct error err = { 0 };
	char diff[80];
	int fd;

	prepare(&setting);
	snprintf(diff, sizeof(diff), "%s/diff", setting.folder);
	write_own_file(setting.file, NULL);
	write_own_file(diff, &(struct memory_file_id) { { 2 } });
	cr_assert_eq(memory_image_open(&image, setting.file, &err), 0, "%s", err.message);
	cr_assert_eq(memory_file_merge(setting.file, diff, &err), -EBUSY, "%s", err.message);
	/* Many can serve it. */
	cr_assert_eq(memory_image_open(&second, setting.file, &err), 0, "%s", err.message);
	memory_image_close(&second);
	memory_image_close(&image);
	fd = open(setting.file, O_RDWR | O_CLOEXEC);
	cr_assert_eq(flock(fd, LOCK_EX), 0);
	cr_assert_eq(memory_image_open(&image, setting.file, &err), -EBUSY);
	cr_assert(strstr(err.message, "a diff is being merged into it"), "%s", err.message);
	close(fd);
	unlink(diff);
	clean(&setting);
}

/* The wait status of a process that enters the handler's filter and makes a call. */
static int status_under_filter(const char *working_set, long number, long arg1, long arg2)
{
	const struct handler_options options = { .working_set = working_set };
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		if (handler_enter_filter(&options, NULL) < 0)
			_exit(99);
		syscall(number, -1, arg1, arg2, 0, 0, 0);
		syscall(SYS_exit_group, 0);
	}
	waitpid(pid, &status, 0);
	return status;
}

static bool killed(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

Test(uffd, a_process_that_serves_a_monitor_can_do_that_and_no_more)
{
	static const long never[] = {
		SYS_socket,   SYS_connect, SYS_execve, SYS_clone,
		SYS_fork,     SYS_ptrace,  SYS_kill,   SYS_userfaultfd,
		SYS_mprotect, SYS_sendmsg, SYS_bind,   SYS_process_vm_writev,
		SYS_dup2,     SYS_getppid, SYS_open,   0x40000000 | SYS_read
	};
	static const long for_files[] = { SYS_openat, SYS_linkat, SYS_unlinkat, SYS_renameat };
	static const long always[] = { SYS_read, SYS_recvmsg, SYS_lseek, SYS_restart_syscall };

	for (size_t i = 0; i < ARRAY_SIZE(never); i++)
		cr_assert(killed(status_under_filter("w", never[i], 0, 0)), "call %ld", never[i]);
	for (size_t i = 0; i < ARRAY_SIZE(for_files); i++) {
		cr_assert(killed(status_under_filter(NULL, for_files[i], 0, 0)), "call %ld",
			  for_files[i]);
		cr_assert_eq(status_under_filter("w", for_files[i], 0, 0), 0, "call %ld",
			     for_files[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		cr_assert_eq(status_under_filter(NULL, always[i], 0, 0), 0, "call %ld", always[i]);
	cr_assert_eq(status_under_filter(NULL, SYS_ioctl, (long)UFFDIO_COPY, 0), 0);
	cr_assert(killed(status_under_filter(NULL, SYS_ioctl, 0x5412 /* TIOCSTI */, 0)));
	cr_assert_eq(status_under_filter(NULL, SYS_mmap, 4096, PROT_READ), 0);
	cr_assert(killed(status_under_filter(NULL, SYS_mmap, 4096, PROT_READ | PROT_EXEC)));
}

Test(uffd, the_command_line_says_what_is_missing)
{
	static const struct {
		const char *argv[6];
		const char *said;
	} cases[] = {
		{ { "mayfly-uffd", NULL }, "--socket is missing" },
		{ { "mayfly-uffd", "--socket", "/s", NULL }, "--memory-file is missing" },
		{ { "mayfly-uffd", "--socket", NULL }, "needs a value" },
		{ { "mayfly-uffd", "--record-ms", "0", NULL }, "--record-ms takes" },
		{ { "mayfly-uffd", "--around-kib", "3", NULL }, "--around-kib takes" },
		{ { "mayfly-uffd", "--around-kib", "12", NULL }, "power of two" },
		{ { "mayfly-uffd", "--sockets", NULL }, "no option" },
		{ { "mayfly-uffd", "word", NULL }, "word" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct handler_options options;
		struct error err = { 0 };
		char *argv[6];
		int argc = 0;

		for (; cases[i].argv[argc]; argc++)
			argv[argc] = (char *)(uintptr_t)cases[i].argv[argc];
		argv[argc] = NULL;
		cr_assert_eq(handler_options_parse(&options, argc, argv, &err), -EINVAL, "case %zu",
			     i);
		cr_assert(strstr(err.message, cases[i].said), "case %zu: %s", i, err.message);
	}
}

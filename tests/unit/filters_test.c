/*
 * The filters themselves, by an interpreter of the BPF that the kernel gets; the file of
 * --seccomp-filter, each of whose mistakes is refused by its place; and a filter at work, in a
 * child.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "mayfly/filters.h"

#define NUMBERS	   600
#define X32	   0x40000000
#define FILE_BYTES 65536

/* What seccomp(2) does with a program of the instructions that filters_parse() takes. */
static uint32_t run_program(const struct filters_program *program, const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (unsigned int at = 0; at < program->count; at++) {
		const struct sock_filter *i = &program->instructions[at];
		bool jump;

		switch (BPF_CLASS(i->code)) {
		case BPF_LD:
			memcpy(&a, (const char *)data + i->k, sizeof(a));
			break;
		case BPF_ALU:
			cr_assert_eq(i->code, BPF_ALU | BPF_AND | BPF_K);
			a &= i->k;
			break;
		case BPF_RET:
			return i->k;
		case BPF_JMP:
			if (BPF_OP(i->code) == BPF_JA) {
				at += i->k;
				break;
			}
			jump = BPF_OP(i->code) == BPF_JEQ   ? a == i->k
			       : BPF_OP(i->code) == BPF_JGT ? a > i->k
			       : BPF_OP(i->code) == BPF_JGE ? a >= i->k
							    : (a & i->k) != 0;
			at += jump ? i->jt : i->jf;
			break;
		default:
			cr_assert_fail("instruction %u has the code %x", at, i->code);
		}
	}
	cr_assert_fail("the program has no end");
	return 0;
}

static uint32_t verdict(enum filters_thread thread, long number, uint64_t arg1, uint64_t arg2,
			uint64_t arg3)
{
	struct seccomp_data data = { .nr = (int)number,
				     .arch = AUDIT_ARCH_X86_64,
				     .args = { 7, arg1, arg2, arg3, 0, 0 } };
	struct filters filters;

	filters_use_built_in(&filters);
	return run_program(&filters.programs[thread], &data);
}

static bool allowed(enum filters_thread thread, long number, uint64_t arg1, uint64_t arg2)
{
	return verdict(thread, number, arg1, arg2, 0) == SECCOMP_RET_ALLOW;
}

Test(filters, calls_of_other_architectures_kill_at_once)
{
	struct filters filters;

	filters_use_built_in(&filters);
	for (unsigned int thread = 0; thread < FILTERS_THREADS; thread++) {
		for (int number = 0; number < NUMBERS; number++) {
			struct seccomp_data i386 = { .nr = number, .arch = AUDIT_ARCH_I386 };

			cr_assert_eq(run_program(&filters.programs[thread], &i386),
				     SECCOMP_RET_KILL_PROCESS);
			cr_assert_eq(verdict(thread, number | X32, 0, 0, 0),
				     SECCOMP_RET_KILL_PROCESS);
		}
	}
}

Test(filters, what_makes_new_powers_is_never_allowed)
{
	static const long never[] = {
		SYS_execve,	  SYS_execveat,	   SYS_fork,	       SYS_vfork,
		SYS_clone,	  SYS_clone3,	   SYS_ptrace,	       SYS_socket,
		SYS_connect,	  SYS_bind,	   SYS_listen,	       SYS_prctl,
		SYS_seccomp,	  SYS_mprotect,	   SYS_pkey_mprotect,  SYS_shmat,
		SYS_setuid,	  SYS_unshare,	   SYS_mount,	       SYS_chroot,
		SYS_rt_sigaction, SYS_kill,	   SYS_tkill,	       SYS_getdents64,
		SYS_chmod,	  SYS_fchmod,	   SYS_symlink,	       SYS_mknodat,
		SYS_bpf,	  SYS_userfaultfd, SYS_io_uring_setup, SYS_perf_event_open,
		SYS_keyctl,	  SYS_arch_prctl,  SYS_memfd_create,   SYS_dup2
	};

	for (unsigned int thread = 0; thread < FILTERS_THREADS; thread++) {
		for (size_t i = 0; i < ARRAY_SIZE(never); i++) {
			uint32_t action = verdict(thread, never[i], 0, 0, 0);

			cr_assert(action == SECCOMP_RET_TRAP || action == SECCOMP_RET_KILL_PROCESS,
				  "%s", filters_call_name((unsigned int)never[i]));
		}
		cr_assert_eq(verdict(thread, SYS_execve, 0, 0, 0), SECCOMP_RET_KILL_PROCESS);
		cr_assert_eq(verdict(thread, SYS_ptrace, 0, 0, 0), SECCOMP_RET_KILL_PROCESS);
		cr_assert_eq(verdict(thread, SYS_clone, 0, 0, 0), SECCOMP_RET_TRAP);
	}
}

Test(filters, vcpu_threads_do_not_touch_files)
{
	static const long never[] = { SYS_openat,	    SYS_read,	  SYS_close,
				      SYS_preadv2,	    SYS_pwritev2, SYS_mmap,
				      SYS_munmap,	    SYS_brk,	  SYS_accept4,
				      SYS_epoll_ctl,	    SYS_tgkill,	  SYS_io_uring_setup,
				      SYS_io_uring_register };

	for (size_t i = 0; i < ARRAY_SIZE(never); i++)
		cr_assert_eq(verdict(FILTERS_VCPU, never[i], 0, 0, 0), SECCOMP_RET_TRAP, "%s",
			     filters_call_name((unsigned int)never[i]));
}

Test(filters, the_thread_that_watches_a_handler_reads_and_does_no_more)
{
	static const long never[] = {
		SYS_openat,    SYS_close,  SYS_preadv2,	   SYS_pwritev2,
		SYS_mmap,      SYS_munmap, SYS_brk,	   SYS_accept4,
		SYS_epoll_ctl, SYS_tgkill, SYS_epoll_wait, SYS_io_uring_enter
	};

	cr_assert(allowed(FILTERS_UFFD, SYS_read, 0, 0));
	for (size_t i = 0; i < ARRAY_SIZE(never); i++)
		cr_assert_eq(verdict(FILTERS_UFFD, never[i], 0, 0, 0), SECCOMP_RET_TRAP, "%s",
			     filters_call_name((unsigned int)never[i]));
}

Test(filters, only_the_ioctls_that_are_needed)
{
	cr_assert(allowed(FILTERS_VCPU, SYS_ioctl, KVM_RUN, 0));
	cr_assert_not(allowed(FILTERS_VMM, SYS_ioctl, KVM_RUN, 0));
	cr_assert(allowed(FILTERS_VMM, SYS_ioctl, KVM_KVMCLOCK_CTRL, 0));
	cr_assert_not(allowed(FILTERS_VCPU, SYS_ioctl, KVM_KVMCLOCK_CTRL, 0));
	for (unsigned int thread = 0; thread < FILTERS_THREADS; thread++) {
		bool drives = thread != FILTERS_UFFD;

		cr_assert_eq(allowed(thread, SYS_ioctl, TUNSETOFFLOAD, 0), drives);
		cr_assert_not(allowed(thread, SYS_ioctl, TUNSETIFF, 0));
		cr_assert_not(allowed(thread, SYS_ioctl, TIOCSTI, 0));
		cr_assert_not(allowed(thread, SYS_ioctl, KVM_CREATE_VM, 0));
		cr_assert_not(allowed(thread, SYS_ioctl, KVM_SET_USER_MEMORY_REGION, 0));
		/* The kernel looks at 32 bits only, and so must a filter. */
		cr_assert(allowed(thread, SYS_ioctl, TIOCGPGRP | 1ULL << 32, 0));
		cr_assert_not(allowed(thread, SYS_ioctl, (uint64_t)TIOCSTI | 1ULL << 32, 0));
	}
}

Test(filters, memory_is_never_made_executable)
{
	for (int protection = 0; protection < 8; protection++)
		cr_assert_eq(allowed(FILTERS_VMM, SYS_mmap, 4096, (uint64_t)protection),
			     !(protection & PROT_EXEC));
	cr_assert_not(allowed(FILTERS_VMM, SYS_mmap, 4096, PROT_EXEC | 1ULL << 32));
}

/* A fork moves a mapping; none is shared anew, and none grows in its place. */
Test(filters, mappings_move_and_are_not_doubled)
{
	for (uint64_t flags = 0; flags < 8; flags++) {
		bool fork_allows =
			verdict(FILTERS_FORK, SYS_mremap, 4096, 8192, flags) == SECCOMP_RET_ALLOW;

		cr_assert_eq(verdict(FILTERS_VMM, SYS_mremap, 4096, 8192, flags),
			     SECCOMP_RET_ERRNO | ENOMEM);
		cr_assert_eq(fork_allows,
			     flags == MREMAP_MAYMOVE || flags == (MREMAP_MAYMOVE | MREMAP_FIXED));
	}
}

Test(filters, what_forks_take_only_monitors_may_that_can_be_forked)
{
	unsigned int more = 0;

	cr_assert_not(allowed(FILTERS_VMM, SYS_sendmsg, 0, 0));
	cr_assert_not(allowed(FILTERS_VMM, SYS_madvise, 4096, MADV_DONTDUMP));
	cr_assert(allowed(FILTERS_FORK, SYS_sendmsg, 0, 0));
	cr_assert(allowed(FILTERS_FORK, SYS_madvise, 4096, MADV_DONTDUMP));
	cr_assert_not(allowed(FILTERS_FORK, SYS_madvise, 4096, MADV_DONTNEED));
	/* Nothing else differs: in what is asked of them with zeros. */
	for (long number = 0; number < NUMBERS; number++) {
		uint32_t mine = verdict(FILTERS_VMM, number, 0, 0, 0);
		uint32_t forks = verdict(FILTERS_FORK, number, 0, 0, 0);

		more += mine != forks;
		cr_assert(mine == forks || number == SYS_sendmsg || number == SYS_mremap, "%ld",
			  number);
	}
	cr_assert_eq(more, 2);
}

Test(filters, signals_go_to_vcpus_and_to_the_end_only)
{
	for (unsigned int number = 0; number < 65; number++)
		cr_assert_eq(allowed(FILTERS_VMM, SYS_tgkill, 7, number),
			     (int)number == SIGRTMIN || number == SIGABRT || number == SIGFPE,
			     "signal %u", number);
}

Test(filters, futexes_only_wait_and_wake)
{
	static const int good[] = { FUTEX_WAIT,
				    FUTEX_WAKE,
				    FUTEX_WAIT_PRIVATE,
				    FUTEX_WAKE_PRIVATE,
				    FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME,
				    FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME };
	unsigned int taken = 0;

	for (unsigned int thread = 0; thread < FILTERS_THREADS; thread++) {
		for (size_t i = 0; i < ARRAY_SIZE(good); i++)
			cr_assert(allowed(thread, SYS_futex, (uint64_t)good[i], 0));
		cr_assert_not(allowed(thread, SYS_futex, FUTEX_LOCK_PI_PRIVATE, 0));
		cr_assert_not(allowed(thread, SYS_futex, FUTEX_CMP_REQUEUE_PI, 0));
		for (uint64_t operation = 0; operation < 128; operation++)
			taken += allowed(thread, SYS_futex, operation, 0);
	}
	cr_assert_eq(taken, FILTERS_THREADS * 3);
}

Test(filters, a_vcpu_thread_waits_for_a_ring_and_submits_nothing)
{
	uint64_t wait = 1; /* IORING_ENTER_GETEVENTS */

	cr_assert_eq(verdict(FILTERS_VCPU, SYS_io_uring_enter, 0, 1, wait), SECCOMP_RET_ALLOW);
	cr_assert_eq(verdict(FILTERS_VCPU, SYS_io_uring_enter, 1, 1, wait), SECCOMP_RET_TRAP);
	cr_assert_eq(verdict(FILTERS_VCPU, SYS_io_uring_enter, 0, 1, 0), SECCOMP_RET_TRAP);
	cr_assert_eq(verdict(FILTERS_VCPU, SYS_io_uring_enter, 0, 1, wait | 2), SECCOMP_RET_TRAP);
}

Test(filters, calls_have_names)
{
	cr_assert_str_eq(filters_call_name(SYS_read), "read");
	cr_assert_str_eq(filters_call_name(SYS_getppid), "getppid");
	cr_assert_str_eq(filters_call_name(SYS_io_uring_setup), "io_uring_setup");
	cr_assert_str_eq(filters_call_name(400), "?");
	cr_assert_str_eq(filters_call_name(100000), "?");
	cr_assert_str_eq(filters_call_name(UINT32_MAX), "?");
}

/* A file with the built-in programs, for mistakes to be made in. */
struct image {
	union {
		uint8_t bytes[FILE_BYTES];
		struct filters_file_head head;
	};
	size_t length;
	size_t program[FILTERS_THREADS]; /* where they begin */
};

static void append(struct image *image, const void *data, size_t bytes)
{
	memcpy(image->bytes + image->length, data, bytes);
	image->length += bytes;
}

static void make_image(struct image *image)
{
	struct filters_file_head head = { .magic = FILTERS_FILE_MAGIC,
					  .version = FILTERS_FILE_VERSION,
					  .architecture = AUDIT_ARCH_X86_64,
					  .program_count = FILTERS_THREADS };
	static const char *const names[] = { "vmm", "vcpu", "uffd", "fork" };
	struct filters filters;

	image->length = 0;
	filters_use_built_in(&filters);
	append(image, &head, sizeof(head));
	for (unsigned int i = 0; i < FILTERS_THREADS; i++) {
		struct filters_file_program program = { .instruction_count =
								filters.programs[i].count };

		strcpy(program.thread, names[i]);
		image->program[i] = image->length;
		append(image, &program, sizeof(program));
		append(image, filters.programs[i].instructions,
		       filters.programs[i].count * sizeof(struct sock_filter));
	}
}

static const char *refusal(const struct image *image)
{
	static struct error err;
	struct filters filters;

	err = (struct error) { 0 };
	cr_assert_eq(filters_parse(&filters, image->bytes, image->length, "/f", &err), -err.code);
	if (!err.code)
		filters_clear(&filters);
	cr_assert_null(filters.owned);
	cr_assert_eq(filters.programs[FILTERS_VMM].count, 0);
	return err.message;
}

static void assert_refused(const struct image *image, size_t offset, const char *what)
{
	char wanted[256];

	snprintf(wanted, sizeof(wanted), "system-call filters /f: offset %zu: %s", offset, what);
	cr_assert_str_eq(refusal(image), wanted);
}

Test(filters, file_gives_what_was_compiled)
{
	static struct image image;
	struct filters filters, built_in;

	make_image(&image);
	filters_use_built_in(&built_in);
	cr_assert_eq(filters_parse(&filters, image.bytes, image.length, "/f", NULL), 0);
	for (unsigned int i = 0; i < FILTERS_THREADS; i++) {
		cr_assert_eq(filters.programs[i].count, built_in.programs[i].count);
		cr_assert_arr_eq(filters.programs[i].instructions,
				 built_in.programs[i].instructions,
				 filters.programs[i].count * sizeof(struct sock_filter));
	}
	filters_clear(&filters);
	cr_assert_eq(filters.programs[FILTERS_VCPU].count, 0);
	filters_clear(&filters);
}

Test(filters, thread_that_a_file_leaves_out_may_what_the_main_thread_may)
{
	static struct image image;
	struct filters filters;

	/* Files of two programs, and of three: they were made before there were the others. */
	for (unsigned int there = FILTERS_UFFD; there < FILTERS_THREADS; there++) {
		make_image(&image);
		image.head.program_count = there;
		image.length = image.program[there];
		cr_assert_eq(filters_parse(&filters, image.bytes, image.length, "/f", NULL), 0);
		cr_assert_gt(filters.programs[FILTERS_VMM].count, 0);
		for (unsigned int i = FILTERS_UFFD; i < FILTERS_THREADS; i++)
			cr_assert_eq(filters.programs[i].instructions ==
					     filters.programs[FILTERS_VMM].instructions,
				     i >= there);
		filters_clear(&filters);
	}
}

Test(filters, no_other_thread_may_be_left_out)
{
	static struct image image;
	struct filters_file_program *program;

	make_image(&image);
	program =
		(struct filters_file_program *)(void *)(image.bytes + image.program[FILTERS_VCPU]);
	image.head.program_count = 2;
	image.length = image.program[FILTERS_UFFD];
	strcpy(program->thread, "uffd");
	assert_refused(&image, image.length, "vmm and vcpu each need a program");
}

Test(filters, file_cut_anywhere_is_refused)
{
	static struct image image;
	size_t whole;

	make_image(&image);
	whole = image.length;
	for (image.length = 0; image.length < whole; image.length++)
		cr_assert(strstr(refusal(&image), "offset"), "%zu bytes of %zu are taken",
			  image.length, whole);
	image.length = whole + 1;
	assert_refused(&image, whole, "there is something behind the last program");
}

Test(filters, head_is_checked_field_by_field)
{
	static struct image image;

	make_image(&image);
	image.head.magic[7]++;
	assert_refused(&image, 0, "this is no file of filters (mayfly-seccomp compile makes one)");
	make_image(&image);
	image.head.version++;
	assert_refused(&image, 8, "a version that this Mayfly does not know");
	make_image(&image);
	image.head.architecture = AUDIT_ARCH_I386;
	assert_refused(&image, 12, "the filters are for another architecture");
	make_image(&image);
	image.head.program_count = 1;
	assert_refused(&image, 16,
		       "there are two to four programs: vmm, vcpu, and maybe uffd and fork");
	image.head.program_count = 5;
	assert_refused(&image, 16,
		       "there are two to four programs: vmm, vcpu, and maybe uffd and fork");
	make_image(&image);
	image.head.reserved = 1;
	assert_refused(&image, 20, "this must be 0");
}

Test(filters, program_heads_are_checked_field_by_field)
{
	struct filters_file_program *program;
	static struct image image;
	size_t at;

	make_image(&image);
	at = image.program[FILTERS_VCPU];
	program = (struct filters_file_program *)(void *)(image.bytes + at);
	strcpy(program->thread, "vmm");
	program->thread[4] = '\0';
	assert_refused(&image, at, "a second program for the same thread");
	strcpy(program->thread, "api");
	assert_refused(&image, at, "the thread is none of vmm, vcpu, uffd and fork");
	memcpy(program->thread, "vcpu\0\0\0x", 8);
	assert_refused(&image, at, "the thread is none of vmm, vcpu, uffd and fork");
	make_image(&image);
	program->instruction_count = 0;
	assert_refused(&image, at + 8, "a program has from 1 to 4096 instructions");
	program->instruction_count = BPF_MAXINSNS + 1;
	assert_refused(&image, at + 8, "a program has from 1 to 4096 instructions");
	program->instruction_count = BPF_MAXINSNS;
	assert_refused(&image, at + 16, "the file ends within a program");
	make_image(&image);
	program->reserved = 1;
	assert_refused(&image, at + 12, "this must be 0");
}

static void assert_instruction_refused(struct sock_filter instruction, const char *what)
{
	static struct image image;
	size_t at;

	make_image(&image);
	at = image.program[FILTERS_VCPU] + sizeof(struct filters_file_program) +
	     2 * sizeof(instruction);
	memcpy(image.bytes + at, &instruction, sizeof(instruction));
	assert_refused(&image, at, what);
}

Test(filters, instructions_are_checked_one_by_one)
{
	struct filters filters;
	static struct image image;
	unsigned int last;
	size_t at;

	filters_use_built_in(&filters);
	last = filters.programs[FILTERS_VCPU].count - 1U;
	assert_instruction_refused((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 1),
				   "a load from outside of what a filter is given");
	assert_instruction_refused(
		(struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, sizeof(struct seccomp_data)),
		"a load from outside of what a filter is given");
	assert_instruction_refused((struct sock_filter)BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
				   "an instruction that filters do not use");
	assert_instruction_refused((struct sock_filter)BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0),
				   "an instruction that filters do not use");
	assert_instruction_refused((struct sock_filter)BPF_STMT(0xffff, 0),
				   "an instruction that filters do not use");
	assert_instruction_refused((struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, last - 2),
				   "a jump out of the program");
	assert_instruction_refused((struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, UINT32_MAX),
				   "a jump out of the program");
	assert_instruction_refused(
		(struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 255),
		"a jump out of the program");
	make_image(&image);
	at = image.length - sizeof(struct sock_filter);
	memcpy(image.bytes + at, &(struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
	       sizeof(struct sock_filter));
	assert_refused(&image, at, "the program does not end with a return");
}

Test(filters, file_that_cannot_be_read_is_named)
{
	struct filters filters;
	struct error err;

	cr_assert_lt(filters_load(&filters, "/nonexistent/filters", &err), 0);
	cr_assert(strstr(err.message, "/nonexistent/filters: No such file"), "%s", err.message);
	cr_assert_lt(filters_load(&filters, "/dev/zero", &err), 0);
	cr_assert(strstr(err.message, "/dev/zero are no regular file"), "%s", err.message);
	cr_assert_lt(filters_load(&filters, "/proc/self/exe", &err), 0);
	cr_assert(strstr(err.message, "/proc/self/exe: offset "), "%s", err.message);
}

/* The wait status of a child that enters a thread's filter and then makes a call. */
static int status_under(enum filters_thread thread, long number, long arg1)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		struct filters filters;

		filters_use_built_in(&filters);
		if (filters_enter(&filters, thread, NULL) < 0)
			_exit(99);
		syscall(number, -1, arg1, 0, 0);
		syscall(SYS_exit_group, 0);
	}
	waitpid(pid, &status, 0);
	return status;
}

Test(filters, kernel_takes_them_and_acts_on_them)
{
	for (unsigned int thread = 0; thread < FILTERS_THREADS; thread++) {
		int status = status_under(thread, SYS_write, 0);

		cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x",
			  (unsigned int)status);
		status = status_under(thread, SYS_getppid, 0);
		cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "%x",
			  (unsigned int)status);
		status = status_under(thread, SYS_ioctl, TIOCSTI);
		cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "%x",
			  (unsigned int)status);
	}
}

Test(filters, nothing_is_installed_where_there_are_none)
{
	struct filters none = { 0 };

	cr_assert_eq(filters_enter(NULL, FILTERS_VMM, NULL), 0);
	cr_assert_eq(filters_enter(&none, FILTERS_VCPU, NULL), 0);
	cr_assert_gt(syscall(SYS_getppid), -1);
}

/*
 * The system calls of a process that serves one monitor: see handler.h.
 *
 * Such a process reads what the monitor says and holds a descriptor that acts on the monitor's
 * memory, and on no other. It needs a dozen calls for that, and a few for files where it loads or
 * records a working set; everything else ends it, by SIGSYS, and with it the guest.
 *
 * The program is a list of comparisons: seccomp(2), "struct seccomp_data".
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "handler.h"
#include "mayfly/filters.h"

/* Both lists, the head, the two calls whose arguments are looked at, the end. */
#define INSTRUCTIONS_MAX 64

static const unsigned int serving[] = {
	SYS_recvmsg,	     /* the monitor's message */
	SYS_poll,	     /* its faults, its end */
	SYS_restart_syscall, /* poll's, when the process was stopped and goes on */
	SYS_read,	     /* the faults; the working set's file */
	SYS_recvfrom,	     /* its end */
	SYS_sendto,	     /* that all is there */
	SYS_lseek,	     /* where the memory file has data */
	SYS_clock_gettime,   /* how long a working set is recorded, on hosts that need a call */
	SYS_write,	     /* what went wrong, to standard error; the working set's file */
	SYS_munmap,	     /* memory; what may be mapped is below */
	SYS_brk,	     /* the same */
	SYS_mremap,	     /* the same */
	SYS_close,	     /* descriptors that were not asked for; the end */
	SYS_exit_group,
};

/* src/snapshot/working_set.c, src/snapshot/atomic_file.c. */
static const unsigned int files[] = {
	SYS_access, SYS_openat, SYS_newfstatat, SYS_preadv2,  SYS_pwritev2,
	SYS_fsync,  SYS_linkat, SYS_renameat,	SYS_unlinkat,
};

struct program {
	struct sock_filter code[INSTRUCTIONS_MAX];
	unsigned short count;
};

static void put(struct program *program, struct sock_filter instruction)
{
	program->code[program->count++] = instruction;
}

#define STATEMENT(code, value)	      ((struct sock_filter)BPF_STMT(code, value))
#define JUMP(code, value, so, not_so) ((struct sock_filter)BPF_JUMP(code, value, so, not_so))
#define LOAD(field)		      STATEMENT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(action)		      STATEMENT(BPF_RET | BPF_K, action)

/* The lower half of an argument: the host is little-endian. */
#define ARGUMENT(index) args[index]

static void put_calls(struct program *program, const unsigned int *calls, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		put(program, JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i], 0, 1));
		put(program, RETURN(SECCOMP_RET_ALLOW));
	}
}

/* Requests of userfaultfd(2), whatever their number: the descriptor serves no others. */
static void put_ioctl(struct program *program)
{
	put(program, JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 5));
	put(program, LOAD(ARGUMENT(1)));
	put(program, STATEMENT(BPF_ALU | BPF_AND | BPF_K, _IOC_TYPEMASK << _IOC_TYPESHIFT));
	put(program, JUMP(BPF_JMP | BPF_JEQ | BPF_K, UFFDIO << _IOC_TYPESHIFT, 0, 1));
	put(program, RETURN(SECCOMP_RET_ALLOW));
	put(program, RETURN(SECCOMP_RET_KILL_PROCESS));
}

/* Nothing that could be executed. The last: the number of the call is gone behind it. */
static void put_mmap(struct program *program)
{
	put(program, JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 3));
	put(program, LOAD(ARGUMENT(2)));
	put(program, JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 0));
	put(program, RETURN(SECCOMP_RET_ALLOW));
	put(program, RETURN(SECCOMP_RET_KILL_PROCESS));
}

int handler_enter_filter(const struct handler_options *options, struct error *err)
{
	struct program program = { .count = 0 };
	struct sock_fprog given;

	put(&program, LOAD(arch));
	put(&program, JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
	put(&program, RETURN(SECCOMP_RET_KILL_PROCESS));
	put(&program, LOAD(nr));
	put_calls(&program, serving, ARRAY_SIZE(serving));
	if (options->working_set)
		put_calls(&program, files, ARRAY_SIZE(files));
	put_ioctl(&program);
	put_mmap(&program);
	given = (struct sock_fprog) { .len = program.count, .filter = program.code };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &given) < 0)
		return error_errno(err, "the kernel does not take the system-call filter");
	return 0;
}

/* The names that conditions may use for the values of arguments, from the kernel's headers. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "definition.h"

#define SYMBOL(name)                    \
	{                               \
#name, (uint32_t)(name) \
	}

static const struct {
	const char *name;
	uint32_t value;
} symbols[] = {
	/* errors */
	SYMBOL(EPERM),
	SYMBOL(EACCES),
	SYMBOL(EINVAL),
	SYMBOL(ENOMEM),
	SYMBOL(ENOSYS),
	/* ioctl: KVM */
	SYMBOL(KVM_RUN),
	SYMBOL(KVM_GET_REGS),
	SYMBOL(KVM_GET_SREGS),
	SYMBOL(KVM_GET_SREGS2),
	SYMBOL(KVM_SET_REGS),
	SYMBOL(KVM_SET_SREGS),
	SYMBOL(KVM_GET_MSRS),
	SYMBOL(KVM_SET_MSRS),
	SYMBOL(KVM_GET_MSR_INDEX_LIST),
	SYMBOL(KVM_GET_FPU),
	SYMBOL(KVM_GET_XSAVE),
	SYMBOL(KVM_GET_XSAVE2),
	SYMBOL(KVM_GET_XCRS),
	SYMBOL(KVM_GET_LAPIC),
	SYMBOL(KVM_GET_DEBUGREGS),
	SYMBOL(KVM_GET_VCPU_EVENTS),
	SYMBOL(KVM_GET_MP_STATE),
	SYMBOL(KVM_GET_TSC_KHZ),
	SYMBOL(KVM_GET_DEVICE_ATTR),
	SYMBOL(KVM_GET_CPUID2),
	SYMBOL(KVM_GET_IRQCHIP),
	SYMBOL(KVM_GET_PIT2),
	SYMBOL(KVM_GET_CLOCK),
	SYMBOL(KVM_SET_CLOCK),
	SYMBOL(KVM_GET_DIRTY_LOG),
	SYMBOL(KVM_CLEAR_DIRTY_LOG),
	SYMBOL(KVM_CHECK_EXTENSION),
	SYMBOL(KVM_KVMCLOCK_CTRL),
	SYMBOL(KVM_SET_USER_MEMORY_REGION),
	/* ioctl: disks, TAPs, terminals */
	SYMBOL(BLKGETSIZE64),
	SYMBOL(BLKDISCARD),
	SYMBOL(TUNSETOFFLOAD),
	SYMBOL(TCGETS),
	SYMBOL(TCSETS),
	SYMBOL(TIOCGPGRP),
	/* fcntl, open */
	SYMBOL(F_SETFL),
	SYMBOL(F_GETFL),
	SYMBOL(F_GETFD),
	SYMBOL(F_SETFD),
	SYMBOL(F_DUPFD_CLOEXEC),
	SYMBOL(F_OFD_SETLK),
	SYMBOL(O_RDONLY),
	SYMBOL(O_WRONLY),
	SYMBOL(O_RDWR),
	SYMBOL(O_CREAT),
	SYMBOL(O_EXCL),
	SYMBOL(O_TRUNC),
	SYMBOL(O_APPEND),
	SYMBOL(O_TMPFILE),
	SYMBOL(O_DIRECTORY),
	SYMBOL(O_PATH),
	SYMBOL(O_NOFOLLOW),
	SYMBOL(O_CLOEXEC),
	SYMBOL(O_NOCTTY),
	SYMBOL(O_NONBLOCK),
	/* memory */
	SYMBOL(PROT_NONE),
	SYMBOL(PROT_READ),
	SYMBOL(PROT_WRITE),
	SYMBOL(PROT_EXEC),
	SYMBOL(MAP_SHARED),
	SYMBOL(MAP_PRIVATE),
	SYMBOL(MAP_ANONYMOUS),
	SYMBOL(MADV_DONTNEED),
	SYMBOL(MADV_DONTDUMP),
	SYMBOL(MREMAP_MAYMOVE),
	SYMBOL(MREMAP_FIXED),
	SYMBOL(MADV_NOHUGEPAGE),
	SYMBOL(MADV_HUGEPAGE),
	/* threads and signals */
	SYMBOL(FUTEX_WAIT),
	SYMBOL(FUTEX_WAKE),
	SYMBOL(FUTEX_WAIT_BITSET),
	SYMBOL(FUTEX_PRIVATE_FLAG),
	SYMBOL(FUTEX_CLOCK_REALTIME),
	SYMBOL(SIGABRT),
	SYMBOL(SIGFPE),
	{ "SIGRTMIN", 34 }, /* the first that the C library leaves to a program: signal(7) */
	SYMBOL(SIG_BLOCK),
	SYMBOL(SIG_UNBLOCK),
	SYMBOL(SIG_SETMASK),
	/* sockets, io_uring */
	SYMBOL(AF_UNIX),
	SYMBOL(SOCK_STREAM),
	SYMBOL(SOCK_CLOEXEC),
	SYMBOL(SOCK_NONBLOCK),
	SYMBOL(MSG_DONTWAIT),
	SYMBOL(MSG_NOSIGNAL),
	SYMBOL(IORING_ENTER_GETEVENTS),
	SYMBOL(IORING_REGISTER_FILES),
	SYMBOL(IORING_REGISTER_EVENTFD),
	SYMBOL(IORING_REGISTER_FILES_UPDATE),
};

bool symbol_value(const char *name, uint32_t *value)
{
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		if (strcmp(symbols[i].name, name) == 0) {
			*value = symbols[i].value;
			return true;
		}
	}
	return false;
}

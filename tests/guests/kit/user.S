/*
 * Calls a function in ring 3: see user_run() in cpu.h.
 *
 * The way in is IRETQ, the way out an undefined instruction: a system call would need what some hosts do not offer to
 * a guest's user code, and an exception reaches ring 0 everywhere. The stack of ring 0 for exceptions (TSS.RSP0) starts
 * where user_run() left it, so that user_leave() finds its caller's registers there.
 */
#include "boot.inc"

	.section .text, "ax"
	.code64
	.globl user_run, user_exit, user_leave
user_run: /* rdi: the function, rsi: its argument */
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	pushfq
	mov %rsp, %rax
	and $-CPU_AREA_BYTES, %rax
	mov %rsp, CPU_TSS_RSP0(%rax)
	mov (%rsp), %rcx
	add $CPU_USER_STACK_TOP, %rax
	push $SELECTOR_USER_DATA
	push %rax
	push %rcx
	push $SELECTOR_USER_CODE
	push $user_entry
	iretq

user_entry:
	mov %rdi, %rax
	mov %rsi, %rdi
	call *%rax
user_exit:
	ud2

user_leave: /* rdi: what the function returned */
	mov %rsp, %rax
	and $-CPU_AREA_BYTES, %rax
	mov CPU_TSS_RSP0(%rax), %rsp
	mov %rdi, %rax
	popfq
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	.section .note.GNU-stack, "", @progbits

/*
 * Exceptions and interrupts: 64 stubs, which push what the CPU does not, and the table that points to them.
 *
 * A gate holds its handler's address in three pieces, which no linker can fill in; so the stubs lie where the image
 * starts (guest.ld), and the table is finished when it is assembled.
 */
#include "boot.inc"

#define VECTORS	       64
#define VECTORS_START  0x100000
#define STUB_BYTES     16
#define INTERRUPT_GATE 0x8e00 /* present, of ring 0 */

	.section .text.vectors, "ax"
	.code64
	.balign STUB_BYTES
vector_stubs:
	.set n, 0
	.rept VECTORS
	.balign STUB_BYTES
	/* The exceptions that come with an error code. */
	.if !(n == 8 || (n >= 10 && n <= 14) || n == 17 || n == 21 || n == 29 || n == 30)
	push $0
	.endif
	push $n
	jmp trap_entry
	.set n, n + 1
	.endr

/* The time first, for those who measure how long it took to get here. */
trap_entry:
	push %rax
	push %rdx
	rdtsc
	push %rcx
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %rbp
	shl $32, %rdx
	or %rdx, %rax
	push %rax
	cld
	mov %rsp, %rdi
	sub $8, %rsp
	call trap
	add $16, %rsp
	pop %rbp
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rcx
	pop %rdx
	pop %rax
	add $16, %rsp
	iretq

/*
 * cpu_wait(): an interrupt comes after HLT at the earliest, since STI holds it back for one more instruction. A CPU
 * that is itself emulated may forget that when the guest is left in between (QEMU's VMRUN does not take up the
 * interrupt shadow); then trap() passes over the HLT, or the guest would sleep on what has already happened.
 */
	.globl cpu_wait, cpu_wait_halt
cpu_wait:
	sti
cpu_wait_halt:
	hlt
	cli
	ret

	.section .rodata, "a"
	.balign 16
idt:
	.set n, 0
	.rept VECTORS
	.word (VECTORS_START + n * STUB_BYTES) & 0xffff
	.word SELECTOR_CODE
	.word INTERRUPT_GATE
	.word (VECTORS_START + n * STUB_BYTES) >> 16
	.quad 0
	.set n, n + 1
	.endr
idt_end:
	.globl idt_pointer
idt_pointer:
	.word idt_end - idt - 1
	.quad idt

	.section .note.GNU-stack, "", @progbits

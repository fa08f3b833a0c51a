/*
 * The way of another CPU from real mode, where a start-up interrupt puts it, to smp_entry(). smp.c copies it to a page
 * below 1 MiB, so it names everything in it by its place there.
 */
#include "boot.inc"

#define TRAMPOLINE 0x1000
#define THERE(label) (TRAMPOLINE + label - trampoline)

#define CR0_PE	 0x1
#define CR0_PE_PG 0x80000001
#define CR4_PAE	 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100

	.section .rodata, "a"
	.globl trampoline, trampoline_bytes
	.balign 8
trampoline_bytes:
	.quad trampoline_end - trampoline
	.code16
trampoline:
	cli
	xor %ax, %ax
	mov %ax, %ds
	lgdtl THERE(small_gdt_pointer)
	mov $CR0_PE, %eax
	mov %eax, %cr0
	ljmpl $SELECTOR_CODE32, $THERE(1f)
	.code32
1:	mov $SELECTOR_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $page_tables, %eax
	mov %eax, %cr3
	mov $CR4_PAE, %eax
	mov %eax, %cr4
	mov $MSR_EFER, %ecx
	rdmsr
	or $EFER_LME, %eax
	wrmsr
	mov $CR0_PE_PG, %eax
	mov %eax, %cr0
	ljmp $SELECTOR_CODE, $THERE(2f)
	.code64
2:	lgdt gdt_pointer
	lidt idt_pointer
	mov smp_stack, %rsp
	xor %ebp, %ebp
	mov $smp_entry, %eax
	call *%rax
3:	hlt
	jmp 3b

	.balign 8
small_gdt:
	.quad 0
	.quad 0x00cf9b000000ffff
	.quad 0x00af9b000000ffff
	.quad 0x00cf93000000ffff
small_gdt_end:
small_gdt_pointer:
	.word small_gdt_end - small_gdt - 1
	.long THERE(small_gdt)
trampoline_end:

	.section .note.GNU-stack, "", @progbits

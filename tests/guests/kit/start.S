/*
 * The first instructions, by both boot protocols, to long mode with the kit's own page tables, descriptors and stack.
 *
 * Linux 64-bit (Linux Documentation/arch/x86/boot.rst): long mode, RSI at the zero page. PVH (Xen docs/misc/pvh.pandoc):
 * 32-bit protected mode without paging, EBX at the start info.
 *
 * All tables are data of the image, finished when it is linked: where supervisor code is interpreted, filling them
 * would take longer than anything else that a small guest does. "Accessed" and "dirty" are set, so that the CPU
 * never writes to them. Everything is mapped for ring 3 too: see user.S.
 */
#include "boot.inc"

#define CR0_PE_PG     0x80000001
#define CR4_PAE	      0x20
#define MSR_EFER      0xc0000080
#define EFER_LME      0x100
#define PAGE_BYTES    4096
#define DIRECTORIES   4 /* of 1 GiB: all that the devices and low memory need */
#define MAX_CPUS      32

	.section .text.start, "ax"
	PVH_ENTRY_NOTE pvh_entry

	.code64
	.globl linux_entry
linux_entry:
	mov $page_tables, %eax
	mov %rax, %cr3
	mov %rsi, %rdi
	xor %esi, %esi
	jmp start_c

	.code32
pvh_entry:
	mov $page_tables, %eax
	mov %eax, %cr3
	mov $CR4_PAE, %eax
	mov %eax, %cr4
	mov $MSR_EFER, %ecx
	rdmsr
	or $EFER_LME, %eax
	wrmsr
	mov %cr0, %eax
	or $CR0_PE_PG, %eax
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $SELECTOR_CODE, $1f
	.code64
1:	mov %ebx, %edi
	mov $1, %esi

start_c:
	lgdt gdt_pointer
	lidt idt_pointer
	mov $SELECTOR_DATA, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	mov $cpu_areas + CPU_AREA_BYTES, %esp
	xor %ebp, %ebp
	call kit_start
2:	hlt
	jmp 2b

	.section .data.pages, "aw"
	.balign PAGE_BYTES
	.globl page_tables, page_directory_pointers
page_tables:
	.quad page_directory_pointers + PAGE_TABLE_FLAGS
	.fill 511, 8, 0
page_directory_pointers:
	.set n, 0
	.rept DIRECTORIES
	.quad page_directories + n * PAGE_BYTES + PAGE_TABLE_FLAGS
	.set n, n + 1
	.endr
	.fill 512 - DIRECTORIES, 8, 0
page_directories:
	.set n, 0
	.rept DIRECTORIES * 512
	.quad n * 0x200000 + PAGE_LARGE_FLAGS
	.set n, n + 1
	.endr

	.section .data, "aw"
	.balign 16
	.globl gdt, gdt_pointer
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff /* 0x08: 32-bit code */
	.quad 0x00af9b000000ffff /* 0x10: 64-bit code */
	.quad 0x00cf93000000ffff /* 0x18: data */
	.quad 0x00cffb000000ffff /* 0x20: 32-bit code of ring 3 */
	.quad 0x00cff3000000ffff /* 0x2b: data of ring 3 */
	.quad 0x00affb000000ffff /* 0x33: 64-bit code of ring 3 */
	.quad 0
	.fill 2 * MAX_CPUS, 8, 0 /* 0x40: a task state for each CPU */
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt

	.section .bss.pages, "aw", @nobits
	.balign CPU_AREA_BYTES
	.globl cpu_areas
cpu_areas:
	.skip MAX_CPUS * CPU_AREA_BYTES

	.section .note.GNU-stack, "", @progbits

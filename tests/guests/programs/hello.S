/*
 * hello: says so on the serial port and resets the machine, in as few instructions as that takes. What a monitor needs
 * for the shortest guest is what is left when this runs.
 *
 * A command line that begins with "boot_timer" has it first write 123 to the byte at 0xc0000000, which is where
 * --boot-timer listens.
 *
 * By the Linux 64-bit protocol (RSI at the zero page) or PVH (EBX at the start info): see kit/start.S.
 */
#include "boot.inc"

#define SERIAL_DATA	  0x3f8
#define I8042_COMMAND	  0x64
#define I8042_PULSE_RESET 0xfe
#define PATIENCE	  1000000

#define BOOT_TIMER	  0xc0000000
#define BOOT_TIMER_VALUE  123
#define ZERO_PAGE_CMDLINE 0x228
#define PVH_CMDLINE	  24

#define BOOT 0x746f6f62 /* the first and second four characters of "boot_timer" */
#define _TIM 0x6d69745f

#define PAGE_BYTES 4096

.macro SAY_HELLO_AND_RESET
	mov $SERIAL_DATA, %edx
	.irp character, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x0a /* hello, and the line's end */
	mov $\character, %al
	out %al, %dx
	.endr
	mov $I8042_PULSE_RESET, %al
	out %al, $I8042_COMMAND
	/* A monitor may be late, or have no i8042: then a triple fault. */
	mov $PATIENCE, %ecx
1:	pause
	loop 1b
	lidt zeros
	ud2
.endm

	.section .text.start, "ax"
	PVH_ENTRY_NOTE pvh_entry

	.code64
	.globl linux_entry
linux_entry:
	mov ZERO_PAGE_CMDLINE(%rsi), %eax
	cmpl $BOOT, (%rax)
	jne hello64
	cmpl $_TIM, 4(%rax)
	jne hello64
	/* Boot loaders map what is around the kernel; the timer is at 3 GiB. */
	mov $page_tables, %eax
	mov %rax, %cr3
	mov $BOOT_TIMER, %eax
	movb $BOOT_TIMER_VALUE, (%rax)
hello64:
	SAY_HELLO_AND_RESET

	.code32
pvh_entry:
	mov PVH_CMDLINE(%ebx), %eax
	cmpl $BOOT, (%eax)
	jne hello32
	cmpl $_TIM, 4(%eax)
	jne hello32
	movb $BOOT_TIMER_VALUE, BOOT_TIMER
hello32:
	SAY_HELLO_AND_RESET

	.section .rodata, "a"
zeros:
	.fill 10, 1, 0

	.section .data.pages, "aw"
	.balign PAGE_BYTES
page_tables:
	.quad directory_pointers + PAGE_TABLE_FLAGS
	.fill 511, 8, 0
directory_pointers:
	.quad low_directory + PAGE_TABLE_FLAGS
	.quad 0, 0
	.quad timer_directory + PAGE_TABLE_FLAGS
	.fill 508, 8, 0
low_directory:
	.quad 0 + PAGE_LARGE_FLAGS
	.fill 511, 8, 0
timer_directory:
	.quad BOOT_TIMER + PAGE_LARGE_FLAGS
	.fill 511, 8, 0

	.section .note.GNU-stack, "", @progbits

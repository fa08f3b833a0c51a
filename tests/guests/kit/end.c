/* The guest's end: see end.h. */
#include <stdarg.h>

#include "console.h"
#include "cpu.h"
#include "end.h"

#define I8042_COMMAND	  0x64
#define I8042_PULSE_RESET 0xfe

void guest_end(void)
{
	out8(I8042_COMMAND, I8042_PULSE_RESET);
	cpu_halt();
}

void guest_fail(const char *format, ...)
{
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) no_table = { 0 };
	va_list arguments;

	print("\nguest failed: ");
	va_start(arguments, format);
	print_list(format, arguments);
	va_end(arguments);
	print("\n");
	__asm__ volatile("lidt %0; ud2" : : "m"(no_table));
	__builtin_unreachable();
}

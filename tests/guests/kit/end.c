/* The guest's end: see end.h. */
#include <stdarg.h>

#include "console.h"
#include "cpu.h"
#include "end.h"

#define I8042_COMMAND	  0x64
#define I8042_PULSE_RESET 0xfe
#define PATIENCE	  1000000

__attribute__((noreturn)) static void triple_fault(void)
{
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) no_table = { 0 };

	__asm__ volatile("lidt %0; ud2" : : "m"(no_table));
	__builtin_unreachable();
}

void guest_end(void)
{
	out8(I8042_COMMAND, I8042_PULSE_RESET);
	/* A monitor may be late, or have no i8042. */
	for (unsigned int i = 0; i < PATIENCE; i++)
		cpu_relax();
	triple_fault();
}

void guest_fail(const char *format, ...)
{
	va_list arguments;

	print("\nguest failed: ");
	va_start(arguments, format);
	print_list(format, arguments);
	va_end(arguments);
	print("\n");
	triple_fault();
}

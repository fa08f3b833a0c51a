/*
 * The serial port, a 16550A at 0x3f8 (National Semiconductor PC16550D): text out, bytes in.
 *
 * What machines read of a guest are lines on it: "result: NAME KEY=VALUE ...", one for each thing
 * measured, values without spaces; "guest: ready" where a guest begins to wait; "guest failed:
 * REASON" where it ends in failure (end.h).
 */
#ifndef KIT_CONSOLE_H
#define KIT_CONSOLE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* %s %c %d %u %x, with l, ll or z, `#`, zero padding and a width; %%. */
__attribute__((format(printf, 1, 2))) void print(const char *format, ...);
void print_list(const char *format, va_list arguments);

/* The next byte of input, or -1 when there is none. */
int console_read(void);

/* From now on, input wakes a CPU that waits, and console_next() may be used. */
void console_enable_input(void);

/* Waits for the next byte of input, asleep. */
uint8_t console_next(void);

/* A line of input, without its end and cut at `bytes` - 1; asleep until it is there. */
void console_read_line(char *line, size_t bytes);

#endif

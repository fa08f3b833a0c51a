/*
 * Errors are values: a function that can fail returns 0 or a negative errno and fills a struct
 * error whose message reads outermost-first ("drive rootfs: cannot open /x: No such file or
 * directory (os error 2)").
 *
 * All functions may be called from any thread; a struct error belongs to its caller. `err` may be
 * NULL where the caller needs the number only.
 */
#ifndef MAYFLY_ERROR_H
#define MAYFLY_ERROR_H

#include "mayfly/util.h"

#define ERROR_MESSAGE_BYTES 768

struct error {
	int code; /* positive errno; 0 while nothing failed */
	char message[ERROR_MESSAGE_BYTES];
};

/* Sets the message and the code (a positive errno). Returns -code. A message too long is cut. */
int error_set(struct error *err, int code, const char *format, ...) PRINTF_FORMAT(3, 4);

/* As error_set() with the present errno, and appends ": <strerror> (os error N)". Returns -errno.
 */
int error_errno(struct error *err, const char *format, ...) PRINTF_FORMAT(2, 3);

/* Puts "<text>: " in front of the message that is there. Returns -err->code. */
int error_prefix(struct error *err, const char *format, ...) PRINTF_FORMAT(2, 3);

/*
 * Prints "PROGRAM: MESSAGE" to standard error, as one line: a terminal would obey control
 * characters in the names and values that a message quotes, and they become question marks.
 */
void error_print(const char *program, const struct error *err);

#endif

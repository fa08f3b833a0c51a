/* Errors as values: see include/mayfly/error.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mayfly/error.h"

static void write_message(struct error *err, int code, const char *format, va_list arguments)
{
	if (!err)
		return;
	err->code = code;
	vsnprintf(err->message, sizeof(err->message), format, arguments);
}

static void append_errno(struct error *err, int code)
{
	char text[128];
	size_t used;

	if (!err)
		return;
	used = strlen(err->message);
	snprintf(err->message + used, sizeof(err->message) - used, ": %s (os error %d)",
		 strerror_r(code, text, sizeof(text)), code);
}

int error_set(struct error *err, int code, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	write_message(err, code, format, arguments);
	va_end(arguments);
	return -code;
}

int error_errno(struct error *err, const char *format, ...)
{
	int code = errno;
	va_list arguments;

	va_start(arguments, format);
	write_message(err, code, format, arguments);
	va_end(arguments);
	append_errno(err, code);
	return -code;
}

int error_prefix(struct error *err, const char *format, ...)
{
	char inner[ERROR_MESSAGE_BYTES];
	va_list arguments;
	size_t used;

	if (!err)
		return -EINVAL;
	memcpy(inner, err->message, sizeof(inner));
	va_start(arguments, format);
	vsnprintf(err->message, sizeof(err->message), format, arguments);
	va_end(arguments);
	used = strlen(err->message);
	snprintf(err->message + used, sizeof(err->message) - used, ": %s", inner);
	return -err->code;
}

void error_print(const char *program, const struct error *err)
{
	char line[ERROR_MESSAGE_BYTES];
	unsigned char previous = 0;

	memcpy(line, err->message, sizeof(line));
	for (char *at = line; *at; at++) {
		unsigned char byte = (unsigned char)*at;
		/* U+0080 to U+009F. */
		bool is_c1 = previous == 0xc2 && byte >= 0x80 && byte < 0xa0;

		if (byte < ' ' || byte == 0x7f || is_c1)
			*at = '?';
		if (is_c1)
			at[-1] = '?';
		previous = byte;
	}
	fprintf(stderr, "%s: %s\n", program, line);
}

/*
 * The kernel command line: what the user wrote, where the root file system is, and where the
 * devices are (Linux Documentation/admin-guide/kernel-parameters.rst: root=, virtio_mmio.device=;
 * and its rule that everything behind "--" belongs to init).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "parts.h"

#define DEVICE_PARAMETER "virtio_mmio.device="

/* One parameter of the user's text: [start, end), without the quotes that may surround it. */
struct parameter {
	const char *start;
	const char *end;
};

/* The next parameter at or behind `text`, as the kernel splits them: at spaces outside of double
 * quotes. */
static bool next_parameter(const char *text, struct parameter *parameter)
{
	bool quoted = false;

	text += strspn(text, " ");
	if (*text == '\0')
		return false;
	parameter->start = text;
	for (; *text != '\0' && (quoted || *text != ' '); text++) {
		if (*text == '"')
			quoted = !quoted;
	}
	parameter->end = text;
	return true;
}

static struct parameter unquoted(struct parameter parameter)
{
	if (parameter.end - parameter.start >= 2 && *parameter.start == '"') {
		parameter.start++;
		if (parameter.end[-1] == '"')
			parameter.end--;
	}
	return parameter;
}

/* Where the kernel's own parameters end: at the first "--", or at the end of the text. */
static const char *kernel_part_end(const char *text)
{
	struct parameter parameter;

	while (next_parameter(text, &parameter)) {
		struct parameter bare = unquoted(parameter);

		if (bare.end - bare.start == 2 && memcmp(bare.start, "--", 2) == 0)
			return parameter.start;
		text = parameter.end;
	}
	return text + strlen(text);
}

/* "virtio_mmio.device=<size>@<base>:<irq>[:<id>]"; the kernel takes '-' for '_' in names. */
static bool names_device_at(struct parameter parameter, uint64_t *base)
{
	static const char name[] = DEVICE_PARAMETER;
	const char *at;
	char *number_end;

	parameter = unquoted(parameter);
	for (size_t i = 0; i < sizeof(name) - 1; i++, parameter.start++) {
		if (parameter.start == parameter.end)
			return false;
		if (*parameter.start != name[i] && !(name[i] == '_' && *parameter.start == '-'))
			return false;
	}
	if (*parameter.start == '"') /* the value alone may be quoted, too */
		parameter.start++;
	at = memchr(parameter.start, '@', (size_t)(parameter.end - parameter.start));
	if (!at)
		return false;
	errno = 0;
	*base = strtoull(at + 1, &number_end, 0);
	return errno == 0 && number_end != at + 1 && number_end <= parameter.end;
}

/* Whichever of the device's two windows the user names, naming the other as well would be once too
 * often. */
static bool user_names_device(const char *text, const char *end,
			      const struct boot_virtio_device *device)
{
	struct parameter parameter;
	uint64_t base;

	while (text < end && next_parameter(text, &parameter) && parameter.start < end) {
		if (names_device_at(parameter, &base) &&
		    (base == device->base || base == device->cmdline_base))
			return true;
		text = parameter.end;
	}
	return false;
}

struct writer {
	char *out;
	size_t used;  /* as if `out` were large enough */
	size_t limit; /* bytes of `out`, the NUL included */
};

/* Appends a parameter and the space in front of it. */
static void append(struct writer *writer, const char *text, size_t length)
{
	if (length == 0)
		return;
	if (writer->used > 0) {
		if (writer->used < writer->limit)
			writer->out[writer->used] = ' ';
		writer->used++;
	}
	if (range_within(writer->used, length, writer->limit))
		memcpy(writer->out + writer->used, text, length);
	writer->used += length;
}

static size_t trimmed_length(const char *start, const char *end)
{
	while (end > start && end[-1] == ' ')
		end--;
	return (size_t)(end - start);
}

static int check_characters(const char *text, const char *what, struct error *err)
{
	for (const char *c = text; *c != '\0'; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			return error_set(err, EINVAL,
					 "%s holds a control character (byte 0x%02x at offset %td)",
					 what, (unsigned char)*c, c - text);
	}
	return 0;
}

int boot_cmdline_build(const struct boot_request *request, const struct boot_platform *platform,
		       char *out, size_t out_bytes, struct error *err)
{
	const char *user = request->cmdline ? request->cmdline : "";
	const char *root = request->root_parameter ? request->root_parameter : "";
	const char *init_part = kernel_part_end(user);
	struct writer writer = { .out = out, .limit = out_bytes };
	int result;

	result = check_characters(user, "the kernel command line", err);
	if (result == 0)
		result = check_characters(root, "the kernel command line's root parameter", err);
	if (result < 0)
		return result;

	user += strspn(user, " ");
	root += strspn(root, " ");
	append(&writer, user, trimmed_length(user, init_part));
	append(&writer, root, strlen(root));
	for (unsigned int i = 0; i < platform->virtio_count; i++) {
		const struct boot_virtio_device *device = &platform->virtio[i];
		char text[sizeof(DEVICE_PARAMETER) + 64];
		int length;

		if (user_names_device(user, init_part, device))
			continue;
		length = snprintf(
			text, sizeof(text), DEVICE_PARAMETER "%lluK@0x%" PRIx64 ":%" PRIu32,
			LAYOUT_VIRTIO_MMIO_BYTES / KIB, device->cmdline_base, device->irq);
		append(&writer, text, (size_t)length);
	}
	append(&writer, init_part, strlen(init_part));
	if (writer.used >= writer.limit)
		return error_set(
			err, EINVAL,
			"the kernel command line is too long: %zu bytes with the parameters for root and devices, where this kernel takes %zu",
			writer.used, out_bytes > 0 ? out_bytes - 1 : 0);
	out[writer.used] = '\0';
	return 0;
}

/* Writes ACPI Machine Language: see aml.h. */
#include <string.h>

#include "aml.h"

enum aml_opcode {
	AML_ZERO = 0x00,
	AML_ONE = 0x01,
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_DWORD = 0x0c,
	AML_STRING = 0x0d,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_METHOD = 0x14,
	AML_EXTENDED = 0x5b,
	AML_EXTENDED_DEVICE = 0x82,
	AML_NOTIFY = 0x86,
};

#define NAME_BYTES	  4
#define METHOD_SERIALIZED 0x08 /* 20.2.5.2, MethodFlags; bits 0-2 count the arguments */

void aml_bytes(struct aml *aml, const void *bytes, size_t length)
{
	if (aml->overflow || length > aml->capacity - aml->used) {
		aml->overflow = true;
		return;
	}
	memcpy(aml->bytes + aml->used, bytes, length);
	aml->used += length;
}

void aml_byte(struct aml *aml, uint8_t byte)
{
	aml_bytes(aml, &byte, 1);
}

static void put_little_endian(struct aml *aml, uint32_t value, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		aml_byte(aml, (uint8_t)(value >> (8 * i)));
}

static void put_integer(struct aml *aml, uint8_t value)
{
	if (value > 1)
		aml_byte(aml, AML_BYTE);
	aml_byte(aml, value); /* 0 and 1 are opcodes of their own: AML_ZERO, AML_ONE */
}

static void put_name(struct aml *aml, const char *name)
{
	aml_byte(aml, AML_NAME);
	aml_bytes(aml, name, NAME_BYTES);
}

void aml_name_integer(struct aml *aml, const char *name, uint8_t value)
{
	put_name(aml, name);
	put_integer(aml, value);
}

void aml_name_string(struct aml *aml, const char *name, const char *value)
{
	put_name(aml, name);
	aml_byte(aml, AML_STRING);
	aml_bytes(aml, value, strlen(value) + 1);
}

static uint32_t hexadecimal(char digit)
{
	return (uint32_t)(digit <= '9' ? digit - '0' : digit - 'A' + 10);
}

/* Three letters of five bits each and four digits, most significant first (ACPI 6.5, 19.6.37
 * EISAID). */
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id)
{
	uint32_t packed = 0;

	for (unsigned int i = 0; i < 3; i++)
		packed = packed << 5 | (uint32_t)(id[i] - '@');
	for (unsigned int i = 3; i < 7; i++)
		packed = packed << 4 | hexadecimal(id[i]);
	put_name(aml, name);
	aml_byte(aml, AML_DWORD);
	for (unsigned int i = 0; i < 4; i++)
		aml_byte(aml, (uint8_t)(packed >> (24 - 8 * i)));
}

void aml_notify(struct aml *aml, const char *device, uint8_t value)
{
	aml_byte(aml, AML_NOTIFY);
	aml_bytes(aml, device, NAME_BYTES);
	put_integer(aml, value);
}

size_t aml_open_scope(struct aml *aml, const char *path)
{
	size_t content;

	aml_byte(aml, AML_SCOPE);
	content = aml->used;
	aml_bytes(aml, path, strlen(path));
	return content;
}

size_t aml_open_device(struct aml *aml, const char *name)
{
	size_t content;

	aml_byte(aml, AML_EXTENDED);
	aml_byte(aml, AML_EXTENDED_DEVICE);
	content = aml->used;
	aml_bytes(aml, name, NAME_BYTES);
	return content;
}

size_t aml_open_method(struct aml *aml, const char *name, uint8_t arguments)
{
	size_t content;

	aml_byte(aml, AML_METHOD);
	content = aml->used;
	aml_bytes(aml, name, NAME_BYTES);
	aml_byte(aml, METHOD_SERIALIZED | arguments);
	return content;
}

/* PkgLength (20.2.4) counts itself: one byte up to 63, then four bits in the first and eight in
 * each that follows. */
static unsigned int encode_package_length(size_t content_bytes, uint8_t out[4])
{
	size_t length = content_bytes + 1;
	unsigned int following = 1;

	if (length <= 0x3f) {
		out[0] = (uint8_t)length;
		return 1;
	}
	while (following < 3 && content_bytes + 1 + following >= (size_t)1 << (4 + 8 * following))
		following++;
	length = content_bytes + 1 + following;
	out[0] = (uint8_t)(following << 6 | (length & 0xf));
	for (unsigned int i = 1; i <= following; i++)
		out[i] = (uint8_t)(length >> (4 + 8 * (i - 1)));
	return following + 1;
}

static void insert(struct aml *aml, size_t at, const void *bytes, size_t length)
{
	size_t moved = aml->used - at;

	aml_bytes(aml, bytes, length); /* makes room, or finds that there is none */
	if (aml->overflow)
		return;
	memmove(aml->bytes + at + length, aml->bytes + at, moved);
	memcpy(aml->bytes + at, bytes, length);
}

void aml_close(struct aml *aml, size_t content)
{
	uint8_t length[4];
	unsigned int bytes = encode_package_length(aml->used - content, length);

	insert(aml, content, length, bytes);
}

void aml_name_address(struct aml *aml, const char *name, uint64_t address)
{
	size_t package;

	put_name(aml, name);
	aml_byte(aml, AML_PACKAGE);
	package = aml->used;
	aml_byte(aml, 2); /* elements */
	for (unsigned int i = 0; i < 2; i++) {
		aml_byte(aml, AML_DWORD);
		put_little_endian(aml, (uint32_t)(address >> (32 * i)), 4);
	}
	aml_close(aml, package);
}

size_t aml_open_resources(struct aml *aml)
{
	put_name(aml, "_CRS");
	aml_byte(aml, AML_BUFFER);
	return aml->used;
}

#define RESOURCE_END_TAG   0x79
#define RESOURCE_IO	   0x47 /* small, type 8, 7 bytes */
#define RESOURCE_MEMORY_32 0x86 /* large, type 6: Memory32Fixed */
#define RESOURCE_INTERRUPT 0x89 /* large, type 9: Interrupt */
#define IO_DECODES_16_BITS 0x01
#define MEMORY_READ_WRITE  0x01
#define INTERRUPT_CONSUMER 0x01 /* bit 0: the device uses it */
#define INTERRUPT_EDGE	   0x02 /* bit 1; the zeros of bits 2 to 4: active high, exclusive */

void aml_close_resources(struct aml *aml, size_t content)
{
	uint8_t size[3] = { AML_BYTE };
	size_t bytes;

	aml_byte(aml, RESOURCE_END_TAG);
	aml_byte(aml, 0); /* no checksum */
	bytes = aml->used - content;
	if (bytes > UINT8_MAX) {
		aml->overflow = true;
		return;
	}
	size[1] = (uint8_t)bytes;
	insert(aml, content, size, 2);
	aml_close(aml, content);
}

void aml_resource_io(struct aml *aml, uint16_t port, uint8_t count)
{
	aml_byte(aml, RESOURCE_IO);
	aml_byte(aml, IO_DECODES_16_BITS);
	put_little_endian(aml, port, 2); /* lowest base */
	put_little_endian(aml, port, 2); /* highest base */
	aml_byte(aml, 1);		 /* alignment */
	aml_byte(aml, count);
}

void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t length)
{
	aml_byte(aml, RESOURCE_MEMORY_32);
	put_little_endian(aml, 9, 2);
	aml_byte(aml, MEMORY_READ_WRITE);
	put_little_endian(aml, base, 4);
	put_little_endian(aml, length, 4);
}

void aml_resource_interrupt(struct aml *aml, uint32_t gsi)
{
	aml_byte(aml, RESOURCE_INTERRUPT);
	put_little_endian(aml, 6, 2);
	aml_byte(aml, INTERRUPT_CONSUMER | INTERRUPT_EDGE);
	aml_byte(aml, 1); /* one interrupt */
	put_little_endian(aml, gsi, 4);
}

/*
 * Writes ACPI Machine Language (ACPI 6.5, 20.2) into a buffer. A term with a package length is
 * opened, filled and closed; closing puts its length in front of its content. What does not fit
 * sets `overflow` and writes nothing.
 */
#ifndef BOOT_AML_H
#define BOOT_AML_H

#include "mayfly/util.h"

struct aml {
	uint8_t *bytes;
	size_t used;
	size_t capacity;
	bool overflow;
};

void aml_bytes(struct aml *aml, const void *bytes, size_t length);
void aml_byte(struct aml *aml, uint8_t byte);

/* Name (<name>, <integer, string or EISA id>); `name` has four characters. */
void aml_name_integer(struct aml *aml, const char *name, uint8_t value);
void aml_name_string(struct aml *aml, const char *name, const char *value);
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id); /* "PNP0501" */

/* Name (<name>, Package () { <bits 0-31>, <bits 32-63> }) */
void aml_name_address(struct aml *aml, const char *name, uint64_t address);

/* Notify (<device>, <value>); `device` has four characters and is looked up from where this stands.
 */
void aml_notify(struct aml *aml, const char *device, uint8_t value);

/* Each returns where the content begins, which aml_close() must get. */
size_t aml_open_scope(struct aml *aml, const char *path); /* "\\_SB_" */
size_t aml_open_device(struct aml *aml, const char *name);
size_t aml_open_method(struct aml *aml, const char *name, uint8_t arguments); /* serialized */
void aml_close(struct aml *aml, size_t content);

/* Name (_CRS, ResourceTemplate () { <resources> }): the descriptors between open and close
 * (ACPI 6.5, 6.4). */
size_t aml_open_resources(struct aml *aml);
void aml_close_resources(struct aml *aml, size_t content);
void aml_resource_io(struct aml *aml, uint16_t port, uint8_t count);
void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t length);
void aml_resource_interrupt(struct aml *aml, uint32_t gsi); /* edge, active high, exclusive */

#endif

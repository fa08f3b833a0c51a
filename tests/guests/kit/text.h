/* Memory and text: what a compiler calls by itself, and what reading a command line takes. */
#ifndef KIT_TEXT_H
#define KIT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int byte, size_t bytes);
int memcmp(const void *one, const void *other, size_t bytes);
size_t text_length(const char *text);
bool text_equal(const char *one, const char *other);

/*
 * A number at the beginning of `text`: decimal, or hexadecimal with 0x. Returns what follows it, or
 * NULL when there is none or it is too large.
 */
const char *text_number(const char *text, uint64_t *number);

#endif

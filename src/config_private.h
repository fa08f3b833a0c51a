/* What the files of the configuration module share: see include/mayfly/config.h. */
#ifndef MAYFLY_CONFIG_PRIVATE_H
#define MAYFLY_CONFIG_PRIVATE_H

#include "mayfly/config.h"

/*
 * Text from a client inside a message: at most this many bytes of it, then an ellipsis. A long name
 * must not push the end of the sentence out of the message.
 */
#define CONFIG_CLIP_BYTES 96

struct config_clip {
	char text[CONFIG_CLIP_BYTES + 4];
};

/* Copies `text`, cut between two UTF-8 characters. Returns clip->text. */
const char *config_clip(struct config_clip *clip, const char *text);

/* "invalid type: string "x", expected <expected>" for a JSON value. -EINVAL. `field` may be NULL.
 */
int config_type_error(const json_t *json, const char *expected, const char *field,
		      struct error *err);

/* Holds every CONFIG_UINT and CONFIG_ENUM of a struct against its table. -ERANGE. */
int config_check_ranges(const struct config_object *object, const void *value, struct error *err);

/* Whether a UINT is within its field's range; the message otherwise. -ERANGE. */
int config_check_uint(const struct config_field *field, uint64_t value, struct error *err);

/* Texts that clients of this API match. */
#define CONFIG_VCPU_COUNT_MESSAGE                                                                  \
	"The vCPU number is invalid! The vCPU number can only be 1 or an even number when SMT is " \
	"enabled."
#define CONFIG_MEMORY_SIZE_MESSAGE \
	"The memory size (MiB) is either 0, or not a multiple of the configured page size."

/* 46 bits of guest physical address are what KVM hosts have. */

/* No object has more fields. */
#define CONFIG_MAX_FIELDS 16

#endif

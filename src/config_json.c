/*
 * JSON text to a JSON value (RFC 8259), and the words for what is wrong with it.
 *
 * jansson does the parsing: strict UTF-8, no duplicate keys, no NUL in strings, numbers that fit,
 * nesting bounded by its JSON_PARSER_MAX_DEPTH (2048). The messages are worded as clients of this
 * API know them from serde_json.
 */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "config_private.h"

const char *config_clip(struct config_clip *clip, const char *text)
{
	size_t length = strlen(text);

	if (length <= CONFIG_CLIP_BYTES) {
		memcpy(clip->text, text, length + 1);
		return clip->text;
	}
	length = CONFIG_CLIP_BYTES;
	while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80)
		length--;
	memcpy(clip->text, text, length);
	memcpy(clip->text + length, "...", 4);
	return clip->text;
}

/*
 * The part of jansson's message between `near '` and the last quote: the token at which it stopped,
 * or "" when the message has none.
 */
static void copy_near(const char *message, char *token, size_t token_bytes)
{
	const char *start = strstr(message, " near '");
	const char *end = strrchr(message, '\'');
	size_t length = 0;

	if (start && end) {
		start += strlen(" near '");
		if (end > start)
			length = (size_t)(end - start);
	}
	if (length >= token_bytes)
		length = token_bytes - 1;
	if (length > 0)
		memcpy(token, start, length);
	token[length] = '\0';
}

static void set_syntax_error(const json_error_t *error, struct error *err)
{
	char token[JSON_ERROR_TEXT_LENGTH];
	char what[JSON_ERROR_TEXT_LENGTH + 32];
	struct config_clip clip;

	copy_near(error->text, token, sizeof(token));
	switch (json_error_code(error)) {
	case json_error_duplicate_key:
		/* The token is the key as written: in quotes. */
		if (strlen(token) >= 2) {
			memmove(token, token + 1, strlen(token));
			token[strlen(token) - 1] = '\0';
		}
		snprintf(what, sizeof(what), "duplicate field `%s`", config_clip(&clip, token));
		break;
	case json_error_premature_end_of_input:
		snprintf(what, sizeof(what), "EOF while parsing a value");
		break;
	case json_error_end_of_input_expected:
		snprintf(what, sizeof(what), "trailing characters");
		break;
	case json_error_stack_overflow:
		snprintf(what, sizeof(what), "recursion limit exceeded");
		break;
	case json_error_numeric_overflow:
		snprintf(what, sizeof(what), "number out of range");
		break;
	case json_error_null_character:
	case json_error_null_byte_in_key:
		snprintf(what, sizeof(what), "a string holds the character \\u0000");
		break;
	case json_error_invalid_utf8:
		snprintf(what, sizeof(what), "invalid UTF-8: %s", error->text);
		break;
	default:
		snprintf(what, sizeof(what), "%s", error->text);
		break;
	}
	error_set(err, EINVAL, "%s at line %d column %d", what, error->line, error->column);
}

void config_seed_json(void)
{
	uint32_t seed;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) == (ssize_t)sizeof(seed) && seed != 0)
		json_object_seed(seed);
}

json_t *config_parse_json(const char *text, size_t length_bytes, struct error *err)
{
	json_error_t error;
	json_t *json;

	json = json_loadb(text, length_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	if (!json)
		set_syntax_error(&error, err);
	return json;
}

int config_type_error(const json_t *json, const char *expected, const char *field,
		      struct error *err)
{
	char what[CONFIG_CLIP_BYTES + 32];
	struct config_clip clip;

	switch (json_typeof(json)) {
	case JSON_STRING:
		snprintf(what, sizeof(what), "string \"%s\"",
			 config_clip(&clip, json_string_value(json)));
		break;
	case JSON_INTEGER:
		snprintf(what, sizeof(what), "integer `%lld`", (long long)json_integer_value(json));
		break;
	case JSON_REAL:
		snprintf(what, sizeof(what), "floating point `%.17g`", json_real_value(json));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		snprintf(what, sizeof(what), "boolean `%s`", json_is_true(json) ? "true" : "false");
		break;
	case JSON_NULL:
		snprintf(what, sizeof(what), "null");
		break;
	case JSON_ARRAY:
		snprintf(what, sizeof(what), "sequence");
		break;
	case JSON_OBJECT:
		snprintf(what, sizeof(what), "map");
		break;
	}
	if (field)
		return error_set(err, EINVAL, "invalid type: %s, expected %s for `%s`", what,
				 expected, field);
	return error_set(err, EINVAL, "invalid type: %s, expected %s", what, expected);
}

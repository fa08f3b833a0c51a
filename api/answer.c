/*
 * Answers: JSON values and error texts to the body of a struct http_response. jansson does the
 * escaping.
 */
#include <string.h>

#include "answer.h"
#include "mayfly/error.h"

static void set_body(struct http_response *response, unsigned int status, const json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	response->status = text ? status : 500;
	response->body = text;
	response->body_bytes = text ? strlen(text) : 0;
}

void answer_json(struct http_response *response, json_t *json)
{
	set_body(response, 200, json);
	json_decref(json);
}

/* Takes an incomplete UTF-8 sequence off the end of `text`. */
static void trim_cut_character(char *text)
{
	size_t length = strlen(text), start = length;

	while (start > 0 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
		start--;
	if (start > 0 && (unsigned char)text[start - 1] >= 0xc0)
		text[start - 1] = '\0';
}

static void replace_non_ascii(char *text)
{
	for (; *text; text++) {
		if ((unsigned char)*text >= 0x80)
			*text = '?';
	}
}

static json_t *json_text(const char *text)
{
	char copy[ERROR_MESSAGE_BYTES];
	json_t *json = json_string(text);

	if (json)
		return json;
	strncpy(copy, text, sizeof(copy) - 1);
	copy[sizeof(copy) - 1] = '\0';
	trim_cut_character(copy);
	json = json_string(copy);
	if (json)
		return json;
	replace_non_ascii(copy);
	return json_string(copy);
}

void answer_error(struct http_response *response, unsigned int status, const char *key,
		  const char *text)
{
	json_t *json = json_object();

	if (json_object_set_new(json, key, json_text(text)) < 0) {
		json_decref(json);
		json = NULL;
	}
	set_body(response, status, json);
	json_decref(json);
}

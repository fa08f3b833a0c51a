/* Fills answers: see include/mayfly/http.h for the struct. */
#ifndef MAYFLY_API_ANSWER_H
#define MAYFLY_API_ANSWER_H

#include <jansson.h>
#include "mayfly/http.h"

/* Status 200 with `json` (taken over); 500 without a body when memory is out or `json` is NULL. */
void answer_json(struct http_response *response, json_t *json);

/*
 * `status` with {"<key>": "<text>"}. Any bytes may stand in `text`: what is not UTF-8 (a message
 * cut within a character, a file's name) is made so.
 */
void answer_error(struct http_response *response, unsigned int status, const char *key,
		  const char *text);

#endif

/*
 * The machinery behind the tables: a JSON object to a config struct and back, copies, and their
 * end.
 */
#include <stdio.h>
#include <string.h>

#include "config_private.h"

/* The analyzer cannot follow strings into members that are found by a table's offsets. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"
#endif

static void *member_of(void *value, const struct config_field *field)
{
	return (char *)value + field->offset;
}

static const void *const_member_of(const void *value, const struct config_field *field)
{
	return (const char *)value + field->offset;
}

/* CONFIG_OBJECT: whether it is there. */
static bool *present_flag(void *value, const struct config_field *field)
{
	return (bool *)((char *)value + field->present_offset);
}

/* CONFIG_LIST: how many there are, and one of them. */
static unsigned int *list_count(void *value, const struct config_field *field)
{
	return (unsigned int *)(void *)((char *)value + field->present_offset);
}

static void *list_entry(void *value, const struct config_field *field, unsigned int index)
{
	return (char *)member_of(value, field) + index * field->object->size_bytes;
}

/* Has a table of its own. */
static bool has_object(const struct config_field *field)
{
	return field->type == CONFIG_OBJECT || field->type == CONFIG_LIST;
}

static const struct config_field *find_field(const struct config_object *object, const char *name)
{
	for (size_t i = 0; i < object->field_count; i++) {
		if (strcmp(object->fields[i].name, name) == 0)
			return &object->fields[i];
	}
	return NULL;
}

static size_t count_names(const char *const *names)
{
	size_t count = 0;

	while (names[count])
		count++;
	return count;
}

/* "`a`", "`a` or `b`", "one of `a`, `b`, `c`": as serde words what was expected. */
static void write_choices(const char *const *names, size_t count, char *text, size_t text_bytes)
{
	size_t used = 0;

	if (count == 2) {
		snprintf(text, text_bytes, "`%s` or `%s`", names[0], names[1]);
		return;
	}
	text[0] = '\0';
	for (size_t i = 0; i < count && used < text_bytes; i++) {
		const char *before = i > 0 ? ", " : count > 1 ? "one of " : "";

		used += (size_t)snprintf(text + used, text_bytes - used, "%s`%s`", before,
					 names[i]);
	}
}

static int refuse_unknown_field(const struct config_object *object, const char *name,
				struct error *err)
{
	const char *names[CONFIG_MAX_FIELDS];
	struct config_clip clip;
	char choices[512];
	size_t count = 0;

	for (size_t i = 0; i < object->field_count && count < ARRAY_SIZE(names); i++) {
		const struct config_field *field = &object->fields[i];

		/* The first of two fields of one name stands for both. */
		if (field->type != CONFIG_REFUSED && find_field(object, field->name) == field)
			names[count++] = field->name;
	}
	write_choices(names, count, choices, sizeof(choices));
	return error_set(err, EINVAL, "unknown field `%s`, expected %s", config_clip(&clip, name),
			 choices);
}

int config_check_uint(const struct config_field *field, uint64_t value, struct error *err)
{
	if (value >= field->min && value <= field->max)
		return 0;
	if (value == 0 && field->zero_message)
		return error_set(err, ERANGE, "%s", field->zero_message);
	return error_set(err, ERANGE,
			 "%s%sThe value of `%s` is %llu: it must be from %llu to %llu.",
			 field->range_message ? field->range_message : "",
			 field->range_message ? " " : "", field->name, (unsigned long long)value,
			 (unsigned long long)field->min, (unsigned long long)field->max);
}

static int parse_uint(const struct config_field *field, const json_t *json, uint64_t *out,
		      struct error *err)
{
	json_int_t number;

	if (!json_is_integer(json))
		return config_type_error(json, "u64", field->name, err);
	number = json_integer_value(json);
	if (number < 0)
		return error_set(err, EINVAL,
				 "invalid value: integer `%lld`, expected u64 for `%s`",
				 (long long)number, field->name);
	*out = (uint64_t)number;
	return config_check_uint(field, *out, err);
}

static int parse_enum(const struct config_field *field, const json_t *json, int *out,
		      struct error *err)
{
	struct config_clip clip;
	char choices[256];
	const char *text;

	if (!json_is_string(json))
		return config_type_error(json, "a string", field->name, err);
	text = json_string_value(json);
	for (int i = 0; field->names[i]; i++) {
		if (strcmp(field->names[i], text) == 0) {
			*out = i;
			return 0;
		}
	}
	write_choices(field->names, count_names(field->names), choices, sizeof(choices));
	return error_set(err, EINVAL, "unknown variant `%s`, expected %s for `%s`",
			 config_clip(&clip, text), choices, field->name);
}

static int parse_string(const struct config_field *field, const json_t *json, char **out,
			struct error *err)
{
	char *copy;

	if (!json_is_string(json))
		return config_type_error(json, "a string", field->name, err);
	copy = strdup(json_string_value(json));
	if (!copy)
		return error_set(err, ENOMEM, "out of memory for `%s`", field->name);
	*out = copy;
	return 0;
}

static int parse_field(const struct config_field *field, const json_t *json, void *out,
		       struct error *err)
{
	void *member = member_of(out, field);

	switch (field->type) {
	case CONFIG_STRING:
		return parse_string(field, json, member, err);
	case CONFIG_BOOL:
		if (!json_is_boolean(json))
			return config_type_error(json, "a boolean", field->name, err);
		*(bool *)member = json_is_true(json);
		return 0;
	case CONFIG_UINT:
		return parse_uint(field, json, member, err);
	case CONFIG_ENUM:
		return parse_enum(field, json, member, err);
	case CONFIG_REFUSED:
		return error_set(err, ENOTSUP, "%s", field->refusal);
	case CONFIG_OBJECT:
	case CONFIG_LIST:
		break; /* parse_at() */
	}
	return error_set(err, EINVAL, "`%s` has no type", field->name);
}

static bool has_member_of(const struct config_object *object, const json_t *json)
{
	for (size_t i = 0; i < object->field_count; i++) {
		if (json_object_get(json, object->fields[i].name))
			return true;
	}
	return false;
}

/* What a JSON object says about a field: NULL when it is absent, or null where that means the same.
 */
static const json_t *given_value(const struct config_field *field, const json_t *json, bool partial)
{
	const json_t *value = json_object_get(json, field->name);

	if (!value || (json_is_null(value) && (partial || field->nullable)))
		return NULL;
	if ((field->by_members && !has_member_of(field->object, value)) ||
	    (field->unless && has_member_of(field->unless, value)))
		return NULL; /* the other field of this name is meant */
	return value;
}

static void exchange(void *one, void *other, size_t length)
{
	uint8_t *left = one, *right = other;

	for (size_t i = 0; i < length; i++) {
		uint8_t kept = left[i];

		left[i] = right[i];
		right[i] = kept;
	}
}

/* Fields that the JSON gives are taken from `from`, the others stay; `out` gives its old strings to
 * `from`. */
static void exchange_given(const struct config_object *object, const json_t *json, bool partial,
			   void *out, void *from)
{
	for (size_t i = 0; i < object->field_count; i++) {
		const struct config_field *field = &object->fields[i];
		void *to_member = member_of(out, field), *from_member = member_of(from, field);

		if (field->type == CONFIG_REFUSED || !given_value(field, json, partial))
			continue;
		switch (field->type) {
		case CONFIG_STRING:
			exchange(to_member, from_member, sizeof(char *));
			break;
		case CONFIG_BOOL:
			exchange(to_member, from_member, sizeof(bool));
			break;
		case CONFIG_UINT:
			exchange(to_member, from_member, sizeof(uint64_t));
			break;
		case CONFIG_ENUM:
			exchange(to_member, from_member, sizeof(int));
			break;
		case CONFIG_OBJECT:
			exchange(to_member, from_member, field->object->size_bytes);
			break;
		case CONFIG_LIST:
			exchange(to_member, from_member, field->object->size_bytes * field->max);
			exchange(list_count(out, field), list_count(from, field),
				 sizeof(unsigned int));
			continue;
		case CONFIG_REFUSED:
			break;
		}
		if (field->type == CONFIG_OBJECT || field->present_offset)
			*present_flag(out, field) = true;
	}
}

static int check_form(const struct config_object *object, const json_t *json, bool partial,
		      struct error *err)
{
	const char *name;
	json_t *value;

	if (!json_is_object(json)) {
		char expected[64];

		snprintf(expected, sizeof(expected), "a JSON object (%s)", object->name);
		return config_type_error(json, expected, NULL, err);
	}
	/* jansson iterates through a non-const object, but changes nothing. */
	json_object_foreach((json_t *)(uintptr_t)json, name, value)
	{
		if (!find_field(object, name))
			return refuse_unknown_field(object, name, err);
	}
	/* A refused field is worth more words than one that is missing beside it. */
	for (size_t i = 0; i < object->field_count; i++) {
		const struct config_field *field = &object->fields[i];

		if (field->type == CONFIG_REFUSED && given_value(field, json, partial))
			return error_set(err, ENOTSUP, "%s", field->refusal);
	}
	for (size_t i = 0; i < object->field_count; i++) {
		const struct config_field *field = &object->fields[i];

		if (field->required && !partial && !given_value(field, json, partial))
			return error_set(err, EINVAL, "missing field `%s`", field->name);
	}
	return 0;
}

static int parse_at(const struct config_object *object, const json_t *json, bool partial, void *out,
		    const char *path, struct error *err);

/* A member with a table of its own. A PATCH changes it whole: what is required in it, is. */
static int parse_within(const struct config_field *field, const json_t *json, void *out,
			const char *path, struct error *err)
{
	char name[128];

	snprintf(name, sizeof(name), "%s%s%s", path, *path ? "." : "", field->name);
	if (field->type == CONFIG_OBJECT) {
		*present_flag(out, field) = true;
		return parse_at(field->object, json, false, member_of(out, field), name, err);
	}
	if (!json_is_array(json))
		return config_type_error(json, "a sequence", name, err);
	if (json_array_size(json) > field->max)
		return error_set(err, ERANGE, "`%s` has %zu entries, %llu at most are possible.",
				 name, json_array_size(json), (unsigned long long)field->max);
	for (unsigned int i = 0; i < json_array_size(json); i++) {
		char entry[160];
		int result;

		snprintf(entry, sizeof(entry), "%s[%u]", name, i);
		++*list_count(out, field);
		result = parse_at(field->object, json_array_get(json, i), false,
				  list_entry(out, field, i), entry, err);
		if (result < 0)
			return result;
	}
	return 0;
}

static int parse_fields(const struct config_object *object, const json_t *json, bool partial,
			void *out, struct error *err)
{
	int result = check_form(object, json, partial, err);

	for (size_t i = 0; i < object->field_count && result == 0; i++) {
		const struct config_field *field = &object->fields[i];
		const json_t *value = given_value(field, json, partial);

		if (value && !has_object(field))
			result = parse_field(field, value, out, err);
	}
	return result;
}

/* Fills `out`, which is zeroed; it may own strings after a failure, too. */
static int parse_at(const struct config_object *object, const json_t *json, bool partial, void *out,
		    const char *path, struct error *err)
{
	int result = parse_fields(object, json, partial, out, err);

	if (result < 0)
		return *path ? error_prefix(err, "%s", path) : result;
	for (size_t i = 0; i < object->field_count && result == 0; i++) {
		const struct config_field *field = &object->fields[i];
		const json_t *value = given_value(field, json, partial);

		if (value && has_object(field))
			result = parse_within(field, value, out, path, err);
	}
	return result;
}

int config_parse_object(const struct config_object *object, const json_t *json, bool partial,
			void *out, struct error *err)
{
	void *parsed = calloc(1, object->size_bytes);
	int result;

	if (!parsed)
		return error_set(err, ENOMEM, "out of memory for %s", object->name);
	result = parse_at(object, json, partial, parsed, "", err);
	if (result == 0)
		exchange_given(object, json, partial, out, parsed);
	config_clear(object, parsed);
	free(parsed);
	return result;
}

bool config_uses_deprecated(const struct config_object *object, const json_t *json)
{
	for (size_t i = 0; i < object->field_count; i++) {
		const json_t *value = json_object_get(json, object->fields[i].name);

		if (object->fields[i].deprecated && value && !json_is_null(value))
			return true;
	}
	return false;
}

static bool is_absent(const struct config_field *field, const void *member)
{
	return field->zero_is_absent && *(const uint64_t *)member == 0;
}

int config_check_ranges(const struct config_object *object, const void *value, struct error *err)
{
	for (size_t i = 0; i < object->field_count; i++) {
		const struct config_field *field = &object->fields[i];
		const void *member = const_member_of(value, field);
		int result = 0;

		if (field->type == CONFIG_OBJECT)
			result = *present_flag((void *)(uintptr_t)value, field)
					 ? config_check_ranges(field->object, member, err)
					 : 0;
		else if (field->type == CONFIG_UINT && !is_absent(field, member))
			result = config_check_uint(field, *(const uint64_t *)member, err);
		else if (field->type == CONFIG_ENUM &&
			 *(const unsigned int *)member >= count_names(field->names))
			result = error_set(err, ERANGE, "`%s` has no value number %u", field->name,
					   *(const unsigned int *)member);
		if (result < 0)
			return result;
	}
	return 0;
}

/* Sets *json to the field's JSON value, or to NULL for an absent field. Returns false when out of
 * memory. */
static bool format_field(const struct config_field *field, const void *member, json_t **json)
{
	const char *text;

	*json = NULL;
	switch (field->type) {
	case CONFIG_STRING:
		text = *(char *const *)member;
		if (!text)
			return true;
		*json = json_string(text);
		break;
	case CONFIG_BOOL:
		*json = json_boolean(*(const bool *)member);
		break;
	case CONFIG_UINT:
		if (is_absent(field, member))
			return true;
		*json = json_integer((json_int_t) * (const uint64_t *)member);
		break;
	case CONFIG_ENUM:
		*json = json_string(field->names[*(const unsigned int *)member]);
		break;
	case CONFIG_OBJECT:
		*json = config_format_object(field->object, member);
		break;
	case CONFIG_LIST: /* format_list() */
	case CONFIG_REFUSED:
		return true;
	}
	return *json != NULL;
}

/* One that is empty is left out, as an absent string is. */
static bool format_list(const struct config_field *field, const void *value, json_t *json)
{
	void *list = (void *)(uintptr_t)value;
	unsigned int count = *list_count(list, field);
	json_t *entries = count ? json_array() : NULL;

	for (unsigned int i = 0; i < count; i++) {
		if (json_array_append_new(
			    entries,
			    config_format_object(field->object, list_entry(list, field, i))) < 0) {
			json_decref(entries);
			return false;
		}
	}
	return count == 0 || json_object_set_new(json, field->name, entries) == 0;
}

json_t *config_format_object(const struct config_object *object, const void *value)
{
	json_t *json = json_object();

	for (size_t i = 0; json && i < object->field_count; i++) {
		const struct config_field *field = &object->fields[i];
		json_t *member = NULL;

		if (field->type == CONFIG_LIST) {
			if (!format_list(field, value, json)) {
				json_decref(json);
				return NULL;
			}
			continue;
		}
		if ((field->type == CONFIG_OBJECT || field->present_offset) &&
		    !*present_flag((void *)(uintptr_t)value, field))
			continue;
		if (!format_field(field, const_member_of(value, field), &member) ||
		    (member && json_object_set_new(json, field->name, member) < 0)) {
			json_decref(json);
			return NULL;
		}
	}
	return json;
}

void config_clear(const struct config_object *object, void *value)
{
	for (size_t i = 0; i < object->field_count; i++) {
		const struct config_field *field = &object->fields[i];

		if (field->type == CONFIG_STRING)
			free(*(char **)member_of(value, field));
		else if (field->type == CONFIG_OBJECT)
			config_clear(field->object, member_of(value, field));
		else if (field->type == CONFIG_LIST)
			for (unsigned int n = 0; n < *list_count(value, field); n++)
				config_clear(field->object, list_entry(value, field, n));
	}
	memset(value, 0, object->size_bytes);
}

/*
 * Copies every string in place, those of objects and lists within too. After a failure the rest
 * must not point to what somebody else owns: `complete` says whether there was none so far.
 */
static bool own_strings(const struct config_object *object, void *value, bool complete)
{
	for (size_t i = 0; i < object->field_count; i++) {
		const struct config_field *field = &object->fields[i];
		char **member = member_of(value, field);

		if (field->type == CONFIG_OBJECT) {
			complete = own_strings(field->object, member, complete);
		} else if (field->type == CONFIG_LIST) {
			for (unsigned int n = 0; n < *list_count(value, field); n++)
				complete = own_strings(field->object, list_entry(value, field, n),
						       complete);
		} else if (field->type == CONFIG_STRING && *member) {
			*member = complete ? strdup(*member) : NULL;
			complete = complete && *member;
		}
	}
	return complete;
}

int config_copy(const struct config_object *object, void *to, const void *from)
{
	char *copy = malloc(object->size_bytes);
	bool complete;

	if (!copy)
		return -ENOMEM;
	memcpy(copy, from, object->size_bytes);
	complete = own_strings(object, copy, true);
	if (complete) {
		config_clear(object, to);
		memcpy(to, copy, object->size_bytes);
	} else {
		config_clear(object, copy);
	}
	free(copy);
	return complete ? 0 : -ENOMEM;
}

/* The command line: see params.h. Text is looked at in ring 3: a hundred characters are some
 * thousand instructions. */
#include "boot.h"
#include "cpu.h"
#include "end.h"
#include "params.h"
#include "text.h"

struct word {
	const char *name;
	const char *value; /* NULL: there is no '=' */
};

static struct word words[PARAMS_WORDS_MAX];
static unsigned int word_count;
static char text[BOOT_CMDLINE_BYTES];

static uint64_t split(void *unused)
{
	char *at = memcpy(text, boot_info.cmdline, sizeof(text));

	(void)unused;
	for (;;) {
		struct word *word = &words[word_count];

		while (*at == ' ')
			at++;
		if (!*at)
			return true;
		if (word_count == PARAMS_WORDS_MAX)
			return false;
		*word = (struct word) { .name = at };
		for (; *at && *at != ' '; at++) {
			if (*at == '=' && !word->value) {
				*at = '\0';
				word->value = at + 1;
			}
		}
		word_count++;
		if (*at)
			*at++ = '\0';
	}
}

void params_init(void)
{
	if (!user_run(split, NULL))
		guest_fail("the command line has more than %d words", PARAMS_WORDS_MAX);
}

static bool read_number(const char *value, const struct param *param)
{
	const char *rest = text_number(value, param->value);
	uint64_t *number = param->value;
	unsigned int shift = 0;

	if (!rest)
		return false;
	if (*rest == 'K')
		shift = 10;
	else if (*rest == 'M')
		shift = 20;
	else if (*rest == 'G')
		shift = 30;
	if (rest[shift ? 1 : 0] != '\0' || *number > UINT64_MAX >> shift)
		return false;
	*number <<= shift;
	return *number >= param->minimum && (param->maximum == 0 || *number <= param->maximum);
}

static bool read_choice(const char *value, const struct param *param)
{
	for (unsigned int i = 0; param->choices[i]; i++) {
		if (text_equal(value, param->choices[i])) {
			*(unsigned int *)param->value = i;
			return true;
		}
	}
	return false;
}

static bool read_value(const struct word *word, const struct param *param)
{
	if (param->type == PARAM_FLAG) {
		*(bool *)param->value = true;
		return !word->value;
	}
	if (!word->value)
		return false;
	switch (param->type) {
	case PARAM_NUMBER:
		return read_number(word->value, param);
	case PARAM_CHOICE:
		return read_choice(word->value, param);
	default:
		*(const char **)param->value = word->value;
		return true;
	}
}

struct reading {
	const struct param *params;
	size_t count;
};

/* The word whose value is bad, or NULL. */
static uint64_t read_all(void *argument)
{
	const struct reading *reading = argument;

	for (unsigned int w = 0; w < word_count; w++) {
		for (size_t p = 0; p < reading->count; p++) {
			if (text_equal(words[w].name, reading->params[p].name) &&
			    !read_value(&words[w], &reading->params[p]))
				return (uintptr_t)&words[w];
		}
	}
	return 0;
}

void params_read(const struct param *params, size_t count)
{
	struct reading reading = { params, count };
	const struct word *bad = (const struct word *)user_run(read_all, &reading);

	if (bad && !bad->value)
		guest_fail("the parameter %s needs a value", bad->name);
	if (bad)
		guest_fail("the parameter %s cannot be '%s'", bad->name, bad->value);
}

struct search {
	const char *name;
	unsigned int index;
};

static uint64_t find(void *argument)
{
	struct search *search = argument;

	for (unsigned int w = 0; w < word_count; w++) {
		if (text_equal(words[w].name, search->name) && search->index-- == 0)
			return (uintptr_t)words[w].value;
	}
	return 0;
}

const char *params_nth(const char *name, unsigned int index)
{
	struct search search = { name, index };

	return (const char *)user_run(find, &search);
}

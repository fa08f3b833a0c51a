/*
 * Reading back what was written to a cgroup's file: see cgroup_value_holds().
 *
 * A value holds when its words are among those that the file answers, in the line about the same
 * device where the file has one line for each, after both sides were brought into one form:
 *
 *   sizes    K, M, G, T (and k, m, g, t) are powers of 1024; the kernel counts whole pages
 *   max, -1  no limit; v1 answers the largest number of pages that it can count
 *   lists    1,0,2-3 and 0-3 are the same CPUs
 */
#include <ctype.h>
#include <string.h>

#include "cgroup_private.h"

#define NO_LIMIT   UINT64_MAX
#define LARGEST_V1 ((uint64_t)INT64_MAX / PAGE_SIZE_BYTES * PAGE_SIZE_BYTES)
#define MAX_LIST   8192

struct word {
	const char *text;
	size_t length;
};

static bool next_word(const char **text, const char *separators, struct word *word)
{
	*text += strspn(*text, separators);
	*word = (struct word) { *text, strcspn(*text, separators) };
	*text += word->length;
	return word->length > 0;
}

bool cgroup_list_has(const char *list, const char *word, const char *separators)
{
	struct word found;

	while (next_word(&list, separators, &found)) {
		if (found.length == strlen(word) && memcmp(found.text, word, found.length) == 0)
			return true;
	}
	return false;
}

static bool same_text(struct word one, struct word other)
{
	return one.length == other.length && memcmp(one.text, other.text, one.length) == 0;
}

static unsigned int unit_shift(char unit)
{
	static const char units[] = "kmgt";
	const char *found = strchr(units, tolower((unsigned char)unit));

	return found && unit ? 10 * (unsigned int)(found - units + 1) : 0;
}

static bool parse_size(struct word word, uint64_t *size)
{
	uint64_t value = 0;
	size_t i = 0;
	unsigned int shift;

	if ((word.length == 3 && memcmp(word.text, "max", 3) == 0) ||
	    (word.length == 2 && memcmp(word.text, "-1", 2) == 0)) {
		*size = NO_LIMIT;
		return true;
	}
	for (; i < word.length && isdigit((unsigned char)word.text[i]); i++) {
		if (value > (UINT64_MAX - 9) / 10)
			return false;
		value = value * 10 + (uint64_t)(word.text[i] - '0');
	}
	if (i == 0 || i + 1 < word.length)
		return false;
	shift = i < word.length ? unit_shift(word.text[i]) : 0;
	if (i < word.length && shift == 0)
		return false;
	if (value > UINT64_MAX >> shift)
		return false;
	*size = value << shift;
	return true;
}

static bool same_size(struct word written, struct word found)
{
	uint64_t want, have;

	if (!parse_size(written, &want) || !parse_size(found, &have))
		return false;
	if (want == have)
		return true;
	if (want == NO_LIMIT)
		return have >= LARGEST_V1;
	/* In whole pages. A number that small is no size. */
	return want >= PAGE_SIZE_BYTES && have == want / PAGE_SIZE_BYTES * PAGE_SIZE_BYTES;
}

/* A list such as 0-3,8 as a set of bits. */
static bool parse_list(struct word word, uint8_t set[MAX_LIST / 8])
{
	const char *text = word.text, *end = text + word.length;

	memset(set, 0, MAX_LIST / 8);
	while (text < end) {
		unsigned int range[2] = { 0, 0 };
		unsigned int count = 0;

		do {
			const char *start = text;

			for (; text < end && isdigit((unsigned char)*text); text++) {
				range[count] = range[count] * 10 + (unsigned int)(*text - '0');
				if (range[count] >= MAX_LIST)
					return false;
			}
			if (text == start)
				return false;
			count++;
		} while (count < 2 && text < end && *text == '-' && text++ < end);
		if (count == 1)
			range[1] = range[0];
		for (unsigned int i = range[0]; i <= range[1]; i++)
			set[i / 8] |= (uint8_t)(1u << (i % 8));
		if (text == end)
			return true;
		if (*text++ != ',')
			return false;
	}
	return false;
}

static bool same_list(struct word written, struct word found)
{
	uint8_t want[MAX_LIST / 8], have[MAX_LIST / 8];

	return parse_list(written, want) && parse_list(found, have) &&
	       memcmp(want, have, sizeof(want)) == 0;
}

/* key=value: the same key, and a value that holds. */
static bool same_pair(struct word written, struct word found)
{
	const char *want = memchr(written.text, '=', written.length);
	const char *have = memchr(found.text, '=', found.length);
	uint64_t wanted, had;
	size_t key;

	if (!want || !have)
		return false;
	key = (size_t)(want - written.text);
	if (key != (size_t)(have - found.text) || memcmp(written.text, found.text, key) != 0)
		return false;
	/* Rates and the like: nothing is rounded. */
	return parse_size((struct word) { want + 1, written.length - key - 1 }, &wanted) &&
	       parse_size((struct word) { have + 1, found.length - key - 1 }, &had) &&
	       wanted == had;
}

static bool same_word(struct word written, struct word found)
{
	return same_text(written, found) || same_size(written, found) ||
	       same_list(written, found) || same_pair(written, found);
}

/* Each word of what was written, in this order, among those of a line. */
static bool line_holds(const char *written, const char *line, size_t length)
{
	cleanup_free char *copy = strndup(line, length);
	const char *rest = copy;
	struct word want = { 0 }, have = { 0 };

	if (!copy)
		return false;
	while (next_word(&written, " \t\n", &want)) {
		do {
			if (!next_word(&rest, " \t\n", &have))
				return false;
		} while (!same_word(want, have));
	}
	return true;
}

bool cgroup_value_holds(const char *written, const char *found)
{
	if (!written[strspn(written, " \t\n")])
		return !found[strspn(found, " \t\n")];
	while (*found) {
		size_t length = strcspn(found, "\n");

		if (line_holds(written, found, length))
			return true;
		found += length;
		found += *found == '\n';
	}
	return false;
}

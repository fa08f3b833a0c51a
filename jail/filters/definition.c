/* Reads a definition of filters, line by line: see definition.h. */
#include <errno.h>
#include <seccomp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "definition.h"

#define BLANKS " \t\n"

/* What the line at hand is read into. */
struct reader {
	struct definition *definition;
	unsigned int line;
	unsigned int threads; /* of the last line `thread` */
};

static const char *const thread_names[FILTER_THREADS] = {
	[FILTER_VMM] = "vmm",
	[FILTER_VCPU] = "vcpu",
	[FILTER_UFFD] = "uffd",
	[FILTER_FORK] = "fork",
};

const char *filter_thread_name(enum filter_thread thread)
{
	return thread_names[thread];
}

static bool refuse(const struct reader *reader, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static bool refuse(const struct reader *reader, const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s:%u: ", reader->definition->path, reader->line);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return false;
}

/* VALUE[|VALUE...], numbers or names, with or without a ~ in front of all of it. */
static bool parse_value(const struct reader *reader, char *text, uint32_t *value)
{
	bool complement = *text == '~';
	char *rest = text + complement;
	char *end;

	*value = 0;
	if (*rest == '(' && rest[strlen(rest) - 1] == ')') {
		rest[strlen(rest) - 1] = '\0';
		rest++;
	}
	while (rest) {
		const char *word = strsep(&rest, "|");
		unsigned long number;
		uint32_t part;

		errno = 0;
		number = strtoul(word, &end, 0);
		part = (uint32_t)number;
		if (*word < '0' || *word > '9' || *end || errno || number > UINT32_MAX) {
			if (!symbol_value(word, &part))
				return refuse(
					reader,
					"'%s' is neither a number of 32 bits nor a name that is known",
					word);
		}
		*value |= part;
	}
	if (complement)
		*value = ~*value;
	return true;
}

/* argN=VALUE or argN&MASK=VALUE */
static bool parse_condition(const struct reader *reader, struct rule *rule, const char *word)
{
	struct condition *condition = &rule->conditions[rule->condition_count];
	char text[256], *mask, *value;

	if (rule->condition_count == DEFINITION_MAX_CONDITIONS)
		return refuse(reader, "more than %d conditions", DEFINITION_MAX_CONDITIONS);
	if (strlen(word) >= sizeof(text))
		return refuse(reader, "a condition is longer than %zu bytes", sizeof(text) - 1);
	strcpy(text, word);
	value = strchr(text, '=');
	if (strncmp(text, "arg", 3) != 0 || text[3] < '0' || text[3] > '5' || !value ||
	    (text[4] != '=' && text[4] != '&'))
		return refuse(reader,
			      "'%s' is no condition: argN=VALUE or argN&MASK=VALUE, N from 0 to 5",
			      word);
	*value++ = '\0';
	mask = text[4] == '&' ? text + 5 : NULL;
	condition->argument = (unsigned int)(text[3] - '0');
	condition->mask = UINT32_MAX;
	if (mask && !parse_value(reader, mask, &condition->mask))
		return false;
	if (!parse_value(reader, value, &condition->value))
		return false;
	if (condition->value & ~condition->mask)
		return refuse(reader,
			      "'%s' can never hold: the value has bits that the mask has not",
			      word);
	rule->condition_count++;
	return true;
}

/* The words between the action and the colon. */
static bool parse_words(const struct reader *reader, struct rule *rule, char *words)
{
	char *rest = words, *word = strsep(&rest, BLANKS);
	char conditions[512] = "";

	rule->number = seccomp_syscall_resolve_name_arch(SCMP_ARCH_X86_64, word);
	if (rule->number < 0)
		return refuse(reader, "'%s' is no system call of x86-64", word);
	rule->call = strdup(word);
	while (rest) {
		uint32_t error;

		word = strsep(&rest, BLANKS);
		if (!*word)
			continue;
		if (rule->action == RULE_REFUSE && !rule->error) {
			if (!symbol_value(word, &error) || error > 4095)
				return refuse(reader, "'%s' is no error that is known", word);
			rule->error = (int)error;
			rule->error_text = strdup(word);
			continue;
		}
		if (!parse_condition(reader, rule, word))
			return false;
		if (strlen(conditions) + strlen(word) + 2 > sizeof(conditions))
			return refuse(reader, "the conditions are too long");
		strcat(strcat(conditions, *conditions ? " " : ""), word);
	}
	if (rule->action == RULE_REFUSE && !rule->error)
		return refuse(reader, "refuse needs the error: refuse %s ENOSYS : why", rule->call);
	rule->conditions_text = strdup(conditions);
	return true;
}

/* One call has one fate in each thread; only `allow` may have several lines, for several
 * conditions. */
static bool check_unique(const struct reader *reader, const struct rule *rule)
{
	for (unsigned int i = 0; i < reader->definition->rule_count; i++) {
		const struct rule *other = &reader->definition->rules[i];

		if (other == rule || other->number != rule->number ||
		    !(other->threads & rule->threads))
			continue;
		if (other->action != rule->action || rule->action != RULE_ALLOW)
			return refuse(reader, "line %u has said already what becomes of %s",
				      other->line, rule->call);
		if (!other->condition_count || !rule->condition_count)
			return refuse(
				reader,
				"line %u and this one: %s is allowed both with and without conditions",
				other->line, rule->call);
	}
	return true;
}

static bool parse_rule(struct reader *reader, enum rule_action action, char *rest)
{
	struct definition *definition = reader->definition;
	struct rule *rule = &definition->rules[definition->rule_count];
	char *why = strstr(rest, " : ");

	if (!reader->threads)
		return refuse(reader,
			      "no thread was named yet: thread vmm, vcpu, uffd, fork, or several");
	if (definition->rule_count == DEFINITION_MAX_RULES)
		return refuse(reader, "more than %d rules", DEFINITION_MAX_RULES);
	if (!why)
		return refuse(reader,
			      "each rule says why it is there, behind a colon between two blanks");
	*why = '\0';
	why += 3;
	why += strspn(why, BLANKS);
	why[strcspn(why, "\n")] = '\0';
	if (!*why)
		return refuse(reader, "each rule says why it is there");
	*rule = (struct rule) { .action = action,
				.threads = reader->threads,
				.line = reader->line };
	definition->rule_count++;
	rule->why = strdup(why);
	return parse_words(reader, rule, rest) && check_unique(reader, rule);
}

static bool parse_threads(struct reader *reader, char *rest)
{
	char *word;

	reader->threads = 0;
	while ((word = strsep(&rest, BLANKS))) {
		unsigned int found = 0;

		if (!*word)
			continue;
		for (unsigned int i = 0; i < FILTER_THREADS; i++)
			found |= strcmp(word, thread_names[i]) == 0 ? 1U << i : 0;
		if (!found)
			return refuse(reader, "'%s' is no thread: vmm, vcpu, uffd or fork", word);
		reader->threads |= found;
	}
	return reader->threads
		       ? true
		       : refuse(reader, "thread needs a name behind it: vmm, vcpu, uffd or fork");
}

static bool parse_line(struct reader *reader, char *line)
{
	char *rest = line + strspn(line, BLANKS), *word;

	if (!*rest || *rest == '#')
		return true;
	word = strsep(&rest, BLANKS);
	if (!rest)
		return refuse(reader, "'%s' has nothing behind it", word);
	rest += strspn(rest, BLANKS);
	if (strcmp(word, "thread") == 0)
		return parse_threads(reader, rest);
	if (strcmp(word, "allow") == 0)
		return parse_rule(reader, RULE_ALLOW, rest);
	if (strcmp(word, "refuse") == 0)
		return parse_rule(reader, RULE_REFUSE, rest);
	if (strcmp(word, "kill") == 0)
		return parse_rule(reader, RULE_KILL, rest);
	return refuse(reader, "'%s' is none of: thread, allow, refuse, kill", word);
}

bool definition_read(struct definition *definition, const char *path)
{
	struct reader reader = { .definition = definition };
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;
	bool good = true;

	definition->path = path;
	definition->rule_count = 0;
	if (!file) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return false;
	}
	while (good && getline(&line, &size, file) > 0) {
		reader.line++;
		good = parse_line(&reader, line);
	}
	if (good && ferror(file))
		good = refuse(&reader, "cannot be read on: %s", strerror(errno));
	free(line);
	fclose(file);
	return good;
}

bool definition_names(const struct definition *definition, enum filter_thread thread)
{
	for (unsigned int i = 0; i < definition->rule_count; i++) {
		if (definition->rules[i].threads & 1U << thread)
			return true;
	}
	return false;
}

void definition_clear(struct definition *definition)
{
	for (unsigned int i = 0; i < definition->rule_count; i++) {
		struct rule *rule = &definition->rules[i];

		free(rule->call);
		free(rule->conditions_text);
		free(rule->error_text);
		free(rule->why);
	}
	definition->rule_count = 0;
}

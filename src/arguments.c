/* Arguments of command lines: see include/mayfly/arguments.h. */
#include <string.h>

#include "mayfly/arguments.h"

int arguments_number(const char *name, const char *text, uint64_t least, uint64_t most,
		     uint64_t *value, struct error *err)
{
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || *text < '0' || *text > '9' || *end || number < least || number > most)
		return error_set(err, EINVAL,
				 "%s takes a whole number from %llu to %llu, not '%s'.", name,
				 (unsigned long long)least, (unsigned long long)most, text);
	*value = number;
	return 0;
}

/* getopt_long says nothing by itself: here is what to type instead. */
int arguments_refuse(int code, char **argv, const struct option *known, const char *help,
		     struct error *err)
{
	/* With a long option, optind already points behind it. With letters it may not: "-xh". */
	const char *word = argv[optind - 1];
	bool is_letter = code == '?' && optopt > 0 && optopt < ARGUMENTS_FIRST_LONG;

	if (code == ':')
		return error_set(err, EINVAL, "%s needs a value behind it. %s lists all options.",
				 word, help);
	for (const struct option *option = known; option->name; option++) {
		/* A long option with a value that it does not take leaves its own code. */
		is_letter = is_letter && option->val != optopt;
	}
	if (is_letter)
		return error_set(err, EINVAL, "There is no option -%c. %s lists all options.",
				 optopt, help);
	for (const struct option *option = known; option->name; option++) {
		size_t length = strlen(option->name);

		if (strncmp(word, "--", 2) == 0 && strncmp(word + 2, option->name, length) == 0 &&
		    word[2 + length] == '=' && option->has_arg == no_argument)
			return error_set(err, EINVAL, "--%s takes no value: type it alone.",
					 option->name);
	}
	return error_set(err, EINVAL, "There is no option %s. %s lists all options.", word, help);
}

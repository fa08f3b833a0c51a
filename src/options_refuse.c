/*
 * What is no word of the command line: sentences for whoever reads nothing else, which say where
 * the thing that was meant is to be had. See options_private.h.
 */
#include <string.h>

#include "options_private.h"

/* Words that look like commands, and where what they name is. */
static const struct {
	const char *word, *answer;
} elsewhere[] = {
	{ "audit-host", "a script in Mayfly's sources looks at the host: scripts/audit-host" },
	{ "jail", "a jail is made by a program of its own: mayfly-jailer --help" },
	{ "jailer", "a jail is made by a program of its own: mayfly-jailer --help" },
	{ "seccomp", "filters are made by a program of its own: mayfly-seccomp --help" },
	{ "uffd", "memory is brought by a program of its own: mayfly-uffd --help" },
	{ "snapshot", "a snapshot is made by the REST API, PUT /snapshot/create; what a state file "
		      "holds is shown by mayfly --describe-snapshot FILE" },
};

static const struct option *find(const struct option *known, const char *word, size_t length)
{
	for (; known->name; known++) {
		if (strlen(known->name) == length && strncmp(known->name, word, length) == 0)
			return known;
	}
	return NULL;
}

int options_refuse(int code, char **argv, bool run, struct error *err)
{
	const struct option *own = run ? options_run_known : options_monitor_known;
	const struct option *other = run ? options_monitor_known : options_run_known;
	const char *help = run ? "mayfly run --help" : "mayfly --help";
	const char *word = argv[optind - 1];
	size_t length = strcspn(word, "=");
	bool known_there = strncmp(word, "--", 2) == 0 && !find(own, word + 2, length - 2) &&
			   find(other, word + 2, length - 2);

	if (code == '?' && known_there && run)
		return error_set(
			err, EINVAL,
			"%.*s is no option of mayfly run, which boots a guest at once, but of mayfly without 'run': mayfly %.*s ... (mayfly --help). %s lists those of run.",
			(int)length, word, (int)length, word, help);
	if (code == '?' && known_there)
		return error_set(
			err, EINVAL,
			"%.*s is an option of mayfly run: mayfly run --kernel FILE ... (mayfly run --help). %s lists those without 'run'.",
			(int)length, word, help);
	return arguments_refuse(code, argv, own, help, err);
}

int options_refuse_word(const char *word, struct error *err)
{
	static const char *const commands[] = { "run", "merge-memory", "help" };
	const char *name = strncmp(word, "mayfly-", 7) == 0 ? word + 7 : word;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(word, commands[i]) == 0)
			return error_set(err, EINVAL,
					 "'%s' comes first, before all options: mayfly %s ...",
					 word, word);
	}
	for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++) {
		if (strcmp(name, elsewhere[i].word) == 0)
			return error_set(err, EINVAL, "'%s' is not a command of mayfly: %s", word,
					 elsewhere[i].answer);
	}
	if (find(options_monitor_known, word, strlen(word)))
		return error_set(err, EINVAL,
				 "'%s' is not a command but an option: mayfly --%s (mayfly --help)",
				 word, word);
	return error_set(
		err, EINVAL,
		"'%s' is not an option, and no command: there are run, merge-memory and help. To boot a kernel on this terminal type: mayfly run --kernel %s",
		word, word);
}

/*
 * mayfly-seccomp: compiles definitions of system-call filters for mayfly --seccomp-filter, and for
 * Mayfly's own build.
 *
 *   definition -> rules (definition.c) -> BPF by libseccomp (compile.c) -> a file, or C
 */
#include <errno.h>
#include <linux/audit.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compile.h"
#include "mayfly/filters.h"

/* Beyond the numbers of any kernel that this libseccomp knows. */
#define NUMBERS 1024

_Static_assert((int)FILTER_THREADS == (int)FILTERS_THREADS, "what the monitor has");

/*
 * A definition that was written for a Mayfly without this thread has no rules for it, which is not
 * to mean that it may nothing: the monitor then takes what vmm has.
 */
static bool is_left_out(const struct definition *definition, enum filter_thread thread)
{
	return (thread == FILTER_UFFD || thread == FILTER_FORK) &&
	       !definition_names(definition, thread);
}

static int write_file(const struct definition *definition, const struct compiled *compiled,
		      FILE *out)
{
	struct filters_file_head head = {
		.magic = FILTERS_FILE_MAGIC,
		.version = FILTERS_FILE_VERSION,
		.architecture = AUDIT_ARCH_X86_64,
	};

	for (unsigned int i = 0; i < FILTER_THREADS; i++)
		head.program_count += !is_left_out(definition, i);
	fwrite(&head, sizeof(head), 1, out);
	for (unsigned int i = 0; i < FILTER_THREADS; i++) {
		struct filters_file_program program = { .instruction_count = compiled[i].count };

		if (is_left_out(definition, i))
			continue;
		strncpy(program.thread, filter_thread_name(i), sizeof(program.thread) - 1);
		fwrite(&program, sizeof(program), 1, out);
		fwrite(compiled[i].instructions, sizeof(compiled[i].instructions[0]),
		       compiled[i].count, out);
	}
	return 0;
}

static void write_names(FILE *out)
{
	int last = 0;

	for (int number = 0; number < NUMBERS; number++) {
		char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number);

		last = name ? number : last;
		free(name);
	}
	fprintf(out,
		"/* Of the calls from 0 on, one behind the other; \"\" where there is none. */\n"
		"static const char call_names[] =\n");
	for (int number = 0; number <= last; number++) {
		char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number);

		fprintf(out, "\t\"%s\\0\"\n", name ? name : "");
		free(name);
	}
	fprintf(out, "\t;\n#define CALL_NAMES %d\n", last + 1);
}

static int write_header(const struct definition *definition, const struct compiled *compiled,
			FILE *out)
{
	fprintf(out, "/* Made by mayfly-seccomp from %s. */\n#include <linux/filter.h>\n\n",
		definition->path);
	for (unsigned int i = 0; i < FILTER_THREADS; i++) {
		fprintf(out, "static const struct sock_filter %s_program[] = {\n",
			filter_thread_name(i));
		for (unsigned int at = 0; at < compiled[i].count; at++) {
			const struct sock_filter *filter = &compiled[i].instructions[at];

			fprintf(out, "\t{ 0x%02x, %u, %u, 0x%08x },\n", filter->code, filter->jt,
				filter->jf, filter->k);
		}
		fprintf(out, "};\n");
	}
	write_names(out);
	return 0;
}

/* How many different calls the thread may make. */
static unsigned int count_calls(const struct definition *definition, enum filter_thread thread,
				enum rule_action action)
{
	bool seen[NUMBERS] = { false };
	unsigned int count = 0;

	for (unsigned int i = 0; i < definition->rule_count; i++) {
		const struct rule *rule = &definition->rules[i];

		if (!(rule->threads & 1U << thread) || rule->action != action ||
		    rule->number >= NUMBERS || seen[rule->number])
			continue;
		seen[rule->number] = true;
		count++;
	}
	return count;
}

/* With how many first words behind the descriptor: each is a call of its own. */
static unsigned int count_ioctls(const struct definition *definition, enum filter_thread thread)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < definition->rule_count; i++) {
		const struct rule *rule = &definition->rules[i];

		count += rule->action == RULE_ALLOW && (rule->threads & 1U << thread) &&
			 strcmp(rule->call, "ioctl") == 0;
	}
	return count;
}

static int write_counts(const struct definition *definition, const struct compiled *compiled,
			FILE *out)
{
	for (unsigned int i = 0; i < FILTER_THREADS; i++)
		fprintf(out,
			"%s: %u calls allowed (ioctl with %u requests), %u refused with an error, %u instructions of BPF\n",
			filter_thread_name(i), count_calls(definition, i, RULE_ALLOW),
			count_ioctls(definition, i), count_calls(definition, i, RULE_REFUSE),
			compiled[i].count);
	return 0;
}

/* Markdown has a meaning of its own for |. */
static void write_escaped(const char *text, FILE *out)
{
	for (; *text; text++)
		fprintf(out, *text == '|' ? "\\|" : "%c", *text);
}

static void write_row(const struct rule *rule, FILE *out)
{
	fprintf(out, "| `%s` | ", rule->call);
	if (*rule->conditions_text) {
		fputc('`', out);
		write_escaped(rule->conditions_text, out);
		fputc('`', out);
	}
	if (rule->error_text)
		fprintf(out, "fails: %s", rule->error_text);
	fprintf(out, " | %s |\n", rule->why);
}

static int write_table(const struct definition *definition, const struct compiled *compiled,
		       FILE *out)
{
	(void)compiled;
	for (unsigned int i = 0; i < FILTER_THREADS; i++) {
		/* The main thread's, and some more. */
		bool more = i == FILTER_FORK;

		fprintf(out,
			"%s### `%s`: %u calls%s\n\n| call | only | why |\n| --- | --- | --- |\n",
			i ? "\n" : "", filter_thread_name(i),
			count_calls(definition, i, RULE_ALLOW), more ? ", those of `vmm` and" : "");
		for (unsigned int at = 0; at < definition->rule_count; at++) {
			const struct rule *rule = &definition->rules[at];

			if (rule->action != RULE_KILL && (rule->threads & 1U << i) &&
			    !(more && rule->threads & 1U << FILTER_VMM))
				write_row(rule, out);
		}
	}
	return 0;
}

static int write_compiled(const struct definition *definition, const struct compiled *compiled,
			  FILE *out)
{
	return write_file(definition, compiled, out);
}

static const struct command {
	const char *name;
	int (*write)(const struct definition *definition, const struct compiled *compiled,
		     FILE *out);
} commands[] = {
	{ "compile", write_compiled },
	{ "header", write_header },
	{ "count", write_counts },
	{ "table", write_table },
};

static int usage(void)
{
	fputs("usage: mayfly-seccomp compile DEFINITION FILE    a file for mayfly --seccomp-filter\n"
	      "       mayfly-seccomp count DEFINITION           how many calls each thread may make\n"
	      "       mayfly-seccomp table DEFINITION           what they are, and why, in Markdown\n"
	      "       mayfly-seccomp header DEFINITION FILE     C, for Mayfly's build\n",
	      stderr);
	return 2;
}

static bool write_out(const struct command *command, const struct definition *definition,
		      const struct compiled *compiled, FILE *out)
{
	command->write(definition, compiled, out);
	/* What is buffered may still fail. */
	return fflush(out) == 0 && !ferror(out);
}

static bool write_to(const struct command *command, const struct definition *definition,
		     const struct compiled *compiled, const char *path)
{
	FILE *out = fopen(path, "we");
	bool good;

	if (!out)
		return false;
	good = write_out(command, definition, compiled, out);
	return fclose(out) == 0 && good;
}

/* All is right before the file is touched. */
static int run(const struct command *command, const struct definition *definition, const char *path)
{
	struct compiled compiled[FILTER_THREADS] = { 0 };
	bool good = true;

	for (unsigned int i = 0; good && i < FILTER_THREADS; i++)
		good = compile_thread(definition, i, &compiled[i]);
	if (good) {
		good = path ? write_to(command, definition, compiled, path)
			    : write_out(command, definition, compiled, stdout);
		if (!good)
			fprintf(stderr, "%s: %s\n", path ? path : "standard output",
				strerror(errno));
	}
	for (unsigned int i = 0; i < FILTER_THREADS; i++)
		free(compiled[i].instructions);
	return good ? 0 : 1;
}

int main(int argc, char **argv)
{
	static struct definition definition; /* too large for a stack */
	const struct command *command = NULL;
	bool takes_file;
	int status = 1;

	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(argv[1], commands[i].name) == 0)
			command = &commands[i];
	}
	if (!command)
		return usage();
	takes_file = command->write == write_compiled || command->write == write_header;
	if (argc != (takes_file ? 4 : 3))
		return usage();
	if (definition_read(&definition, argv[2]))
		status = run(command, &definition, takes_file ? argv[3] : NULL);
	definition_clear(&definition);
	return status;
}

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <string.h>

#include "mayfly/error.h"

Test(error, set_returns_the_negative_code_and_keeps_the_message)
{
	struct error err = { 0 };

	cr_assert_eq(error_set(&err, EINVAL, "field %s", "x"), -EINVAL);
	cr_assert_eq(err.code, EINVAL);
	cr_assert_str_eq(err.message, "field x");
}

Test(error, errno_is_appended_as_clients_of_the_api_match_it)
{
	struct error err = { 0 };

	errno = ENOENT;
	cr_assert_eq(error_errno(&err, "The kernel file cannot be opened"), -ENOENT);
	cr_assert_str_eq(
		err.message,
		"The kernel file cannot be opened: No such file or directory (os error 2)");
}

Test(error, prefix_puts_the_outer_message_first)
{
	struct error err = { 0 };

	error_set(&err, EIO, "cannot read");
	cr_assert_eq(error_prefix(&err, "drive %s", "root"), -EIO);
	cr_assert_str_eq(err.message, "drive root: cannot read");
}

Test(error, long_messages_are_cut_and_terminated)
{
	struct error err = { 0 };
	char text[2 * ERROR_MESSAGE_BYTES];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	errno = EIO;
	error_errno(&err, "%s", text);
	cr_assert_eq(strlen(err.message), sizeof(err.message) - 1);
	error_prefix(&err, "%s", text);
	cr_assert_eq(strlen(err.message), sizeof(err.message) - 1);
}

Test(error, a_caller_may_want_the_number_only)
{
	errno = EACCES;
	cr_assert_eq(error_errno(NULL, "x"), -EACCES);
	cr_assert_eq(error_set(NULL, EIO, "x"), -EIO);
	cr_assert_lt(error_prefix(NULL, "x"), 0);
}

/* Names out of files are quoted in messages. */
Test(error, what_is_printed_is_one_line_without_control_characters, .init = cr_redirect_stderr)
{
	struct error err = { 0 };

	error_set(&err, EINVAL, "field %s", "\x1b[2J\n\x7f gr\u00fcn \u20ac \xc2\x9b\u00a0");
	error_print("program", &err);
	fflush(stderr);
	cr_assert_stderr_eq_str("program: field ?[2J?? gr\u00fcn \u20ac ??\u00a0\n");
}

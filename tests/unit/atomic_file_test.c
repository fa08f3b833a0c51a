#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "mayfly/atomic_file.h"

static char folder[64];
static char path[96];

static void set_up(void)
{
	strcpy(folder, "/tmp/atomic_file.XXXXXX");
	cr_assert(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/state", folder);
}

static unsigned int count_files(void)
{
	DIR *stream = opendir(folder);
	unsigned int count = 0;

	cr_assert(stream);
	for (struct dirent *entry; (entry = readdir(stream));)
		count += entry->d_name[0] != '.';
	closedir(stream);
	return count;
}

static void tear_down(void)
{
	unlink(path);
	rmdir(folder);
}

static void expect_content(const char *content)
{
	cleanup_fd int fd = open(path, O_RDONLY);
	char have[64] = { 0 };

	cr_assert_geq(fd, 0);
	cr_assert_geq(read(fd, have, sizeof(have) - 1), 0);
	cr_assert_str_eq(have, content);
}

static void put(const char *content)
{
	struct atomic_file file;
	struct error err = { 0 };

	cr_assert_eq(atomic_file_open(&file, path, &err), 0, "%s", err.message);
	cr_assert_eq(atomic_file_write(&file, content, strlen(content), 0, &err), 0);
	cr_assert_eq(atomic_file_flush(&file, &err), 0);
	cr_assert_eq(atomic_file_commit(&file, &err), 0, "%s", err.message);
	atomic_file_close(&file);
}

TestSuite(atomic_file, .init = set_up, .fini = tear_down);

Test(atomic_file, takes_the_place_of_the_old_file_and_leaves_nothing_beside)
{
	struct stat status;

	put("old and long");
	put("new");
	expect_content("new");
	cr_assert_eq(count_files(), 1);
	cr_assert_eq(stat(path, &status), 0);
	cr_assert_eq(status.st_mode & 07777, 0600);
}

Test(atomic_file, until_the_end_the_old_file_is_there)
{
	struct atomic_file file;
	struct error err = { 0 };

	put("old");
	cr_assert_eq(atomic_file_open(&file, path, &err), 0);
	cr_assert_eq(atomic_file_write(&file, "new", 3, 0, &err), 0);
	cr_assert_eq(atomic_file_flush(&file, &err), 0);
	expect_content("old");
	atomic_file_close(&file);
	expect_content("old");
	cr_assert_eq(count_files(), 1, "what was not committed is gone");
}

Test(atomic_file, a_process_that_is_killed_leaves_the_old_file)
{
	pid_t child;
	int status;

	put("old");
	child = fork();
	cr_assert_geq(child, 0);
	if (child == 0) {
		struct atomic_file file;

		if (atomic_file_open(&file, path, NULL) == 0 &&
		    atomic_file_write(&file, "new", 3, 0, NULL) == 0)
			raise(SIGKILL);
		_exit(1);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFSIGNALED(status));
	expect_content("old");
	cr_assert_eq(count_files(), 1);
}

Test(atomic_file, a_file_that_cannot_grow_leaves_the_old_one)
{
	struct rlimit limit = { 2, 2 };
	struct atomic_file file;
	struct error err = { 0 };

	put("old");
	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	cr_assert_eq(atomic_file_open(&file, path, &err), 0);
	cr_assert_eq(atomic_file_write(&file, "new", 3, 0, &err), -EFBIG);
	cr_assert_str_eq(err.message, "state cannot be written: File too large (os error 27)");
	atomic_file_close(&file);
	expect_content("old");
	cr_assert_eq(count_files(), 1);
}

Test(atomic_file, what_is_no_file_is_not_replaced)
{
	struct atomic_file file;
	struct error err = { 0 };

	cr_assert_eq(atomic_file_open(&file, folder, &err), -EEXIST);
	cr_assert(strstr(err.message, folder));
	cr_assert(strstr(err.message, "no regular file"));
	cr_assert_eq(atomic_file_open(&file, "/tmp/", &err), -EINVAL);
	cr_assert_eq(atomic_file_open(&file, "/nonexistent/state", &err), -ENOENT);
	cr_assert(strstr(err.message, "the folder /nonexistent cannot be opened"));
	cr_assert_eq(symlink("/nowhere", path), 0);
	cr_assert_eq(atomic_file_open(&file, path, &err), -EEXIST);
}

Test(atomic_file, a_path_without_a_folder_is_in_the_present_one)
{
	struct atomic_file file;
	struct error err = { 0 };

	cr_assert_eq(chdir(folder), 0);
	cr_assert_eq(atomic_file_open(&file, "state", &err), 0, "%s", err.message);
	cr_assert_eq(atomic_file_write(&file, "here", 4, 0, &err), 0);
	cr_assert_eq(atomic_file_commit(&file, &err), 0);
	atomic_file_close(&file);
	expect_content("here");
}

Test(atomic_file, one_name_of_one_folder_is_the_same_file_however_it_is_written)
{
	struct atomic_file file, same, other, elsewhere;
	char name[128];

	cr_assert_eq(chdir(folder), 0);
	cr_assert_eq(atomic_file_open(&file, "state", NULL), 0);
	snprintf(name, sizeof(name), "%s/./state", folder);
	cr_assert_eq(atomic_file_open(&same, name, NULL), 0);
	cr_assert_eq(atomic_file_open(&other, "memory", NULL), 0);
	cr_assert_eq(atomic_file_open(&elsewhere, "/tmp/state", NULL), 0);
	cr_assert(atomic_file_is_same(&file, &same));
	cr_assert_not(atomic_file_is_same(&file, &other));
	cr_assert_not(atomic_file_is_same(&file, &elsewhere));
	atomic_file_close(&file);
	atomic_file_close(&same);
	atomic_file_close(&other);
	atomic_file_close(&elsewhere);
}

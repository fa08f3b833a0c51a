/*
 * The monitor's copy in the jail: a file of its own, so that no two jails share its pages' inode,
 * and nobody outside can change it while it runs.
 *
 * There is no dynamic linker in an empty room: what would need one is refused by its program
 * headers (ELF-64 object file format, "Program Header"; PT_INTERP).
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "paths.h"
#include "room.h"

#define COPY_BUFFER_BYTES (64 * KIB)
#define MAX_HEADERS	  128

static int not_runnable(const char *path, const char *why, struct error *err)
{
	return error_set(err, ENOEXEC, "--exec-file %s cannot run in a jail: %s", path, why);
}

/* The copy is looked at, not the original: that one may change at any time. */
static int check_program(int fd, const char *path, struct error *err)
{
	Elf64_Ehdr header;
	Elf64_Phdr segment;

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header) ||
	    memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
		return not_runnable(path, "it is no ELF program (scripts need an interpreter)",
				    err);
	if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64 ||
	    header.e_phentsize != sizeof(segment) || header.e_phnum > MAX_HEADERS)
		return not_runnable(path, "it is no 64-bit x86 program", err);
	for (unsigned int i = 0; i < header.e_phnum; i++) {
		if (header.e_phoff > INT64_MAX - MAX_HEADERS * sizeof(segment) ||
		    pread(fd, &segment, sizeof(segment),
			  (off_t)(header.e_phoff + i * sizeof(segment))) != sizeof(segment))
			return not_runnable(path, "its program headers are cut off", err);
		if (segment.p_type == PT_INTERP)
			return not_runnable(path,
					    "it is linked dynamically, and the jail has no "
					    "libraries. Link it statically",
					    err);
	}
	return 0;
}

static int copy_by_hand(int from, int to)
{
	cleanup_free char *buffer = malloc(COPY_BUFFER_BYTES);
	ssize_t got;

	if (!buffer)
		return -ENOMEM;
	while ((got = read(from, buffer, COPY_BUFFER_BYTES)) != 0) {
		if (got < 0)
			return -errno;
		if (path_write_all(to, buffer, (size_t)got) < 0)
			return -errno;
	}
	return 0;
}

/* copy_file_range(2) shares blocks where the file system can, and refuses some pairs of them. */
static int copy_contents(int from, int to)
{
	bool any = false;

	for (;;) {
		ssize_t copied = copy_file_range(from, NULL, to, NULL, GIB, 0);

		if (copied < 0 && !any)
			return copy_by_hand(from, to);
		if (copied < 0)
			return -errno;
		/* Files of some file systems pretend to be empty; reading them tells. */
		if (copied == 0)
			return any ? 0 : copy_by_hand(from, to);
		any = true;
	}
}

int room_copy_monitor(struct jail *jail, struct error *err)
{
	const struct jail_options *options = &jail->options;
	struct room *room = &jail->room;
	cleanup_fd int from = -1;
	cleanup_fd int to = -1;
	char path[64];

	/* exec_fd is O_PATH: the file that was checked, whatever has its name by now. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", jail->exec_fd);
	from = open(path, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return error_errno(err, "cannot read %s", options->exec_file);
	if (unlinkat(room->root_fd, options->exec_name, 0) < 0 && errno != ENOENT)
		return error_errno(err, "cannot replace /%s in the jail", options->exec_name);
	to = openat(room->root_fd, options->exec_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0500);
	if (to < 0)
		return error_errno(err, "cannot make /%s in the jail", options->exec_name);
	room->made_copy = true;
	if (copy_contents(from, to) < 0)
		return error_errno(err, "cannot copy %s into the jail", options->exec_file);
	if (check_program(to, options->exec_file, err) < 0)
		return -err->code;
	/*
	 * A program that its user cannot read makes a process that other processes of this user
	 * cannot trace (ptrace(2), PR_SET_DUMPABLE): a neighbour's monitor, say. To an ordinary
	 * user's own processes this is no wall, and would only be in the user's way.
	 */
	if (fchmod(to, jail->kind == JAIL_USER ? 0555 : 0111) < 0)
		return error_errno(err, "cannot make the copy of %s a program", options->exec_file);
	return 0;
}

void room_undo_copy(struct jail *jail)
{
	if (jail->room.made_copy)
		unlinkat(jail->room.root_fd, jail->options.exec_name, 0);
	jail->room.made_copy = false;
}

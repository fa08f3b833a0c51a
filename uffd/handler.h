/*
 * mayfly-uffd: brings guest memory to monitors that load a snapshot with the backend Uffd.
 *
 * The process listens; each monitor that connects gets a process of its own (main.c), which takes
 * the userfaultfd and the description of its memory (connection.c) and serves until the monitor
 * leaves (serve.c), from a memory file that all of them share through the page cache
 * (memory_image.c). The monitor's side, and the protocol, is include/mayfly/uffd.h.
 */
#ifndef MAYFLY_UFFD_HANDLER_H
#define MAYFLY_UFFD_HANDLER_H

#include "mayfly/error.h"
#include "mayfly/working_set.h"

#define HANDLER_PROGRAM	     "mayfly-uffd"
#define HANDLER_HELP_COMMAND HANDLER_PROGRAM " --help"
#define HANDLER_AROUND_KIB   64	  /* as much as Linux maps around a fault in a file */
#define HANDLER_RECORD_MS    1000 /* how long the faults of a guest belong to its working set */

enum handler_command {
	HANDLER_RUN,
	HANDLER_HELP,
	HANDLER_VERSION
};

struct handler_options {
	enum handler_command command;
	/* These point into argv. */
	const char *socket;
	const char *memory_file;
	const char *working_set; /* NULL: none */
	uint64_t record_ms;
	uint64_t around_bytes; /* what is brought at once for a fault; a power of two */
	bool fill;	       /* bring everything, and be done */
};

/* The message is a sentence which says what to type instead. */
int handler_options_parse(struct handler_options *options, int argc, char **argv,
			  struct error *err);
void handler_options_print_help(void);

/* The memory file, mapped, and where it has data; the rest of it is zero. */
struct memory_image {
	const uint8_t *bytes;
	uint64_t size_bytes; /* of the file, what stands behind the memory included */
	/* What a file of Mayfly's says of itself; 0: it is another's, which says nothing. */
	uint64_t memory_bytes;
	int fd;
};

/* A diff, or what a merge was interrupted in, is -EINVAL. */
int memory_image_open(struct memory_image *image, const char *path, struct error *err);
void memory_image_close(struct memory_image *image);

/* False once the file is shorter than it was when it was opened. */
bool memory_image_is_whole(const struct memory_image *image);

/*
 * How much of [offset, offset + length), from its beginning, is all a hole (zeroes without looking)
 * or all data: whole pages, at least one.
 */
uint64_t memory_image_run(const struct memory_image *image, uint64_t offset, uint64_t length,
			  bool *hole);

#define HANDLER_MAX_REGIONS 16

/* A region of a monitor's memory. */
struct handler_region {
	uint64_t start; /* in the monitor's address space */
	uint64_t size_bytes;
	uint64_t offset; /* in the memory file */
	uint64_t page_bytes;
};

struct connection {
	int fd;	  /* to the monitor; owned */
	int uffd; /* owned */
	struct handler_region regions[HANDLER_MAX_REGIONS];
	unsigned int region_count;
	uint64_t memory_bytes; /* of all regions */
};

/*
 * Takes the first message of a monitor on `fd`, which is taken over. A message that is wrong, or
 * names memory that the image does not have, is -EINVAL; so is a guest of another size than the
 * image is of.
 */
int connection_open(struct connection *connection, int fd, const struct memory_image *image,
		    struct error *err);
void connection_close(struct connection *connection);

/* The regions of a message's text alone. */
int connection_parse(struct connection *connection, const char *text, size_t length,
		     const struct memory_image *image, struct error *err);

/*
 * Gives up all system calls but those that serving takes (filter.c), for good. Before the first
 * byte that the monitor sent is looked at.
 */
int handler_enter_filter(const struct handler_options *options, struct error *err);

/* Brings pages until the monitor leaves (0), or something fails. */
int serve(struct connection *connection, const struct memory_image *image,
	  const struct handler_options *options, struct error *err);

#endif

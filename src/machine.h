/*
 * The machine: everything that exists only between start and end of a guest. vmm.c decides when it
 * is made and what may be asked of it.
 *
 * It is made in two steps, whoever asks: machine_prepare() makes what depends on the machine's
 * shape alone, and may be called long before there is a request (`--prepare`); then machine_boot()
 * or machine_restore() executes the request.
 */
#ifndef MAYFLY_SRC_MACHINE_H
#define MAYFLY_SRC_MACHINE_H

#include "mayfly/config.h"
#include "mayfly/loop.h"
#include "mayfly/state.h"
#include "mayfly/vcpu.h"
#include "mayfly/vmm.h"

struct machine;

struct machine_request {
	const struct vmm_options *options;
	struct loop *loop; /* these two borrowed for the machine's life */
	struct log *log;
	/* Main thread: the guest has ended, or the person at the terminal ended it. */
	void (*on_end)(void *context, int exit_code);
	void *context;
};

/*
 * The first step: address space for guest memory, the VM with its interrupt controllers, vCPUs as
 * after power-on, the devices that every machine has, and the vCPUs' threads, which sleep. Touches
 * no guest memory. `shape` is checked. After a failure nothing is left.
 */
int machine_prepare(struct machine **machine, const struct machine_request *request,
		    const struct machine_config *shape, struct error *err);

/* Whether a prepared machine is what `shape` asks for. */
bool machine_has_shape(const struct machine *machine, const struct machine_config *shape);

/*
 * The second step: loads the kernel and makes the devices. The guest stands still until
 * machine_resume(). `config`, complete and checked, has the shape that was prepared. After a
 * failure the machine is fit for machine_destroy() only.
 */
int machine_boot(struct machine *machine, const struct vm_config *config, struct error *err);

/* Stops the vCPUs, finishes and flushes what the drives have, writes out what the serial port has.
 * NULL is fine. */
void machine_destroy(struct machine *machine);

/*
 * Stops the vCPUs and brings every device to rest: nothing reads or writes guest memory until
 * machine_resume(). Waits for disk requests that are in flight.
 */
struct machine_snapshot {
	const char *state_path, *memory_path;
	bool diff;
	uint64_t data_bytes; /* out: of memory, in the memory file */
};

/* Writes both files of a machine that is paused. They appear once both are complete. */
int machine_save(struct machine *machine, const struct vm_config *config,
		 struct machine_snapshot *snapshot, struct error *err);

/* The configuration within a state file, into `config`, which is zeroed first. */
int machine_read_config(struct state_file *state, struct vm_config *config, struct error *err);

struct machine_fork {
	uint64_t pause_ns, copied_bytes; /* how long the guest stood still; of its memory */
	/* The machine's: for forker_send() only, and as they are until the next fork. */
	int state_fd, base_fd, own_fd;
};

/* Whether the machine can be forked at all; the message is a sentence. */
int machine_check_fork(const struct machine *machine, struct error *err);

/*
 * Freezes what another process goes on from. The machine runs, or does not (`running`), and does so
 * afterwards, whatever the result.
 */
int machine_fork(struct machine *machine, const struct vm_config *config, bool running,
		 struct machine_fork *fork, struct error *err);

/*
 * After that, while the machine goes on: a step of what is left of it, until it returns true. Who
 * gets base_fd seals it, which fails before.
 */
bool machine_go_on_forking(struct machine *machine);

struct machine_restore_request {
	struct state_file *state; /* the rest of it */
	const char *memory_path;  /* a file, or with `uffd` the socket of who brings it */
	bool uffd;
	bool forked; /* from another process's memory, the next two, instead of memory_path */
	int base_fd, own_fd;	      /* base_fd is taken over */
	const char *working_set_path; /* NULL: none */
	bool clock_realtime;	      /* the guest's time goes on as if it had never stopped */
};

/* The second step, from a snapshot. `config` is that of the snapshot, as changed. */
int machine_restore(struct machine *machine, const struct vm_config *config,
		    const struct machine_restore_request *restore, struct error *err);

void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
int machine_send_ctrl_alt_del(struct machine *machine, struct error *err);
int machine_swap_drive(struct machine *machine, unsigned int drive_index,
		       const struct drive_config *config, struct error *err);
/* Changes the buckets that `update` has. */
void machine_limit_drive(struct machine *machine, unsigned int drive_index,
			 const struct rate_limiter_config *update);
void machine_limit_interface(struct machine *machine, unsigned int interface_index,
			     const struct network_interface_update_config *update);

/* The devices' counters, as members of `metrics`. */
void machine_collect_metrics(struct machine *machine, json_t *metrics);

#endif

/*
 * The microVM's life: which state it is in, and what may be asked in each.
 *
 *   Not started --vmm_start--> Running <--vmm_pause / vmm_resume--> Paused
 *   Not started --vmm_load_snapshot--> Paused or Running
 *        any state --guest reset, guest failure, vmm_stop--> ended (vmm_run returns)
 *
 * Every function is for the main thread. Each returns 0 or a negative errno with a message fit for
 * a client
 * (`fault_message`); a refused call changes nothing.
 */
#ifndef MAYFLY_VMM_H
#define MAYFLY_VMM_H

#include "mayfly/config.h"
#include "mayfly/loop.h"

enum vmm_state {
	VMM_NOT_STARTED,
	VMM_RUNNING,
	VMM_PAUSED
};

/* Exit codes of the process, as clients of this API know them. */
enum vmm_exit {
	VMM_EXIT_OK = 0,
	VMM_EXIT_ERROR = 1,
	VMM_EXIT_USAGE = 2,
	VMM_EXIT_BAD_SYSCALL = 148,
	VMM_EXIT_SIGBUS = 149,
	VMM_EXIT_SIGSEGV = 150,
	VMM_EXIT_SIGXFSZ = 151,
	VMM_EXIT_BAD_CONFIG = 152,
	VMM_EXIT_ARGUMENTS = 153,
	VMM_EXIT_SIGXCPU = 154,
	VMM_EXIT_SIGPIPE = 155,
	VMM_EXIT_SIGHUP = 156,
	VMM_EXIT_SIGILL = 157,
};

struct vmm;
struct startup_trace;
struct forker;
struct forker_order;
struct filters;

struct vmm_options {
	const char *id;	    /* of the instance; shown by GET / and in the log */
	bool serial_input;  /* standard input is the guest's serial input */
	bool serial_escape; /* Ctrl-A x on a terminal ends the process (for people; `mayfly run`) */
	bool boot_timer;
	uint64_t start_time_us; /* CLOCK_MONOTONIC at which the process was asked for; 0: unknown */
	struct startup_trace *startup_trace; /* borrowed; NULL: nobody wants it */
	const struct filters *filters;	     /* of system calls; borrowed; NULL: none */
	struct forker *forker;		     /* borrowed; NULL: this microVM cannot be forked */
};

/* Makes the microVM's frame: nothing of KVM is touched. Borrows `loop` and `log`, which outlive it.
 */
int vmm_create(struct vmm **vmm, struct loop *loop, struct log *log,
	       const struct vmm_options *options, struct error *err);

/* Ends what runs: vCPUs stopped, drives drained and flushed, serial output written out, files
 * closed. */
void vmm_destroy(struct vmm *vmm);

enum vmm_state vmm_state(const struct vmm *vmm);
const char *vmm_state_name(enum vmm_state state);
const char *vmm_id(const struct vmm *vmm);
const struct vm_config *vmm_config(const struct vmm *vmm);
struct log *vmm_log(struct vmm *vmm);

/* Configuration; the structs are copied. Refused after the start. */
int vmm_set_boot_source(struct vmm *vmm, const struct boot_source_config *config,
			struct error *err);
int vmm_set_machine(struct vmm *vmm, const struct machine_config *config, struct error *err);
int vmm_set_drive(struct vmm *vmm, const struct drive_config *config, struct error *err);
int vmm_set_network_interface(struct vmm *vmm, const struct network_interface_config *config,
			      struct error *err);
int vmm_set_serial(struct vmm *vmm, const struct serial_config *config, struct error *err);
int vmm_set_logger(struct vmm *vmm, const struct logger_config *config, struct error *err);
int vmm_set_metrics(struct vmm *vmm, const struct metrics_config *config, struct error *err);

/* A config file's content: all of the above. Messages begin with the section. */
int vmm_set_all(struct vmm *vmm, const struct vm_config *config, struct error *err);

/*
 * Changes a drive of a running guest: swaps the file under it, whose new size the guest sees, and
 * changes its rate limiter's buckets. Either may be absent; `update->drive_id` is not looked at.
 */
int vmm_patch_drive(struct vmm *vmm, const char *drive_id, const struct drive_update_config *update,
		    struct error *err);

/* Changes the buckets of an interface's rate limiters; `update->iface_id` is not looked at. */
int vmm_patch_network_interface(struct vmm *vmm, const char *iface_id,
				const struct network_interface_update_config *update,
				struct error *err);

/*
 * Makes ahead, before anything is configured, what a start or a load needs that depends on the
 * machine's shape alone: KVM's objects, the vCPUs' threads. It configures nothing; a start or load
 * of another shape makes them anew. Before the first of either.
 */
int vmm_prepare(struct vmm *vmm, const struct machine_config *shape, struct error *err);

int vmm_start(struct vmm *vmm, struct error *err);
int vmm_pause(struct vmm *vmm, struct error *err);
int vmm_resume(struct vmm *vmm, struct error *err);

/*
 * Writes a paused microVM to two files, which appear whole or not at all. A Diff holds the memory
 * that has changed since the snapshot before it (or since the load); the first one holds all.
 */
int vmm_create_snapshot(struct vmm *vmm, const struct snapshot_create_config *config,
			struct error *err);

/*
 * Makes the microVM that a snapshot holds, paused or running. Refused once it runs or anything of a
 * boot is configured. A load that fails otherwise ends the process: the loop stops with
 * VMM_EXIT_BAD_CONFIG once the client has its answer. Not one which vmm_prepare() was called in: it
 * is then as before the load, but for a machine that was touched.
 */
int vmm_load_snapshot(struct vmm *vmm, const struct snapshot_load_config *config,
		      struct error *err);

/* How a fork went. `err` is NULL when the new monitor is there, and `report` otherwise. */
struct vmm_fork_report {
	pid_t process_id;
	uint64_t pause_us;     /* how long this guest stood still; 0 when it was paused already */
	uint64_t copied_bytes; /* of its memory, before that and in it */
	uint64_t ready_us;     /* until the new monitor answered */
};

/*
 * Makes a second monitor of this one, with a copy of its microVM that shares its memory
 * copy-on-write. Only begins: `on_forked` is called from the loop once the new monitor answers, has
 * failed, or is not made; not after vmm_destroy(). This microVM goes on as it was.
 */
int vmm_fork(struct vmm *vmm, const struct snapshot_fork_config *config,
	     void (*on_forked)(void *context, const struct vmm_fork_report *report,
			       const struct error *err),
	     void *context, struct error *err);

/*
 * The other side, in a process of the forker's (mayfly/forker.h): what it was made for, owned by
 * the caller (config_clear()); and, once its API is there, the microVM, with the order's
 * descriptors. After a failure of that the process has to end.
 */
int vmm_read_order(const struct forker_order *order, struct snapshot_fork_config *config,
		   struct error *err);
int vmm_load_fork(struct vmm *vmm, const struct snapshot_fork_config *config,
		  struct forker_order *order, struct error *err);

int vmm_send_ctrl_alt_del(struct vmm *vmm, struct error *err);
int vmm_flush_metrics(struct vmm *vmm, struct error *err);

#endif

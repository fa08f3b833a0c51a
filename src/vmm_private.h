/* What vmm.c (the microVM's life) and vmm_snapshot.c (its snapshots) share. */
#ifndef MAYFLY_SRC_VMM_PRIVATE_H
#define MAYFLY_SRC_VMM_PRIVATE_H

#include "machine.h"
#include "mayfly/forker.h"
#include "mayfly/vmm.h"
#include "metrics.h"

/* A fork that is under way. */
struct vmm_fork {
	struct loop_source source; /* the forker's answer */
	/* NULL: none is */
	void (*on_forked)(void *context, const struct vmm_fork_report *report,
			  const struct error *err);
	void *context;
	struct vmm_fork_report report;
	uint64_t start_ns;
	/* What comes before the forker is told, in steps; owned words, NULL: it has been. */
	struct loop_timer step;
	char *words;
	int descriptors[FORKER_MAX_DESCRIPTORS];
};

struct vmm {
	struct loop *loop;
	struct log *log;
	struct vmm_options options;
	char id[CONFIG_MAX_ID_BYTES + 1];
	enum vmm_state state;
	struct vm_config config;
	bool machine_configured; /* by somebody; else `config.machine` holds the defaults */
	struct machine *machine; /* from the start on; before it only when it was prepared */
	bool prepares;		 /* this process waits with a prepared machine (vmm_prepare()) */
	struct metrics metrics;
	bool landlocked;
	struct vmm_fork fork;
};

/* -EPERM with the words that clients match. */
int vmm_need_not_started(const struct vmm *vmm, struct error *err);
int vmm_need_started(const struct vmm *vmm, struct error *err);

/*
 * The machine that `config.machine` describes, prepared: the one that waits, or, when there is none
 * or it has another shape, a new one.
 */
int vmm_take_machine(struct vmm *vmm, struct error *err);
void vmm_drop_machine(struct vmm *vmm);

/* The last step of a start before the guest: the timer of the metrics, then this thread's filter of
 * system calls. */
int vmm_enter_filters(struct vmm *vmm, struct error *err);

/* A configuration out of a state, with the overrides of a load; then as this microVM's. */
int vmm_override_config(struct vm_config *config, const struct snapshot_load_config *load,
			struct error *err);
int vmm_take_config(struct vmm *vmm, const struct vm_config *config, struct error *err);

/* Nobody is told of the fork that is under way. */
void vmm_forget_fork(struct vmm *vmm);

/* The first metrics of a guest, if they were asked for. */
void vmm_begin_metrics(struct vmm *vmm);

#endif

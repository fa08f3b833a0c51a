/*
 * What the files of the machine share: machine_prepare.c, machine.c (a boot, life and end, drives),
 * machine_restore.c, machine_save.c, machine_net.c (network interfaces), machine_memory.c.
 */
#ifndef MAYFLY_SRC_MACHINE_PRIVATE_H
#define MAYFLY_SRC_MACHINE_PRIVATE_H

#include "boot_timer.h"
#include "machine.h"
#include "mayfly/boot.h"
#include "mayfly/console.h"
#include "mayfly/i8042.h"
#include "mayfly/memory_file.h"
#include "mayfly/serial.h"
#include "mayfly/uffd.h"
#include "mayfly/snapshot.h"
#include "mayfly/virtio_block.h"
#include "mayfly/virtio_net.h"
#include "mayfly/vm.h"
#include "mayfly/vmgenid.h"
#include "startup_trace.h"

struct machine_drive {
	struct disk *disk; /* until the device takes it */
	struct virtio_block *block;
	int interrupt_fd;
	char id[CONFIG_MAX_ID_BYTES + 1];
};

struct machine_interface {
	struct tap tap; /* until the device takes it */
	struct virtio_net *net;
	int interrupt_fd;
	uint8_t mac[CONFIG_MAC_BYTES];
	uint16_t mtu;
	char id[CONFIG_MAX_ID_BYTES + 1];
};

struct machine {
	struct machine_request request;
	struct machine_config shape;	/* no strings in it */
	const struct vm_config *config; /* what is being made; lent for the second step */
	struct memory memory;
	struct vm vm;
	struct vmgenid vmgenid;
	struct bus pio, mmio;
	struct vcpus *vcpus;
	struct serial serial;
	struct console console;
	struct i8042 i8042;
	struct boot_timer boot_timer;
	struct machine_drive drives[CONFIG_MAX_DRIVES];
	unsigned int drive_count;
	struct machine_interface interfaces[CONFIG_MAX_INTERFACES];
	unsigned int interface_count;
	unsigned int slots[CONFIG_MAX_DRIVES]; /* virtio slot of each drive of the configuration */
	struct loop_source exit_source;
	bool tracks_dirty;
	/* The last snapshot that was made or loaded: what a diff is a diff of. */
	bool has_snapshot;
	struct memory_file_id snapshot_id;
	struct memory_file_id own_id; /* random: what ids of this machine's snapshots are made of */
	struct uffd *uffd;	      /* NULL: nobody brings this machine's memory */
	char *working_set_path;	      /* while it is to be recorded; owned */
	struct loop_timer working_set_timer;
	int state_fd; /* where a fork's state is handed over; -1: this machine is not forked */
};

/*
 * machine_fork.c. Memory of a machine that boots, so that it can be forked; and, as the last thing
 * of a boot or load, the file for its forks' state: the filter allows to make neither later.
 */
int machine_share_memory(struct machine *machine, struct error *err);
int machine_prepare_fork(struct machine *machine, struct error *err);

/* All sections of a state file. The machine is at rest. */
int machine_put_state(struct machine *machine, const struct vm_config *config,
		      const struct memory_file_id *id, struct state_writer *writer,
		      struct error *err);

/* machine_memory.c. Memory that the process behind the socket `path` brings. */
int machine_attach_handler(struct machine *machine, const char *path, struct error *err);

/*
 * With a file at `path`: brings the pages that it names. Without: machine_begin_working_set(), when
 * the guest goes on, begins to record them to it. NULL: neither.
 */
int machine_use_working_set(struct machine *machine, const char *path, struct error *err);
void machine_begin_working_set(struct machine *machine);

/* The last thing: the working set if it is still to be recorded, the handler, memory. */
void machine_release_memory(struct machine *machine);

void machine_mark(struct machine *machine, enum startup_stage stage);

/* Random numbers for the ids of its snapshots, while they can be had: again in every process. */
int machine_draw_id(struct machine *machine, struct error *err);

/*
 * What the second step has in common, whether it boots or restores. machine_take_config() lends
 * `config` to the machine, says how many drives and interfaces there are and gives each its slot;
 * it returns the root drive, NULL when there is none.
 */
const struct drive_config *machine_take_config(struct machine *machine,
					       const struct vm_config *config);
int machine_open_disks(struct machine *machine, const struct vm_config *config, struct error *err);
int machine_add_drive(struct machine *machine, unsigned int index, struct error *err);
int machine_open_console(struct machine *machine, const struct vm_config *config,
			 struct error *err);

/* Where the guest finds a virtio device. Drives have the first slots, interfaces those behind. */
struct boot_virtio_device machine_virtio_slot(unsigned int slot);

/* Connects a virtio device with the buses and with KVM. */
int machine_wire_virtio(struct machine *machine, struct virtio_mmio *mmio, int interrupt_fd,
			unsigned int slot, struct error *err);

void machine_set_counter(json_t *object, const char *name, uint64_t value);

/* The names begin with `prefix`. */
void machine_collect_limiter(const struct rate_limiter_metrics *limiter, const char *prefix,
			     json_t *object);

/* Nothing open yet. */
void machine_init_interfaces(struct machine *machine);
int machine_open_taps(struct machine *machine, const struct vm_config *config, struct error *err);
int machine_add_interfaces(struct machine *machine, struct error *err);
void machine_pause_interfaces(struct machine *machine);
void machine_resume_interfaces(struct machine *machine);
void machine_destroy_interfaces(struct machine *machine);
void machine_collect_interfaces(struct machine *machine, json_t *metrics);

#endif

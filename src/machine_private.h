/*
 * What the files of the machine share: machine.c (the machine and its drives) and machine_net.c
 * (its network interfaces).
 */
#ifndef MAYFLY_SRC_MACHINE_PRIVATE_H
#define MAYFLY_SRC_MACHINE_PRIVATE_H

#include "boot_timer.h"
#include "machine.h"
#include "mayfly/boot.h"
#include "mayfly/console.h"
#include "mayfly/i8042.h"
#include "mayfly/serial.h"
#include "mayfly/virtio_block.h"
#include "mayfly/virtio_net.h"
#include "mayfly/vm.h"
#include "mayfly/vmgenid.h"

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
};

/* Where the guest finds a virtio device. Drives have the first slots, interfaces those behind. */
struct boot_virtio_device machine_virtio_slot(unsigned int slot);

/* Connects a virtio device with the buses and with KVM. */
int machine_wire_virtio(struct machine *machine, struct virtio_mmio *mmio, int interrupt_fd,
			unsigned int slot, struct error *err);

void machine_set_counter(json_t *object, const char *name, uint64_t value);

/* The names begin with `prefix`. */
void machine_collect_limiter(const struct rate_limiter_metrics *limiter, const char *prefix,
			     json_t *object);

/* Nothing open yet, for as many as the configuration says. */
void machine_init_interfaces(struct machine *machine);
int machine_open_taps(struct machine *machine, const struct vm_config *config, struct error *err);
int machine_add_interfaces(struct machine *machine, struct error *err);
void machine_pause_interfaces(struct machine *machine);
void machine_resume_interfaces(struct machine *machine);
void machine_destroy_interfaces(struct machine *machine);
void machine_collect_interfaces(struct machine *machine, json_t *metrics);

#endif

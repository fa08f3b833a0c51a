/*
 * The i8042: as much of a PC's keyboard controller as a guest needs to restart its machine, to be
 * probed without a time-out, and to be told Ctrl-Alt-Del. No mouse port.
 *
 * The register side runs on vCPU threads, several at once, under one mutex. Ports 0x60 and 0x64 are
 * two bus devices: what lies between them (0x61: the PIT's speaker gate) is KVM's.
 *
 * IBM PS/2 Hardware Interface Technical Reference (1990), "Keyboard and Auxiliary Device
 * Controller"; Intel UPI-42.
 */
#ifndef MAYFLY_I8042_H
#define MAYFLY_I8042_H

#include <pthread.h>
#include <stdatomic.h>
#include "mayfly/bus.h"
#include "mayfly/state.h"

/* Together no more than the 16 bytes that Linux's driver flushes before it takes the controller for
 * broken. */
#define I8042_ANSWERS 5
#define I8042_KEYS    11 /* one Ctrl-Alt-Del in scan code set 2 */

#define I8042_RAM_BYTES 32

/* Bytes on their way to the guest; the high half of an entry holds the status bits that mark it. */
struct i8042_queue {
	uint16_t entries[I8042_KEYS];
	uint8_t head, count, limit;
};

struct i8042_metrics {
	_Atomic uint64_t resets;	/* asked for by the guest */
	_Atomic uint64_t ctrl_alt_dels; /* typed */
	_Atomic uint64_t dropped_bytes; /* answers to a guest that left those before unread */
};

struct i8042 {
	struct bus_device data; /* attach both to the port I/O bus */
	struct bus_device command;
	int irq_fd; /* eventfd: each write to it is one edge on LAYOUT_IRQ_I8042 */
	void (*on_reset)(void *context);
	void *context;
	struct i8042_metrics metrics;

	pthread_mutex_t lock;	      /* for all below */
	uint8_t ram[I8042_RAM_BYTES]; /* [0] is the command byte */
	uint8_t output_port;
	uint8_t command_pending;  /* the controller command that waits for its data byte; 0: none */
	uint8_t keyboard_pending; /* likewise the keyboard's */
	bool last_write_was_command;
	bool scanning;			  /* the keyboard sends keys */
	struct i8042_queue answers, keys; /* answers, the keyboard's too, go first */
	const struct i8042_queue
		*signalled; /* whose head an edge was sent for; NULL: none since the last read */
	uint8_t last_data;
	bool ready; /* between init and destroy */
};

/*
 * Power-on state at LAYOUT_PORT_I8042_DATA and _COMMAND. `on_reset` is called when the guest pulses
 * the reset line, on the vCPU thread that did it, without the lock, perhaps on several at once.
 * Owns irq_fd until i8042_destroy().
 */
int i8042_init(struct i8042 *i8042, void (*on_reset)(void *context), void *context,
	       struct error *err);

/* No other thread may use it any more. Safe on a zeroed struct and twice. */
void i8042_destroy(struct i8042 *i8042);

/* As section "i8042"; no vCPU runs. Reads it into one in its power-on state. */
void i8042_save(struct i8042 *i8042, struct state_writer *writer);
int i8042_restore(struct i8042 *i8042, struct state_file *file, struct error *err);

/* After i8042_restore(), before vCPUs run: sends the interrupt that was on its way. */
void i8042_resume(struct i8042 *i8042);

/*
 * Types Ctrl-Alt-Del. Any thread. -EBUSY, and nothing typed, when the guest has not yet taken what
 * was typed before or has switched the keyboard off.
 */
int i8042_send_ctrl_alt_del(struct i8042 *i8042, struct error *err);

#endif

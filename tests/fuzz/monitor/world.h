/*
 * The world of monitor_fuzz.c: a monitor, its client and its guest, whose steps are in guest.c.
 */
#ifndef TESTS_FUZZ_MONITOR_WORLD_H
#define TESTS_FUZZ_MONITOR_WORLD_H

#include "fake.h"
#include "fake_forker.h"
#include "mayfly/api.h"
#include "mayfly/layout.h"

#define CONNECTIONS 3

enum step {
	STEP_PIO,
	STEP_MMIO,
	STEP_REGISTER,
	STEP_BYTES,
	STEP_START_DRIVER,
	STEP_BLOCK,
	STEP_FRAME_OUT,
	STEP_BUFFER_IN,
	STEP_WIRE,
	STEP_TERMINAL,
	STEP_EXIT,
	STEP_REQUEST,
	STEP_CLIENT_BYTES,
	STEP_CONNECT,
	STEP_CLOCK,
	STEP_OVERLAP,
	STEP_FORKER,
	STEP_DAMAGE,
	STEP_NEXT_MONITOR,
	STEP_COUNT
};

struct world {
	struct log log;
	struct loop loop;
	struct vmm *vmm;
	struct api_server *api;
	int clients[CONNECTIONS];
	bool started[CONNECTIONS]; /* an answer has begun */
	unsigned int client;
	unsigned int vcpu;
	unsigned int overlap; /* so many steps do not wait */
	bool ended;
	struct fake_forker forker;
	uint16_t available[LAYOUT_MAX_VIRTIO_DEVICES][2];
};

bool guest_runs(const struct world *world);

/* Until the vCPUs rest, unless the input says that the next steps overlap. */
void guest_settle(struct world *world);

/* An access of 1 to 8 bytes, on the vCPU whose turn it is. */
void guest_mmio(struct world *world, bool write, uint64_t address, uint64_t value,
		unsigned int size);

/* The registers of a virtio device; 0x80: in the second window. */
uint64_t guest_window(unsigned int slot);

/* STEP_PIO to STEP_EXIT. */
void guest_step(struct world *world, unsigned int step, struct fuzz_input *input);

#endif

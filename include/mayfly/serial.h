/*
 * The serial port: a 16550A UART on eight I/O ports, and the two buffers between the guest and the
 * host.
 *
 *   guest --THR--> output ring --peek/consume--> console --> stdout, file
 *   guest <--RBR-- FIFO (16) <-- input buffer <--put-- console <-- terminal, pipe, file
 *
 * The register side runs on vCPU threads, several at once, and never waits for the host: a byte
 * that finds the output ring full is dropped and counted. The host side is the main thread
 * (console.h). One mutex guards everything.
 *
 * PC16550D data sheet (National Semiconductor, 1995), section 8 "Registers".
 */
#ifndef MAYFLY_SERIAL_H
#define MAYFLY_SERIAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "mayfly/bus.h"
#include "mayfly/state.h"

#define SERIAL_FIFO_BYTES   16
#define SERIAL_INPUT_BYTES  1024
#define SERIAL_OUTPUT_BYTES 131072 /* touched only as far as it fills */

struct serial_metrics {
	_Atomic uint64_t tx_bytes; /* written by the guest, the dropped ones among them */
	_Atomic uint64_t rx_bytes; /* received by the guest's FIFO */
	_Atomic uint64_t
		dropped_bytes; /* output that no reader took: ring full, reader gone, sink failed */
};

/* What the guest can see or has set: the registers, and the receive FIFO. */
struct serial_registers {
	uint8_t interrupt_enable;
	uint8_t fifo_control;
	uint8_t line_control;
	uint8_t modem_control;
	uint8_t modem_status; /* the low half (deltas) is kept here, the high half follows
				 modem_control */
	uint8_t line_errors;  /* overrun, by loopback only: cleared by reading LSR */
	uint8_t scratch;
	uint8_t divisor[2];
	bool thr_empty_pending; /* the transmitter-empty interrupt was not taken yet */
	bool rts_seen;		/* the guest drives RTS: it is flow control from then on */
	uint8_t lsr_polls;	/* LSR reads in a row, nothing else between */
	uint8_t fifo[SERIAL_FIFO_BYTES];
	uint8_t fifo_head, fifo_count;
};

struct serial {
	struct bus_device device; /* attach it to the port I/O bus */
	int irq_fd;		  /* eventfd: each write to it is one edge on LAYOUT_IRQ_SERIAL */
	int host_fd;		  /* eventfd: output is waiting, or the input buffer ran empty */
	struct serial_metrics metrics;

	pthread_mutex_t lock; /* for all below */
	struct serial_registers registers;
	uint8_t signalled;   /* interrupt causes for which an edge was sent and which still hold */
	bool input_watched;  /* the host wants to know when all input was taken */
	bool output_watched; /* ... and when the empty ring gets its first byte */
	uint8_t input[SERIAL_INPUT_BYTES];
	uint32_t input_head, input_count;
	uint8_t *output; /* SERIAL_OUTPUT_BYTES, a mapping of its own */
	uint32_t output_head, output_count;
};

/* Power-on state at LAYOUT_PORT_SERIAL. Owns its eventfds and buffers until serial_destroy(). Main
 * thread. */
int serial_init(struct serial *serial, struct error *err);

/* No other thread may use it any more. Safe on a zeroed struct and twice. */
void serial_destroy(struct serial *serial);

/*
 * Writes registers, FIFO, input that the guest has not taken and output that the host has not, as
 * section "serial"; no vCPU runs. Reads it into a port in its power-on state, before the console is
 * opened on it: that one writes the output.
 */
void serial_save(struct serial *serial, struct state_writer *writer);
int serial_restore(struct serial *serial, struct state_file *file, struct error *err);

/* After serial_restore(), before vCPUs run: sends the interrupts that were on their way. */
void serial_resume(struct serial *serial);

/*
 * The host side: main thread only.
 */

/* Gives input to the guest; returns how many bytes fitted. host_fd tells when the guest has taken
 * all of it. */
size_t serial_put_input(struct serial *serial, const uint8_t *data, size_t length);

/* How much input the guest has not taken, without what is in the FIFO. */
size_t serial_input_waiting(struct serial *serial);

/* Whether the guest has taken all of it, out of the FIFO too. */
bool serial_input_taken(struct serial *serial);

/*
 * Whether host_fd tells of output that comes to an empty ring; it does from the start. Without, the
 * host looks by itself. Turning it on tells at once when output is there.
 */
void serial_watch_output(struct serial *serial, bool watched);

/* The oldest output that lies in one piece: points `data` to it and returns its length; valid until
 * consumed. */
size_t serial_peek_output(struct serial *serial, const uint8_t **data);

/* Takes `length` bytes, no more than were peeked, out of the ring. */
void serial_consume_output(struct serial *serial, size_t length);

#endif

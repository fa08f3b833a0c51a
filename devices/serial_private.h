/*
 * The 16550A's registers and bits, and what the two halves of the serial port share: serial.c (the
 * guest's side) and serial_host.c (the host's).
 *
 * PC16550D, section 8, table II.
 */
#ifndef DEVICES_SERIAL_PRIVATE_H
#define DEVICES_SERIAL_PRIVATE_H

#include "mayfly/serial.h"

/* Registers by port, and what LCR's DLAB puts over the first two. */
enum {
	REG_DATA,
	REG_IER,
	REG_IIR_FCR,
	REG_LCR,
	REG_MCR,
	REG_LSR,
	REG_MSR,
	REG_SCR
};

#define IER_RX	  0x01
#define IER_THRE  0x02
#define IER_LINE  0x04
#define IER_MODEM 0x08
#define IER_ALL	  0x0f

#define IIR_MODEM   0x00
#define IIR_NONE    0x01
#define IIR_THRE    0x02
#define IIR_RX	    0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c /* bytes wait, fewer than the trigger level */
#define IIR_FIFO    0xc0

#define FCR_ENABLE	  0x01
#define FCR_CLEAR_RX	  0x02
#define FCR_CLEAR_TX	  0x04
#define FCR_KEPT	  0xc9 /* trigger level, DMA mode, enable */
#define FCR_TRIGGER_SHIFT 6

#define LCR_DLAB 0x80

#define MCR_DTR	 0x01
#define MCR_RTS	 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_ALL	 0x1f

#define LSR_DATA_READY 0x01
#define LSR_OVERRUN    0x02
#define LSR_THRE       0x20
#define LSR_TEMT       0x40

#define MSR_DELTAS	0x0f
#define MSR_DRI		0x04 /* the only one that marks one direction: the ring indicator went off */
#define MSR_CTS		0x10
#define MSR_DSR		0x20
#define MSR_RI		0x40
#define MSR_DCD		0x80
#define MSR_DELTA_SHIFT 4

/* So many LSR reads with nothing between are a guest that waits for input; Linux's console reads it
 * once per byte. */
#define LSR_POLLS_WAITING 64

/*
 * After every change of the registers or the input buffer, under the lock: fills the FIFO, tells
 * the host when everything was taken, sends the interrupt's edges.
 */
void serial_update(struct serial *serial);

/* Adds one to an eventfd. */
void serial_signal(int fd);

#endif

/*
 * Flow control from end to end: the console on its loop, and a guest with a 16550A driver and a
 * terminal of the kind that Linux has. Every register access of the guest is a step, and before any
 * of them the host may take any of its own, as chance has it.
 *
 * Nobody may wait for a wake-up that was lost. That shows as a state in which neither the guest nor
 * the host has anything to do, though not all bytes have arrived: seen at once, whatever the speed.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "console_helper.h"

#define PASTE_BYTES 49152u /* fits into a pipe */
#define LINE_BYTES  4096u  /* what the terminal keeps for its reader */
#define ROOM_LOW    128u   /* less room than this: RTS goes down */
#define LEFT_LOW    128u   /* no more than this left: RTS comes back */
#define HANDLER_MAX 256u   /* bytes which the handler takes between two looks at IIR */
#define TX_BYTES    16u

/* Far more than the pause between two bursts: who sleeps so long will not wake. */
#define ASLEEP_MS 10000

struct driver {
	unsigned int ier, mcr;
	bool throttled;
	size_t in_line; /* bytes that the reader has not read yet */
	size_t received, sent;
	uint8_t paste[PASTE_BYTES], arrived[PASTE_BYTES];
};

static struct rig rig;
static struct driver driver;
static struct loop_source now;
static unsigned int seed;
static int now_fd;

static unsigned int chance(unsigned int of)
{
	return (unsigned int)rand_r(&seed) % of;
}

static void stop_now(struct loop_source *source, uint32_t events)
{
	(void)source;
	(void)events;
	loop_stop(&rig.loop, 0);
}

/* What the loop has to do now, or a part of it; never waits. */
static void host_step(void)
{
	cr_assert_eq(loop_add(&rig.loop, &now, now_fd, EPOLLIN, stop_now, NULL), 0);
	cr_assert_eq(loop_run(&rig.loop), 0);
	loop_remove(&rig.loop, &now);
	loop_run_timers(&rig.loop); /* a loop that is stopped leaves them */
}

static unsigned int in(unsigned int port)
{
	if (chance(24) == 0)
		host_step();
	return rig_in(&rig, port);
}

static void out(unsigned int port, unsigned int value)
{
	if (chance(24) == 0)
		host_step();
	rig_out(&rig, port, value);
}

static void set_ier(unsigned int ier)
{
	driver.ier = ier;
	out(REG_IER, ier);
}

static void receive(void)
{
	unsigned int limit = HANDLER_MAX;

	do {
		cr_assert_lt(driver.received, PASTE_BYTES);
		driver.arrived[driver.received++] = (uint8_t)in(REG_DATA);
		driver.in_line++;
	} while (--limit && (in(REG_LSR)&LSR_DATA_READY));
}

/* Sends back what came in. */
static void send(void)
{
	for (unsigned int i = 0; i < TX_BYTES && driver.sent < driver.received; i++)
		out(REG_DATA, driver.arrived[driver.sent++]);
	if (driver.sent == driver.received)
		set_ier(driver.ier & ~(unsigned int)IER_THRE);
}

static void handle_interrupt(void)
{
	while (!(in(REG_IIR_FCR)&IIR_NONE)) {
		unsigned int status = in(REG_LSR);

		if (status & LSR_DATA_READY)
			receive();
		in(REG_MSR);
		if ((status & LSR_THRE) && (driver.ier & IER_THRE))
			send();
	}
}

static void set_rts(bool on)
{
	driver.throttled = !on;
	driver.mcr = on ? driver.mcr | MCR_RTS : driver.mcr & ~(unsigned int)MCR_RTS;
	out(REG_MCR, driver.mcr);
}

/* A kernel message, which the driver writes with its interrupts off. */
static void print_message(void)
{
	out(REG_IER, 0);
	in(REG_LSR);
	out(REG_IER, driver.ier);
}

/* A change of the terminal's settings: the registers are written anew, to much the same. */
static void set_line(void)
{
	out(REG_IER, driver.ier);
	out(REG_LCR, LCR_DLAB | 3);
	out(REG_DATA, 1);
	out(REG_IER, 0); /* the divisor's upper half */
	out(REG_LCR, 3);
	out(REG_IIR_FCR, FCR_ENABLE);
	out(REG_IIR_FCR, FCR_ENABLE | chance(4) << FCR_TRIGGER_SHIFT);
	out(REG_MCR, driver.mcr);
}

/* Does one thing that the guest has to do; false when there is none. */
static bool guest_step(void)
{
	uint64_t edges;
	size_t length;

	if (chance(200) == 0)
		print_message();
	if (chance(2000) == 0)
		set_line();
	if (read(rig.serial.irq_fd, &edges, sizeof(edges)) == (ssize_t)sizeof(edges)) {
		handle_interrupt();
		return true;
	}
	if (!driver.throttled && driver.in_line + ROOM_LOW > LINE_BYTES) {
		set_rts(false);
		return true;
	}
	if (driver.in_line && chance(8) == 0) {
		length = 1 + chance(LINE_BYTES);
		driver.in_line -= length < driver.in_line ? length : driver.in_line;
		if (driver.throttled && driver.in_line <= LEFT_LOW)
			set_rts(true);
		return true;
	}
	if (driver.sent < driver.received && !(driver.ier & IER_THRE)) {
		set_ier(driver.ier | IER_THRE);
		return true;
	}
	return driver.in_line > 0;
}

static bool all_arrived(void)
{
	return driver.received == PASTE_BYTES && driver.sent == PASTE_BYTES;
}

/* Until a descriptor is ready or a timer is due. False: neither will be. */
static bool wait_for_somebody(void)
{
	const struct loop_timer *timer = rig.loop.timers;
	uint64_t now_ns = loop_now_ns(&rig.loop);
	uint64_t left_ns = timer && timer->at_ns > now_ns ? timer->at_ns - now_ns : 0;
	struct epoll_event event;

	return epoll_wait(rig.loop.epoll_fd, &event, 1,
			  timer ? (int)(left_ns / 1000000 + 1) : ASLEEP_MS) == 1 ||
	       timer;
}

static void assert_somebody_is_awake(unsigned int run)
{
	cr_assert(
		wait_for_somebody(),
		"run %u: all sleep after %zu bytes in, %zu out; RTS %s, %u wait in the buffer and %u in the FIFO",
		run, driver.received, driver.sent, driver.throttled ? "down" : "up",
		rig.serial.input_count, rig.serial.registers.fifo_count);
}

static void paste_with_flow_control(unsigned int run)
{
	static uint8_t echoed[PASTE_BYTES];
	int ends[2];

	seed = run;
	memset(&driver, 0, sizeof(driver));
	for (size_t i = 0; i < PASTE_BYTES; i++)
		driver.paste[i] = (uint8_t)chance(256);
	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	cr_assert_eq(write(ends[1], driver.paste, PASTE_BYTES), (ssize_t)PASTE_BYTES);
	cr_assert(rig_init(&rig));
	driver.ier = IER_RX | IER_LINE;
	driver.mcr = MCR_DTR | MCR_RTS | MCR_OUT2;
	set_ier(driver.ier);
	rig.options.input_fd = ends[0];
	rig.options.output_fd = memfd_create("output", MFD_CLOEXEC);
	cr_assert_eq(rig_open(&rig, NULL), 0);

	while (!all_arrived()) {
		bool busy = guest_step();

		if (!busy)
			assert_somebody_is_awake(run);
		if (!busy || chance(4) == 0)
			host_step();
	}
	console_close(&rig.console);
	cr_assert_eq(memcmp(driver.arrived, driver.paste, PASTE_BYTES), 0, "run %u", run);
	cr_assert_eq(pread(rig.options.output_fd, echoed, PASTE_BYTES, 0), (ssize_t)PASTE_BYTES);
	cr_assert_eq(memcmp(echoed, driver.paste, PASTE_BYTES), 0, "run %u: the echo", run);
	close(rig.options.output_fd);
	close(ends[0]);
	close(ends[1]);
	rig_destroy(&rig);
}

Test(serial_flow, a_paste_into_a_slow_terminal_never_stalls, .timeout = 240)
{
	now_fd = eventfd(1, EFD_CLOEXEC);
	cr_assert_geq(now_fd, 0);
	for (unsigned int run = 1; run <= 20; run++)
		paste_with_flow_control(run);
	close(now_fd);
}

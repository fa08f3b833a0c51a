/*
 * The 16550A UART: registers, interrupt causes and the buffers behind them.
 *
 * The transmitter has no speed: a byte written to THR is out (in the ring, or dropped) before the
 * write returns, so THRE and TEMT are always set. The receiver has none either, but it has flow
 * control: bytes wait in the input buffer while the FIFO is full, and as long as the guest is not
 * ready to receive. Ready means RTS, for a guest that ever raised it, since a driver raises it once
 * its start-up, which clears the FIFO and reads RBR into nowhere, is over; what was typed or piped
 * ahead is thus not lost. For guests that never touch RTS it means the receive interrupt enabled or
 * LSR polled in a loop.
 *
 * Interrupts are edges (layout.h). A real UART's line is the OR of its causes; what a driver relies
 * on is that after IIR has said "none", any cause that comes makes an edge. Here each cause makes
 * its own edge when it goes from off to on, which covers that, and also a handler that serves one
 * cause per interrupt. A cause that stays on makes no second edge: Linux would count those against
 * the line as spurious ("nobody cared").
 *
 * PC16550D, section 8: 8.1 LCR, 8.4 LSR, 8.5 FCR, 8.6 IIR, 8.7 IER, 8.8 MCR, 8.9 MSR, 8.11 FIFO
 * interrupts.
 */
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "serial_private.h"

void serial_signal(int fd)
{
	uint64_t one = 1;

	/* Fails only when the counter is about to wrap, and then the other side has a wake-up
	 * waiting anyway. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

static bool fifo_enabled(const struct serial_registers *r)
{
	return r->fifo_control & FCR_ENABLE;
}

static uint8_t fifo_room(const struct serial_registers *r)
{
	uint8_t size = fifo_enabled(r) ? SERIAL_FIFO_BYTES : 1;

	return r->fifo_count < size ? (uint8_t)(size - r->fifo_count) : 0;
}

static void fifo_push(struct serial_registers *r, uint8_t byte)
{
	r->fifo[(r->fifo_head + r->fifo_count) % SERIAL_FIFO_BYTES] = byte;
	r->fifo_count++;
}

static void fifo_clear(struct serial_registers *r)
{
	r->fifo_head = 0;
	r->fifo_count = 0;
}

/* The four lines from the other side: a terminal that is always there, or in loopback our own
 * outputs. */
static uint8_t modem_lines(const struct serial_registers *r)
{
	uint8_t mcr = r->modem_control;

	if (!(mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)((mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
			 (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0));
}

/* The causes that hold now, as IER bits. */
static uint8_t interrupt_causes(const struct serial_registers *r)
{
	uint8_t causes = (uint8_t)((r->line_errors ? IER_LINE : 0) | (r->fifo_count ? IER_RX : 0) |
				   (r->thr_empty_pending ? IER_THRE : 0) |
				   (r->modem_status & MSR_DELTAS ? IER_MODEM : 0));

	return causes & r->interrupt_enable;
}

static uint8_t interrupt_identity(const struct serial_registers *r)
{
	static const uint8_t trigger_levels[] = { 1, 4, 8, 14 };
	uint8_t causes = interrupt_causes(r);
	uint8_t fifo = fifo_enabled(r) ? IIR_FIFO : 0;

	if (causes & IER_LINE)
		return fifo | IIR_LINE;
	if (causes & IER_RX) {
		if (fifo && r->fifo_count < trigger_levels[r->fifo_control >> FCR_TRIGGER_SHIFT])
			return fifo | IIR_TIMEOUT;
		return fifo | IIR_RX;
	}
	if (causes & IER_THRE)
		return fifo | IIR_THRE;
	if (causes & IER_MODEM)
		return fifo | IIR_MODEM;
	return fifo | IIR_NONE;
}

static bool ready_to_receive(const struct serial_registers *r)
{
	if (r->modem_control & MCR_LOOP)
		return false;
	if (r->rts_seen)
		return r->modem_control & MCR_RTS;
	return (r->interrupt_enable & IER_RX) || r->lsr_polls >= LSR_POLLS_WAITING;
}

/* Moves what fits from the input buffer to the FIFO, and tells the host when the guest has taken
 * everything. */
static void receive(struct serial *serial)
{
	struct serial_registers *r = &serial->registers;
	uint32_t moved = 0;

	if (ready_to_receive(r)) {
		while (serial->input_count && fifo_room(r)) {
			fifo_push(r, serial->input[serial->input_head]);
			serial->input_head = (serial->input_head + 1) % SERIAL_INPUT_BYTES;
			serial->input_count--;
			moved++;
		}
	}
	if (moved)
		atomic_fetch_add_explicit(&serial->metrics.rx_bytes, moved, memory_order_relaxed);
	if (serial->input_watched && !serial->input_count && !r->fifo_count) {
		serial->input_watched = false;
		serial_signal(serial->host_fd);
	}
}

void serial_update(struct serial *serial)
{
	uint8_t causes;

	receive(serial);
	causes = interrupt_causes(&serial->registers);
	if (causes & ~serial->signalled)
		serial_signal(serial->irq_fd);
	serial->signalled = causes;
}

static void transmit(struct serial *serial, uint8_t byte)
{
	uint32_t tail = (serial->output_head + serial->output_count) % SERIAL_OUTPUT_BYTES;

	atomic_fetch_add_explicit(&serial->metrics.tx_bytes, 1, memory_order_relaxed);
	if (serial->output_count == SERIAL_OUTPUT_BYTES) {
		atomic_fetch_add_explicit(&serial->metrics.dropped_bytes, 1, memory_order_relaxed);
		return;
	}
	serial->output[tail] = byte;
	if (serial->output_count++ == 0 && serial->output_watched)
		serial_signal(serial->host_fd);
}

static void loop_back(struct serial_registers *r, uint8_t byte)
{
	if (fifo_room(r)) {
		fifo_push(r, byte);
		return;
	}
	/* The FIFO keeps what it has; without it, the new byte takes the old one's place. */
	r->line_errors |= LSR_OVERRUN;
	if (!fifo_enabled(r))
		r->fifo[r->fifo_head] = byte;
}

static void write_thr(struct serial *serial, uint8_t value)
{
	struct serial_registers *r = &serial->registers;

	if (r->modem_control & MCR_LOOP)
		loop_back(r, value);
	else
		transmit(serial, value);
	/*
	 * The write takes the interrupt back, and the byte, gone at once, brings it again. An
	 * interrupt that was pending just stays so: its edge is on its way, and the handler has yet
	 * to read IIR.
	 */
	r->thr_empty_pending = true;
}

static void write_ier(struct serial_registers *r, uint8_t value)
{
	/* Enabling it while the transmitter is empty raises it, each time: drivers test for that.
	 */
	if ((value & IER_THRE) && !(r->interrupt_enable & IER_THRE))
		r->thr_empty_pending = true;
	r->interrupt_enable = value & IER_ALL;
}

static void write_fcr(struct serial_registers *r, uint8_t value)
{
	bool switched = (value ^ r->fifo_control) & FCR_ENABLE;

	/* The other bits count only together with the enable bit. */
	if (!(value & FCR_ENABLE))
		value = 0;
	if (switched || (value & FCR_CLEAR_RX))
		fifo_clear(r);
	if (value & FCR_CLEAR_TX)
		r->thr_empty_pending = true;
	r->fifo_control = value & FCR_KEPT;
}

static void write_mcr(struct serial_registers *r, uint8_t value)
{
	uint8_t before = modem_lines(r), after, changed;

	r->modem_control = value & MCR_ALL;
	if ((value & MCR_RTS) && !(value & MCR_LOOP))
		r->rts_seen = true;
	after = modem_lines(r);
	changed = (uint8_t)((before ^ after) >> MSR_DELTA_SHIFT);
	if (after & MSR_RI)
		changed &= (uint8_t)~MSR_DRI;
	r->modem_status |= changed;
}

static uint8_t read_rbr(struct serial_registers *r)
{
	uint8_t byte;

	if (!r->fifo_count)
		return 0;
	byte = r->fifo[r->fifo_head];
	r->fifo_head = (uint8_t)((r->fifo_head + 1) % SERIAL_FIFO_BYTES);
	r->fifo_count--;
	return byte;
}

static uint8_t read_iir(struct serial_registers *r)
{
	uint8_t identity = interrupt_identity(r);

	/* Reading takes the transmitter's interrupt, but only when it is the one that is told. */
	if ((identity & ~IIR_FIFO) == IIR_THRE)
		r->thr_empty_pending = false;
	return identity;
}

static uint8_t read_lsr(struct serial_registers *r)
{
	uint8_t value = LSR_THRE | LSR_TEMT | r->line_errors;

	if (r->fifo_count)
		value |= LSR_DATA_READY;
	r->line_errors = 0;
	if (r->lsr_polls < LSR_POLLS_WAITING)
		r->lsr_polls++;
	return value;
}

static uint8_t read_msr(struct serial_registers *r)
{
	uint8_t value = modem_lines(r) | r->modem_status;

	r->modem_status = 0;
	return value;
}

static uint8_t read_register(struct serial *serial, uint64_t port)
{
	struct serial_registers *r = &serial->registers;

	switch (port) {
	case REG_DATA:
		return r->line_control & LCR_DLAB ? r->divisor[0] : read_rbr(r);
	case REG_IER:
		return r->line_control & LCR_DLAB ? r->divisor[1] : r->interrupt_enable;
	case REG_IIR_FCR:
		return read_iir(r);
	case REG_LCR:
		return r->line_control;
	case REG_MCR:
		return r->modem_control;
	case REG_LSR:
		return read_lsr(r);
	case REG_MSR:
		return read_msr(r);
	default:
		return r->scratch;
	}
}

static void write_register(struct serial *serial, uint64_t port, uint8_t value)
{
	struct serial_registers *r = &serial->registers;

	switch (port) {
	case REG_DATA:
		if (r->line_control & LCR_DLAB)
			r->divisor[0] = value;
		else
			write_thr(serial, value);
		break;
	case REG_IER:
		if (r->line_control & LCR_DLAB)
			r->divisor[1] = value;
		else
			write_ier(r, value);
		break;
	case REG_IIR_FCR:
		write_fcr(r, value);
		break;
	case REG_LCR:
		r->line_control = value;
		break;
	case REG_MCR:
		write_mcr(r, value);
		break;
	case REG_SCR:
		r->scratch = value;
		break;
	default: /* LSR and MSR: factory test and nothing */
		break;
	}
}

static void forget_lsr_polls(struct serial_registers *r, uint64_t port)
{
	if (port != REG_LSR && r->lsr_polls < LSR_POLLS_WAITING)
		r->lsr_polls = 0;
}

/* A wide access to this eight-bit device is one access to each port in turn, as the ISA bus splits
 * it. */
static void serial_read(struct bus_device *device, uint64_t offset, uint8_t *data, size_t length)
{
	struct serial *serial = container_of(device, struct serial, device);

	pthread_mutex_lock(&serial->lock);
	for (size_t i = 0; i < length; i++) {
		data[i] = read_register(serial, offset + i);
		forget_lsr_polls(&serial->registers, offset + i);
		serial_update(serial);
	}
	pthread_mutex_unlock(&serial->lock);
}

static void serial_write(struct bus_device *device, uint64_t offset, const uint8_t *data,
			 size_t length)
{
	struct serial *serial = container_of(device, struct serial, device);

	pthread_mutex_lock(&serial->lock);
	for (size_t i = 0; i < length; i++) {
		write_register(serial, offset + i, data[i]);
		forget_lsr_polls(&serial->registers, offset + i);
		serial_update(serial);
	}
	pthread_mutex_unlock(&serial->lock);
}

static const struct bus_ops serial_ops = {
	.read = serial_read,
	.write = serial_write,
};

int serial_init(struct serial *serial, struct error *err)
{
	cleanup_fd int irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	cleanup_fd int host_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	void *output;

	memset(serial, 0, sizeof(*serial));
	if (irq_fd < 0 || host_fd < 0)
		return error_errno(err, "serial port: cannot make an eventfd");
	/* A mapping, so that memory is used only as far as the ring ever fills. */
	output = mmap(NULL, SERIAL_OUTPUT_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (output == MAP_FAILED)
		return error_errno(err, "serial port: cannot map the output buffer");

	serial->device = (struct bus_device) {
		.ops = &serial_ops,
		.base = LAYOUT_PORT_SERIAL,
		.length = LAYOUT_PORT_SERIAL_COUNT,
		.name = "serial",
	};
	pthread_mutex_init(&serial->lock, NULL);
	serial->output = output;
	serial->output_watched = true;
	serial->registers.divisor[0] = 1; /* 115200 baud */
	serial->irq_fd = take_fd(&irq_fd);
	serial->host_fd = take_fd(&host_fd);
	return 0;
}

void serial_destroy(struct serial *serial)
{
	if (!serial->output)
		return;
	munmap(serial->output, SERIAL_OUTPUT_BYTES);
	serial->output = NULL;
	close_fd(&serial->irq_fd);
	close_fd(&serial->host_fd);
	pthread_mutex_destroy(&serial->lock);
}

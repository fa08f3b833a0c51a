/* The serial port: see console.h. */
#include "console.h"
#include "cpu.h"
#include "interrupts.h"

#define PORT 0x3f8
#define DATA (PORT + 0)
#define IER  (PORT + 1)
#define IIR  (PORT + 2)
#define FCR  (PORT + 2)
#define MCR  (PORT + 4)
#define LSR  (PORT + 5)

#define IER_RECEIVED 0x01
#define FCR_ENABLE   0x01
#define MCR_DTR	     0x01
#define MCR_RTS	     0x02
#define MCR_OUT2     0x08 /* lets the interrupt out of the chip, on a PC */
#define LSR_RECEIVED 0x01
#define LSR_TX_EMPTY 0x20
#define FIFO_BYTES   16

#define SERIAL_PIN 4

struct console {
	unsigned int room; /* bytes that the transmit FIFO surely takes */
	bool fifo;
};

static struct console console;

static void put(char c)
{
	if (!console.fifo) {
		console.fifo = true;
		out8(FCR, FCR_ENABLE);
	}
	/* One look at the line status for a whole FIFO of bytes. */
	if (console.room == 0) {
		while (!(in8(LSR) & LSR_TX_EMPTY))
			cpu_relax();
		console.room = FIFO_BYTES;
	}
	console.room--;
	out8(DATA, (uint8_t)c);
}

struct conversion {
	unsigned int width;
	bool zeros, prefix;
	unsigned int longs;
};

static void put_number(uint64_t value, unsigned int base, bool negative,
		       const struct conversion *how)
{
	char digits[32];
	unsigned int count = 0;

	do {
		digits[count++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value && count < sizeof(digits));
	if (negative)
		put('-');
	if (how->prefix) {
		put('0');
		put('x');
	}
	for (unsigned int i = count; i < how->width; i++)
		put(how->zeros ? '0' : ' ');
	while (count > 0)
		put(digits[--count]);
}

static uint64_t next_number(va_list *arguments, unsigned int longs)
{
	return longs ? va_arg(*arguments, unsigned long long) : va_arg(*arguments, unsigned int);
}

static const char *convert(const char *format, va_list *arguments)
{
	struct conversion how = { 0 };
	const char *text;
	int64_t number;

	for (; *format == '#' || *format == '0'; format++)
		*(*format == '#' ? &how.prefix : &how.zeros) = true;
	for (; *format >= '0' && *format <= '9'; format++)
		how.width = how.width * 10 + (unsigned int)(*format - '0');
	for (; *format == 'l' || *format == 'z'; format++)
		how.longs++;
	switch (*format) {
	case 's':
		for (text = va_arg(*arguments, const char *); *text; text++)
			put(*text);
		break;
	case 'c':
		put((char)va_arg(*arguments, int));
		break;
	case 'd':
		number = how.longs ? va_arg(*arguments, long long) : va_arg(*arguments, int);
		put_number(number < 0 ? -(uint64_t)number : (uint64_t)number, 10, number < 0, &how);
		break;
	case 'u':
		put_number(next_number(arguments, how.longs), 10, false, &how);
		break;
	case 'x':
		put_number(next_number(arguments, how.longs), 16, false, &how);
		break;
	default:
		put(*format);
		break;
	}
	return format + 1;
}

void print_list(const char *format, va_list arguments)
{
	va_list copy;

	va_copy(copy, arguments);
	while (*format) {
		if (*format == '%')
			format = convert(format + 1, &copy);
		else
			put(*format++);
	}
	va_end(copy);
}

void print(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	print_list(format, arguments);
	va_end(arguments);
}

int console_read(void)
{
	return in8(LSR) & LSR_RECEIVED ? in8(DATA) : -1;
}

/* The byte is taken by whoever was woken; the interrupt comes again for the next one that arrives.
 */
static void on_interrupt(struct trap_frame *frame)
{
	(void)frame;
	(void)in8(IIR);
	interrupt_done();
}

void console_enable_input(void)
{
	interrupts_init();
	interrupt_route(SERIAL_PIN, on_interrupt);
	out8(FCR, FCR_ENABLE);
	console.fifo = true;
	out8(MCR, MCR_DTR | MCR_RTS | MCR_OUT2);
	out8(IER, IER_RECEIVED);
}

uint8_t console_next(void)
{
	int byte;

	while ((byte = console_read()) < 0)
		cpu_wait();
	return (uint8_t)byte;
}

void console_read_line(char *line, size_t bytes)
{
	size_t length = 0;
	uint8_t byte;

	while ((byte = console_next()) != '\n' && byte != '\r') {
		if (length < bytes - 1)
			line[length++] = (char)byte;
	}
	line[length] = '\0';
}

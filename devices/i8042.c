/*
 * The i8042: controller commands, a keyboard that answers and presses three keys, and the reset
 * line.
 *
 * Two queues lead to the output buffer: answers, of the controller and of the keyboard, which go
 * first and always, and keys, which wait while the guest has the keyboard's clock off. The head of
 * the first queue that has one is what port 0x60 shows and status bit 0 announces. Everything is
 * answered before the guest's write returns, so no driver ever waits: what is absent (the mouse
 * port) refuses at once instead of staying silent.
 *
 * Interrupts are edges: one for each byte that comes to stand in the output buffer while the
 * command byte's bit 0 is set, so that a driver which takes one byte per interrupt gets them all.
 */
#include <string.h>
#include <sys/eventfd.h>

#include "mayfly/i8042.h"

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM	   0x04 /* self test passed: a copy of the command byte's bit */
#define STATUS_COMMAND	   0x08 /* the last write was to port 0x64 */
#define STATUS_UNLOCKED	   0x10 /* the key lock is open */
#define STATUS_AUX	   0x20
#define STATUS_TIMEOUT	   0x40

/* The command byte. */
#define CTR_KEYBOARD_INTERRUPT 0x01
#define CTR_SYSTEM	       0x04
#define CTR_KEYBOARD_OFF       0x10
#define CTR_AUX_OFF	       0x20 /* cannot be cleared: there is no mouse port */
#define CTR_TRANSLATE	       0x40

/* Controller commands. */
#define CMD_READ_RAM	      0x20 /* to 0x3f */
#define CMD_WRITE_RAM	      0x60 /* to 0x7f */
#define CMD_AUX_OFF	      0xa7
#define CMD_AUX_ON	      0xa8
#define CMD_AUX_TEST	      0xa9
#define CMD_SELF_TEST	      0xaa
#define CMD_KEYBOARD_TEST     0xab
#define CMD_KEYBOARD_OFF      0xad
#define CMD_KEYBOARD_ON	      0xae
#define CMD_READ_INPUT_PORT   0xc0
#define CMD_READ_OUTPUT_PORT  0xd0
#define CMD_WRITE_OUTPUT_PORT 0xd1
#define CMD_LOOP_KEYBOARD     0xd2
#define CMD_LOOP_AUX	      0xd3
#define CMD_WRITE_AUX	      0xd4
#define CMD_READ_TEST_INPUTS  0xe0
#define CMD_PULSE	      0xf0 /* to 0xff: the low bits that are clear pulse low */

#define SELF_TEST_PASSED     0x55
#define KEYBOARD_TEST_PASSED 0x00
#define AUX_TEST_CLOCK_STUCK 0x01
#define INPUT_PORT_UNLOCKED  0x80

/* The output port. Bit 0 is the CPU's reset line, low active; bit 1, the A20 gate, is kept only. */
#define PORT_NOT_RESET	 0x01
#define PORT_A20	 0x02
#define PORT_OUTPUT_FULL 0x10

/* Keyboard commands. */
#define KBD_SET_LEDS	 0xed
#define KBD_ECHO	 0xee
#define KBD_SCANCODE_SET 0xf0
#define KBD_IDENTIFY	 0xf2
#define KBD_SET_REPEAT	 0xf3
#define KBD_ENABLE	 0xf4
#define KBD_DISABLE	 0xf5
#define KBD_DEFAULTS	 0xf6
#define KBD_RESET	 0xff

#define KBD_ACK		0xfa
#define KBD_TEST_PASSED 0xaa
#define KBD_RESEND	0xfe

/* Queue entries carry status bits in the high half. */
#define FROM_AUX ((STATUS_AUX | STATUS_TIMEOUT) << 8)

/* Ctrl-Alt-Del, make then break codes in reverse, as a hand does it. */
static const uint8_t keys_set1[] = { 0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d };
static const uint8_t keys_set2[] = { 0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0,
				     0x71, 0xf0, 0x11, 0xf0, 0x14 };

static void raise_interrupt(struct i8042 *i8042)
{
	uint64_t one = 1;

	/* Fails only when the counter is about to wrap, and then an edge is waiting anyway. */
	if (write(i8042->irq_fd, &one, sizeof(one)) < 0)
		return;
}

static bool queue_push(struct i8042_queue *queue, uint16_t entry)
{
	if (queue->count == queue->limit)
		return false;
	queue->entries[(queue->head + queue->count) % queue->limit] = entry;
	queue->count++;
	return true;
}

static uint16_t queue_pop(struct i8042_queue *queue)
{
	uint16_t entry = queue->entries[queue->head];

	queue->head = (uint8_t)((queue->head + 1) % queue->limit);
	queue->count--;
	return entry;
}

static void answer(struct i8042 *i8042, uint16_t entry)
{
	if (!queue_push(&i8042->answers, entry))
		atomic_fetch_add_explicit(&i8042->metrics.dropped_bytes, 1, memory_order_relaxed);
}

/* The queue whose head stands in the output buffer; NULL when the buffer is empty. */
static struct i8042_queue *output_queue(struct i8042 *i8042)
{
	if (i8042->answers.count)
		return &i8042->answers;
	if (i8042->keys.count && !(i8042->ram[0] & CTR_KEYBOARD_OFF))
		return &i8042->keys;
	return NULL;
}

/* After every change: an edge when a byte stands in the buffer for which none was sent. */
static void update(struct i8042 *i8042)
{
	const struct i8042_queue *queue = output_queue(i8042);

	if (!queue || !(i8042->ram[0] & CTR_KEYBOARD_INTERRUPT)) {
		i8042->signalled = NULL;
		return;
	}
	if (i8042->signalled != queue)
		raise_interrupt(i8042);
	i8042->signalled = queue;
}

static uint8_t read_data(struct i8042 *i8042)
{
	struct i8042_queue *queue = output_queue(i8042);

	if (!queue)
		return i8042->last_data; /* the buffer keeps what was read from it */
	i8042->signalled = NULL;
	i8042->last_data = (uint8_t)queue_pop(queue);
	return i8042->last_data;
}

static uint8_t read_status(struct i8042 *i8042)
{
	const struct i8042_queue *queue = output_queue(i8042);
	uint8_t status = STATUS_UNLOCKED;

	if (queue)
		status |= (uint8_t)(STATUS_OUTPUT_FULL | (queue->entries[queue->head] >> 8));
	if (i8042->ram[0] & CTR_SYSTEM)
		status |= STATUS_SYSTEM;
	if (i8042->last_write_was_command)
		status |= STATUS_COMMAND;
	return status;
}

/* Returns whether the value holds the CPU in reset. */
static bool write_output_port(struct i8042 *i8042, uint8_t value)
{
	i8042->output_port = (value & PORT_A20) | PORT_NOT_RESET;
	return !(value & PORT_NOT_RESET);
}

/* What the keyboard says of itself passes the controller's translation like any scan code. */
static uint8_t translated(const struct i8042 *i8042, uint8_t translation, uint8_t raw)
{
	return i8042->ram[0] & CTR_TRANSLATE ? translation : raw;
}

static void keyboard_argument(struct i8042 *i8042, uint8_t command, uint8_t value)
{
	answer(i8042, KBD_ACK);
	/* Set 2 is the only one; choosing another changes nothing. 0 asks which it is. */
	if (command == KBD_SCANCODE_SET && value == 0)
		answer(i8042, translated(i8042, 0x41, 0x02));
}

static void keyboard_command(struct i8042 *i8042, uint8_t command)
{
	switch (command) {
	case KBD_RESET:
		/* Empties the keyboard's own buffer: keys typed before are gone. */
		i8042->keys.count = 0;
		i8042->scanning = true;
		answer(i8042, KBD_ACK);
		answer(i8042, KBD_TEST_PASSED);
		break;
	case KBD_IDENTIFY:
		answer(i8042, KBD_ACK);
		answer(i8042, 0xab);
		answer(i8042, translated(i8042, 0x41, 0x83));
		break;
	case KBD_SET_LEDS:
	case KBD_SCANCODE_SET:
	case KBD_SET_REPEAT:
		i8042->keyboard_pending = command;
		answer(i8042, KBD_ACK);
		break;
	case KBD_ENABLE:
	case KBD_DISABLE:
	case KBD_DEFAULTS:
		i8042->scanning = command != KBD_DISABLE;
		answer(i8042, KBD_ACK);
		break;
	case KBD_ECHO:
		answer(i8042, KBD_ECHO);
		break;
	default:
		answer(i8042, KBD_RESEND);
		break;
	}
}

static void keyboard_write(struct i8042 *i8042, uint8_t value)
{
	uint8_t command = i8042->keyboard_pending;

	/* Writing to the keyboard starts its clock again. */
	i8042->ram[0] &= (uint8_t)~CTR_KEYBOARD_OFF;
	i8042->keyboard_pending = 0;
	/* A byte that is a command, where an argument was due, starts over. */
	if (command && value < KBD_SET_LEDS)
		keyboard_argument(i8042, command, value);
	else
		keyboard_command(i8042, value);
}

/* A byte to port 0x60, for a controller command or the keyboard. True asks for a reset. */
static bool write_data(struct i8042 *i8042, uint8_t value)
{
	uint8_t command = i8042->command_pending;

	i8042->last_write_was_command = false;
	i8042->command_pending = 0;
	switch (command) {
	case 0:
		keyboard_write(i8042, value);
		return false;
	case CMD_WRITE_OUTPUT_PORT:
		return write_output_port(i8042, value);
	case CMD_LOOP_KEYBOARD:
	case CMD_LOOP_AUX:
		/* Comes back without the mouse's mark, by which drivers see that it has no port. */
		answer(i8042, value);
		return false;
	case CMD_WRITE_AUX:
		answer(i8042, FROM_AUX | KBD_RESEND);
		return false;
	default:
		i8042->ram[command - CMD_WRITE_RAM] = value;
		i8042->ram[0] |= CTR_AUX_OFF;
		return false;
	}
}

/* A byte to port 0x64. True asks for a reset. */
static bool write_command(struct i8042 *i8042, uint8_t command)
{
	i8042->last_write_was_command = true;
	i8042->command_pending = 0;
	if (command >= CMD_PULSE)
		return !(command & PORT_NOT_RESET);
	if (command >= CMD_READ_RAM && command < CMD_READ_RAM + I8042_RAM_BYTES) {
		answer(i8042, i8042->ram[command - CMD_READ_RAM]);
		return false;
	}
	if (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + I8042_RAM_BYTES) {
		i8042->command_pending = command;
		return false;
	}
	switch (command) {
	case CMD_AUX_TEST:
		answer(i8042, AUX_TEST_CLOCK_STUCK);
		break;
	case CMD_SELF_TEST:
		i8042->ram[0] |= CTR_SYSTEM;
		answer(i8042, SELF_TEST_PASSED);
		break;
	case CMD_KEYBOARD_TEST:
		answer(i8042, KEYBOARD_TEST_PASSED);
		break;
	case CMD_KEYBOARD_OFF:
		i8042->ram[0] |= CTR_KEYBOARD_OFF;
		break;
	case CMD_KEYBOARD_ON:
		i8042->ram[0] &= (uint8_t)~CTR_KEYBOARD_OFF;
		break;
	case CMD_READ_INPUT_PORT:
		answer(i8042, INPUT_PORT_UNLOCKED);
		break;
	case CMD_READ_OUTPUT_PORT:
		answer(i8042, i8042->output_port | (output_queue(i8042) ? PORT_OUTPUT_FULL : 0));
		break;
	case CMD_READ_TEST_INPUTS:
		answer(i8042, 0x00);
		break;
	case CMD_WRITE_OUTPUT_PORT:
	case CMD_LOOP_KEYBOARD:
	case CMD_LOOP_AUX:
	case CMD_WRITE_AUX:
		i8042->command_pending = command;
		break;
	case CMD_AUX_OFF:
	case CMD_AUX_ON: /* nothing to switch: the command byte goes on saying off */
	default:	 /* what is unknown has no answer on the chip either */
		break;
	}
	return false;
}

static void request_reset(struct i8042 *i8042)
{
	atomic_fetch_add_explicit(&i8042->metrics.resets, 1, memory_order_relaxed);
	i8042->on_reset(i8042->context);
}

static void data_read(struct bus_device *device, uint64_t offset, uint8_t *data, size_t length)
{
	struct i8042 *i8042 = container_of(device, struct i8042, data);

	pthread_mutex_lock(&i8042->lock);
	data[0] = read_data(i8042);
	update(i8042);
	pthread_mutex_unlock(&i8042->lock);
}

static void data_write(struct bus_device *device, uint64_t offset, const uint8_t *data,
		       size_t length)
{
	struct i8042 *i8042 = container_of(device, struct i8042, data);
	bool reset;

	pthread_mutex_lock(&i8042->lock);
	reset = write_data(i8042, data[0]);
	update(i8042);
	pthread_mutex_unlock(&i8042->lock);
	if (reset)
		request_reset(i8042);
}

static void command_read(struct bus_device *device, uint64_t offset, uint8_t *data, size_t length)
{
	struct i8042 *i8042 = container_of(device, struct i8042, command);

	pthread_mutex_lock(&i8042->lock);
	data[0] = read_status(i8042);
	pthread_mutex_unlock(&i8042->lock);
}

static void command_write(struct bus_device *device, uint64_t offset, const uint8_t *data,
			  size_t length)
{
	struct i8042 *i8042 = container_of(device, struct i8042, command);
	bool reset;

	pthread_mutex_lock(&i8042->lock);
	reset = write_command(i8042, data[0]);
	update(i8042);
	pthread_mutex_unlock(&i8042->lock);
	if (reset)
		request_reset(i8042);
}

static const struct bus_ops data_ops = { .read = data_read, .write = data_write };
static const struct bus_ops command_ops = { .read = command_read, .write = command_write };

int i8042_init(struct i8042 *i8042, void (*on_reset)(void *context), void *context,
	       struct error *err)
{
	memset(i8042, 0, sizeof(*i8042));
	i8042->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (i8042->irq_fd < 0)
		return error_errno(err, "i8042: cannot make an eventfd");
	pthread_mutex_init(&i8042->lock, NULL);
	i8042->data = (struct bus_device) {
		.ops = &data_ops,
		.base = LAYOUT_PORT_I8042_DATA,
		.length = 1,
		.name = "i8042 data",
	};
	i8042->command = (struct bus_device) {
		.ops = &command_ops,
		.base = LAYOUT_PORT_I8042_COMMAND,
		.length = 1,
		.name = "i8042 command",
	};
	i8042->on_reset = on_reset;
	i8042->context = context;
	/* As firmware leaves it. */
	i8042->ram[0] = CTR_KEYBOARD_INTERRUPT | CTR_SYSTEM | CTR_AUX_OFF | CTR_TRANSLATE;
	i8042->output_port = PORT_NOT_RESET | PORT_A20;
	i8042->answers.limit = I8042_ANSWERS;
	i8042->keys.limit = I8042_KEYS;
	i8042->scanning = true;
	i8042->ready = true;
	return 0;
}

void i8042_destroy(struct i8042 *i8042)
{
	if (!i8042->ready)
		return;
	i8042->ready = false;
	close_fd(&i8042->irq_fd);
	pthread_mutex_destroy(&i8042->lock);
}

static int type_keys(struct i8042 *i8042, const uint8_t *codes, size_t count)
{
	if (!i8042->scanning || i8042->keys.limit - i8042->keys.count < (int)count)
		return -EBUSY;
	for (size_t i = 0; i < count; i++)
		queue_push(&i8042->keys, codes[i]);
	update(i8042);
	return 0;
}

int i8042_send_ctrl_alt_del(struct i8042 *i8042, struct error *err)
{
	int ret;

	pthread_mutex_lock(&i8042->lock);
	if (i8042->ram[0] & CTR_TRANSLATE)
		ret = type_keys(i8042, keys_set1, sizeof(keys_set1));
	else
		ret = type_keys(i8042, keys_set2, sizeof(keys_set2));
	pthread_mutex_unlock(&i8042->lock);
	if (ret < 0)
		return error_set(
			err, -ret,
			"i8042: the guest does not take keys: its keyboard is switched off or "
			"what was typed before is still waiting");
	atomic_fetch_add_explicit(&i8042->metrics.ctrl_alt_dels, 1, memory_order_relaxed);
	return 0;
}

#define SECTION "i8042"
#define VERSION 1

/* The oldest first. */
static void save_queue(const struct i8042_queue *queue, struct state_writer *writer)
{
	state_put_u8(writer, queue->count);
	for (unsigned int i = 0; i < queue->count; i++)
		state_put_u16(writer, queue->entries[(queue->head + i) % queue->limit]);
}

void i8042_save(struct i8042 *i8042, struct state_writer *writer)
{
	pthread_mutex_lock(&i8042->lock);
	state_begin(writer, SECTION, "", VERSION);
	state_put_bytes(writer, i8042->ram, sizeof(i8042->ram));
	state_put_u8(writer, i8042->output_port);
	state_put_u8(writer, i8042->command_pending);
	state_put_u8(writer, i8042->keyboard_pending);
	state_put_u8(writer, i8042->last_write_was_command);
	state_put_u8(writer, i8042->scanning);
	save_queue(&i8042->answers, writer);
	save_queue(&i8042->keys, writer);
	state_put_u8(writer, i8042->last_data);
	state_end(writer);
	pthread_mutex_unlock(&i8042->lock);
}

static void restore_queue(struct i8042_queue *queue, const char *field,
			  struct state_section *section)
{
	unsigned int count = state_get_u8(section);

	queue->head = queue->count = 0;
	if (count > queue->limit)
		state_refuse(section, field, "%u bytes are more than fit", count);
	for (unsigned int i = 0; i < count && !state_failed(section); i++) {
		uint16_t entry = state_get_u16(section);

		if ((entry & ~FROM_AUX) >> 8)
			state_refuse(section, field, "a byte cannot be 0x%04x", entry);
		queue_push(queue, entry);
	}
}

static bool waits_for_data(uint8_t command)
{
	switch (command) {
	case 0:
	case CMD_WRITE_OUTPUT_PORT:
	case CMD_LOOP_KEYBOARD:
	case CMD_LOOP_AUX:
	case CMD_WRITE_AUX:
		return true;
	default:
		return command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + I8042_RAM_BYTES;
	}
}

static bool waits_for_argument(uint8_t command)
{
	return command == 0 || command == KBD_SET_LEDS || command == KBD_SCANCODE_SET ||
	       command == KBD_SET_REPEAT;
}

/* Lock held. After a refusal the machine is not going to run. */
static void restore(struct i8042 *i8042, struct state_section *section)
{
	uint8_t pending;

	state_get_bytes(section, i8042->ram, sizeof(i8042->ram));
	i8042->output_port = state_get_u8(section);
	if ((i8042->output_port & ~PORT_A20) != PORT_NOT_RESET)
		state_refuse(section, "output port", "it cannot be 0x%02x", i8042->output_port);
	pending = state_get_u8(section);
	if (waits_for_data(pending))
		i8042->command_pending = pending;
	else
		state_refuse(section, "controller command", "0x%02x takes no data", pending);
	pending = state_get_u8(section);
	if (waits_for_argument(pending))
		i8042->keyboard_pending = pending;
	else
		state_refuse(section, "keyboard command", "0x%02x takes no argument", pending);
	i8042->last_write_was_command = state_get_bool(section, "last write");
	i8042->scanning = state_get_bool(section, "scanning");
	restore_queue(&i8042->answers, "answers", section);
	restore_queue(&i8042->keys, "keys", section);
	i8042->last_data = state_get_u8(section);
	i8042->signalled = NULL;
}

int i8042_restore(struct i8042 *i8042, struct state_file *file, struct error *err)
{
	struct state_section section;
	int result = state_find(file, SECTION, "", VERSION, &section, err);

	if (result < 0)
		return result;
	pthread_mutex_lock(&i8042->lock);
	restore(i8042, &section);
	pthread_mutex_unlock(&i8042->lock);
	return state_done(&section, err);
}

void i8042_resume(struct i8042 *i8042)
{
	pthread_mutex_lock(&i8042->lock);
	update(i8042);
	pthread_mutex_unlock(&i8042->lock);
}

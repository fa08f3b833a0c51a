/*
 * The whole monitor: a client on the API's socket, a guest that makes any access on its vCPUs, a
 * wire and a terminal, all at once, against a KVM that is played (monitor/fake.h). What is between
 * is the monitor's own: server, vmm, machine, loop, vCPU threads, buses, devices, disks.
 *
 * The input is what the machine is, then a program of steps. Each step is over when the vCPUs and
 * the loop rest, unless the input says that the next ones overlap. Whatever comes: nothing crashes,
 * hangs or leaks, no descriptor stays open, the loop comes to rest, disks keep their sizes, answers
 * are HTTP, and a machine that has not ended still answers its client and serves its guest.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mayfly/api.h"
#include "monitor/fake.h"
#include "monitor/requests.h"

#define CONNECTIONS 3
#define RING_SIZE   16
/* Of virtio slot s, queue q: between the page tables and the kernel. */
#define SLOT_BYTES  0x8000ULL
#define QUEUE_BYTES 0x4000ULL
#define RINGS	    0x100000ULL
#define AVAILABLE   0x800ULL
#define USED	    0xc00ULL
#define BUFFERS	    0x1000ULL

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
	uint16_t available[LAYOUT_MAX_VIRTIO_DEVICES][2];
};

/* The client. */

static void read_answers(struct world *world)
{
	char bytes[8192];

	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		ssize_t length;

		if (world->clients[i] < 0)
			continue;
		while ((length = recv(world->clients[i], bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
			FUZZ_CHECK(world->started[i] ||
				   (length > 9 && memcmp(bytes, "HTTP/1.", 7) == 0));
			world->started[i] = true;
		}
		if (length == 0) { /* refused, and closed */
			close(world->clients[i]);
			world->clients[i] = -1;
		}
	}
}

/* The loop, until it rests. */
static void turn(struct world *world)
{
	int result;

	if (world->ended)
		return;
	world->ended = fake_host_turn(&world->loop, &result);
	/* The last: a snapshot that could not be loaded ends its monitor. */
	FUZZ_CHECK(!world->ended || result == VMM_EXIT_OK || result == VMM_EXIT_ERROR ||
		   result == VMM_EXIT_BAD_CONFIG);
	read_answers(world);
}

static void connect_client(struct world *world, unsigned int index)
{
	if (world->clients[index] >= 0)
		close(world->clients[index]);
	world->clients[index] = fake_host_connect();
	world->started[index] = false;
}

static void send_bytes(struct world *world, const void *bytes, size_t length)
{
	if (world->clients[world->client] < 0)
		connect_client(world, world->client);
	if (world->clients[world->client] >= 0)
		(void)!send(world->clients[world->client], bytes, length, MSG_NOSIGNAL);
}

static void send_request(struct world *world, const char *request)
{
	const char *path = strchr(request, ' '), *body = strchr(path + 1, ' ') + 1;
	char text[2048];
	int length;

	length = snprintf(text, sizeof(text), "%.*s HTTP/1.1\r\nHost: h\r\n",
			  (int)(body - 1 - request), request);
	if (*body)
		length += snprintf(text + length, sizeof(text) - (size_t)length,
				   "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
	else
		length += snprintf(text + length, sizeof(text) - (size_t)length, "\r\n");
	send_bytes(world, text, (size_t)length);
}

/* The guest. */

static bool guest_runs(const struct world *world)
{
	return !world->ended && vmm_state(world->vmm) == VMM_RUNNING;
}

static void settle(struct world *world)
{
	if (world->overlap == 0 && vmm_state(world->vmm) == VMM_RUNNING)
		fake_kvm_settle();
}

static void mmio(struct world *world, bool write, uint64_t address, uint64_t value,
		 unsigned int size)
{
	struct fake_exit exit = { .kind = FAKE_MMIO,
				  .write = write,
				  .size = (uint8_t)size,
				  .address = address,
				  .value = value };

	fake_kvm_post(world->vcpu, &exit);
}

static uint64_t window(unsigned int slot)
{
	return LAYOUT_VIRTIO_MMIO + (slot & 0x7f) * LAYOUT_VIRTIO_MMIO_BYTES +
	       (slot & 0x80 ? LAYOUT_VIRTIO_MMIO_CMDLINE - LAYOUT_VIRTIO_MMIO : 0);
}

static void set(struct world *world, unsigned int slot, uint64_t offset, uint32_t value)
{
	mmio(world, true, window(slot) + offset, value, 4);
}

static void put(uint64_t gpa, const void *bytes, size_t length)
{
	void *there = fake_kvm_memory(gpa, length);

	if (there)
		memcpy(there, bytes, length);
}

static uint64_t ring(unsigned int slot, unsigned int queue)
{
	return RINGS + (slot & 0x7f) * SLOT_BYTES + queue * QUEUE_BYTES;
}

/* As the standard says (virtio 1.2, 3.1.1). */
static void start_driver(struct world *world, unsigned int slot, uint32_t features)
{
	static const uint8_t zeros[BUFFERS];
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	set(world, slot, VIRTIO_MMIO_STATUS, 0);
	settle(world);
	set(world, slot, VIRTIO_MMIO_STATUS, status);
	set(world, slot, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set(world, slot, VIRTIO_MMIO_DRIVER_FEATURES, features);
	set(world, slot, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(world, slot, VIRTIO_MMIO_DRIVER_FEATURES, 1); /* VIRTIO_F_VERSION_1 */
	set(world, slot, VIRTIO_MMIO_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned int queue = 0; queue < 2; queue++) {
		uint64_t base = ring(slot, queue);

		put(base, zeros, sizeof(zeros));
		world->available[slot % LAYOUT_MAX_VIRTIO_DEVICES][queue] = 0;
		set(world, slot, VIRTIO_MMIO_QUEUE_SEL, queue);
		set(world, slot, VIRTIO_MMIO_QUEUE_NUM, RING_SIZE);
		set(world, slot, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)base);
		set(world, slot, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)(base + AVAILABLE));
		set(world, slot, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)(base + USED));
		set(world, slot, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	set(world, slot, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void put_descriptor(uint64_t base, unsigned int index, uint64_t address, uint32_t length,
			   uint16_t flags, uint16_t next)
{
	struct vring_desc descriptor = { address, length, flags, next };

	put(base + 16ULL * index, &descriptor, sizeof(descriptor));
}

static void offer(struct world *world, unsigned int slot, unsigned int queue, uint16_t head)
{
	uint64_t base = ring(slot, queue);
	uint16_t *index = &world->available[slot % LAYOUT_MAX_VIRTIO_DEVICES][queue];

	put(base + AVAILABLE + 4 + 2ULL * (*index % RING_SIZE), &head, 2);
	(*index)++;
	put(base + AVAILABLE + 2, index, 2);
	set(world, slot, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

/* A request in three descriptors, nearly right. */
static void block_request(struct world *world, struct fuzz_input *input)
{
	unsigned int slot = input_u8(input), how = input_u8(input), place = how >> 6;
	uint64_t base = ring(slot, 0), header_at = base + BUFFERS + 0x40ULL * place;
	struct virtio_blk_outhdr header = { .type = input_u8(input) & 0xf };
	uint64_t data = base + BUFFERS + 0x400 + (how & 8 ? input_u64(input) : 0);
	uint32_t length = how & 1 ? input_u32(input) : 512U * (input_u8(input) & 0xf);
	uint16_t write = how & 2 ? VRING_DESC_F_WRITE : 0, head = (uint16_t)(3 * place);

	header.sector = how & 4 ? input_u64(input) : input_u8(input);
	if (how & 0x20) { /* discard, write zeroes */
		struct virtio_blk_discard_write_zeroes range = { header.sector, 8, how & 1 };

		put(data, &range, sizeof(range));
		length = sizeof(range);
	}
	put(header_at, &header, sizeof(header));
	put_descriptor(base, head, header_at, 16, VRING_DESC_F_NEXT,
		       (uint16_t)(head + (how & 0x10 ? 2 : 1))); /* a flush has no data */
	put_descriptor(base, head + 1U, data, length, write | VRING_DESC_F_NEXT,
		       (uint16_t)(head + 2));
	put_descriptor(base, head + 2U, header_at + 32, 1, VRING_DESC_F_WRITE, 0);
	offer(world, slot, 0, head);
}

static void net_chain(struct world *world, struct fuzz_input *input, bool out)
{
	static const uint32_t lengths[] = { 12, 60, 300, 2048 };
	unsigned int slot = input_u8(input), how = input_u8(input), queue = out ? 1 : 0;
	uint64_t base = ring(slot, queue), at = base + BUFFERS + 0x200ULL * (how & 7);
	uint8_t bytes[64];

	if (out) {
		input_bytes(input, bytes, sizeof(bytes));
		if (how & 8)
			memset(bytes, 0, sizeof(struct virtio_net_hdr_v1));
		put(at, bytes, sizeof(bytes));
	}
	put_descriptor(
		base, how & 7, at, how & 0x10 ? input_u32(input) : lengths[how >> 6],
		(uint16_t)((out ? 0 : VRING_DESC_F_WRITE) | (how & 0x20 ? VRING_DESC_F_NEXT : 0)),
		(uint16_t)((how & 7) + 1));
	offer(world, slot, queue, how & 7);
}

static void any_exit(struct world *world, struct fuzz_input *input)
{
	static const int errors[] = { EINTR, EAGAIN, EFAULT, ENOMEM, EINVAL, EBADF };
	struct fake_exit exit = { .kind = FAKE_OTHER, .address = input_u8(input) };

	if (exit.address & 0x80) {
		exit.kind = FAKE_ERROR;
		exit.address = (uint64_t)errors[exit.address % ARRAY_SIZE(errors)];
	} else if (exit.address == KVM_EXIT_IO || exit.address == KVM_EXIT_MMIO) {
		exit.address = KVM_EXIT_SHUTDOWN; /* those have words of their own */
	}
	exit.value = input_u64(input);
	fake_kvm_post(world->vcpu, &exit);
}

static void port_access(struct world *world, struct fuzz_input *input)
{
	static const uint16_t bases[] = { LAYOUT_PORT_SERIAL, LAYOUT_PORT_I8042_DATA, 0 };
	uint8_t how = input_u8(input);
	struct fake_exit exit = { .kind = FAKE_PIO,
				  .write = how & 1,
				  .size = (uint8_t)(1 << (how >> 1 & 3) & 7),
				  .count = 1,
				  .address = input_u8(input) & 7U };

	if (exit.size == 0)
		exit.size = 1;
	exit.address += how & 0x10 ? input_u16(input) : bases[how >> 5 & 1];
	if (how & 8) /* rep outs, rep ins: as many as fit a page */
		exit.count = 1 + input_u16(input) % (4096U / exit.size);
	exit.value = input_u32(input);
	fake_kvm_post(world->vcpu, &exit);
}

static void guest_step(struct world *world, unsigned int step, struct fuzz_input *input)
{
	uint8_t bytes[64];
	unsigned int slot;
	uint8_t how;

	if (!guest_runs(world))
		return;
	switch (step) {
	case STEP_PIO:
		port_access(world, input);
		break;
	case STEP_MMIO:
		how = input_u8(input);
		mmio(world, how & 1,
		     LAYOUT_MMIO_GAP_START + (how & 2 ? input_u64(input) : input_u32(input)),
		     input_u64(input), 1 + (how >> 2 & 7));
		break;
	case STEP_REGISTER:
		slot = input_u8(input);
		how = input_u8(input);
		mmio(world, how & 1, window(slot) + (input_u16(input) & (how & 2 ? 0xfff : 0xfc)),
		     how & 4 ? input_u64(input) : input_u8(input),
		     how & 8 ? 1 + (how >> 4 & 7) : 4);
		break;
	case STEP_BYTES:
		slot = input_u8(input);
		how = input_u8(input);
		input_bytes(input, bytes, 1 + (how & 63));
		put(how & 64 ? input_u64(input)
			     : ring(slot, how >> 7) + input_u16(input) % QUEUE_BYTES,
		    bytes, 1 + (how & 63));
		break;
	case STEP_START_DRIVER:
		slot = input_u8(input);
		start_driver(world, slot, input_u32(input));
		break;
	case STEP_BLOCK:
		block_request(world, input);
		break;
	case STEP_FRAME_OUT:
	case STEP_BUFFER_IN:
		net_chain(world, input, step == STEP_FRAME_OUT);
		break;
	case STEP_EXIT:
		any_exit(world, input);
		break;
	default:
		break;
	}
}

static void wire_step(struct fuzz_input *input)
{
	uint8_t how = input_u8(input), frame[2048];
	int wire = fake_host_wire(how & 1);
	size_t length = 12 + (how & 2 ? input_u16(input) % (sizeof(frame) - 12) : 60);

	memset(frame, how, sizeof(frame));
	input_bytes(input, frame, 24);
	if (how & 4)
		memset(frame, 0, 12);
	if (wire < 0)
		return;
	if (how & 8) {
		while (recv(wire, frame, sizeof(frame), MSG_DONTWAIT) > 0)
			;
	} else {
		(void)!send(wire, frame, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

static void terminal_step(struct fuzz_input *input)
{
	uint8_t bytes[256], how = input_u8(input);

	if (how & 1) {
		while (recv(fake_host_terminal(), bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
			;
		return;
	}
	input_bytes(input, bytes, 1 + (how >> 3));
	(void)!send(fake_host_terminal(), bytes, how & 2 ? sizeof(bytes) : 1U + (how >> 3),
		    MSG_DONTWAIT);
}

static void client_bytes(struct world *world, struct fuzz_input *input)
{
	uint8_t bytes[256];
	size_t length = 1U + input_u8(input);

	if (length > input->length)
		length = input->length;
	input_bytes(input, bytes, length);
	send_bytes(world, bytes, length);
}

static void step(struct world *world, struct fuzz_input *input)
{
	uint8_t what = input_u8(input);

	world->vcpu = what >> 6;
	switch (what % STEP_COUNT) {
	case STEP_WIRE:
		wire_step(input);
		break;
	case STEP_TERMINAL:
		terminal_step(input);
		break;
	case STEP_REQUEST:
		send_request(world, requests[input_u8(input) % REQUESTS]);
		break;
	case STEP_CLIENT_BYTES:
		client_bytes(world, input);
		break;
	case STEP_CONNECT:
		world->client = input_u8(input) % CONNECTIONS;
		connect_client(world, world->client);
		break;
	case STEP_CLOCK:
		fake_clock_advance((uint64_t)input_u16(input) << (input_u8(input) & 31));
		break;
	case STEP_OVERLAP:
		world->overlap = 2U + (input_u8(input) & 7);
		break;
	default:
		guest_step(world, what % STEP_COUNT, input);
	}
	if (world->overlap > 0)
		world->overlap--;
	settle(world);
	turn(world);
	settle(world);
}

/* The machine that the first bytes describe. */
static void configure(struct world *world, struct fuzz_input *input)
{
	uint8_t how = input_u8(input);

	if (how & 0x80)
		return;
	send_request(world, requests[4 + (how & 1)]);
	send_request(world, requests[7 + (how >> 1 & 1)]);
	turn(world);
	send_request(world, requests[11 + (how >> 2 & 1)]);
	if (how & 8)
		send_request(world, requests[13]);
	if (how & 0x10)
		send_request(world, requests[14]);
	turn(world);
	if (how & 0x20)
		send_request(world, requests[21]);
	if (how & 0x40)
		send_request(world, requests[22]);
	turn(world);
	send_request(world, "PUT /actions {\"action_type\":\"InstanceStart\"}");
	turn(world);
}

/* A monitor that goes on answers, and a device that is reset works. */
static void check_alive(struct world *world)
{
	static const char question[] = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
	char answer[512];

	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		if (world->clients[i] >= 0)
			close(world->clients[i]);
		world->clients[i] = -1;
	}
	turn(world);
	if (world->ended)
		return;
	world->clients[0] = fake_host_connect();
	FUZZ_CHECK(world->clients[0] >= 0);
	FUZZ_CHECK(send(world->clients[0], question, sizeof(question) - 1, 0) > 0);
	world->ended = fake_host_turn(&world->loop, &(int) { 0 });
	if (world->ended)
		return;
	FUZZ_CHECK(recv(world->clients[0], answer, sizeof(answer), MSG_DONTWAIT) > 15 &&
		   memcmp(answer, "HTTP/1.1 200 OK", 15) == 0);
	if (!guest_runs(world))
		return;
	for (world->vcpu = 0; world->vcpu < 4; world->vcpu++) {
		mmio(world, true, window(0) + VIRTIO_MMIO_STATUS, 0, 4);
		mmio(world, true, window(0x80) + VIRTIO_MMIO_STATUS, 0, 4);
	}
	fake_kvm_settle();
}

static void open_world(struct world *world, struct fuzz_input *input)
{
	static const int errors[] = { ENOMEM, EINVAL, EBUSY, EPERM, EINTR, EMFILE };
	struct vmm_options options = { .serial_input = true, .serial_escape = true };
	struct api_server_options api = { "api.socket", 4096 };
	uint8_t fail_at = input_u8(input);

	memset(world, 0, sizeof(*world));
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		world->clients[i] = -1;
	fake_host_begin(fail_at & 0x80 ? (fail_at & 0x7fU) + 1 : 0,
			errors[fail_at % ARRAY_SIZE(errors)]);
	options.boot_timer = fail_at & 1;
	log_init(&world->log);
	FUZZ_CHECK(loop_init(&world->loop, NULL) == 0);
	fake_host_enter(&world->loop);
	FUZZ_CHECK(log_open(&world->log, "log", NULL) == 0);
	world->log.level = fail_at & 2 ? LOG_TRACE : LOG_OFF;
	FUZZ_CHECK(vmm_create(&world->vmm, &world->loop, &world->log, &options, NULL) == 0);
	FUZZ_CHECK(api_server_create(&world->api, &world->loop, world->vmm, &api, NULL) == 0);
}

static void close_world(struct world *world)
{
	uint8_t bytes[4096];

	/* A terminal that takes nothing would be waited for. */
	while (recv(fake_host_terminal(), bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	vmm_destroy(world->vmm);
	api_server_destroy(world->api);
	loop_destroy(&world->loop);
	log_close(&world->log);
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		if (world->clients[i] >= 0)
			close(world->clients[i]);
	}
	fake_host_enter(NULL);
	fake_host_end();
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	/* As signals_install() does, whose handlers would hide what the sanitizers find. */
	signal(SIGPIPE, SIG_IGN);
	fake_host_init();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static struct world world;
	struct fuzz_input input = { data, length < 2048 ? length : 2048 };

	open_world(&world, &input);
	configure(&world, &input);
	while (input_left(&input) && !world.ended)
		step(&world, &input);
	world.overlap = 0;
	settle(&world);
	turn(&world);
	if (!world.ended)
		check_alive(&world);
	close_world(&world);
	return 0;
}

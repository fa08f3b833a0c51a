/*
 * The whole monitor: a client on the API's socket, a guest that makes any access on its vCPUs, a
 * wire and a terminal, all at once, against a KVM that is played (monitor/fake.h). What is between
 * is the monitor's own: server, vmm, machine, loop, vCPU threads, buses, devices, disks.
 *
 * A monitor may be followed by another one, which finds the files of the first: a snapshot that it
 * made, whole or changed, or the order for a fork.
 *
 * The input is what the machine is, then a program of steps. Each step is over when the vCPUs and
 * the loop rest, unless the input says that the next ones overlap. Whatever comes: nothing crashes,
 * hangs or leaks, no descriptor stays open, the loop comes to rest, disks keep their sizes, answers
 * are HTTP, and a machine that has not ended still answers its client and serves its guest.
 */
#include <linux/virtio_mmio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor/requests.h"
#include "monitor/world.h"

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

static void damage_step(struct world *world, struct fuzz_input *input)
{
	static const char *const names[] = { "state", "memory", "diff", "pages" };
	uint8_t how = input_u8(input);
	unsigned int which = how & 7;

	/* Not under a guest: a file that is cut or changed then is another matter. */
	if (guest_runs(world))
		return;
	if (which < ARRAY_SIZE(names))
		fake_damage(fake_snapshot_fd(names[which]), input, how & 0x80);
	else if (world->forker.words)
		fake_damage(world->forker.descriptors[which % FORKER_MAX_DESCRIPTORS], input,
			    how & 0x80);
}

/* Both as src/main.c has it. */

static void begin_monitor(struct world *world, const struct vmm_options *options)
{
	struct api_server_options api = { "api.socket", 4096 };

	FUZZ_CHECK(loop_init(&world->loop, NULL) == 0);
	fake_host_enter(&world->loop);
	FUZZ_CHECK(vmm_create(&world->vmm, &world->loop, &world->log, options, NULL) == 0);
	FUZZ_CHECK(api_server_create(&world->api, &world->loop, world->vmm, &api, NULL) == 0);
	world->ended = false;
}

static void end_monitor(struct world *world)
{
	uint8_t bytes[4096];

	/* A terminal that takes nothing would be waited for. */
	while (recv(fake_host_terminal(), bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	vmm_destroy(world->vmm);
	api_server_destroy(world->api);
	loop_destroy(&world->loop);
	fake_forker_close(&world->forker);
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		if (world->clients[i] >= 0)
			close(world->clients[i]);
		world->clients[i] = -1;
	}
	fake_host_enter(NULL);
}

/* False: its process would end now. */
static bool load_fork(struct world *world)
{
	struct snapshot_fork_config config = { 0 };
	struct forker_order order;
	struct error err = { 0 };
	int result;

	if (!fake_forker_order(&world->forker, &order))
		return true;
	result = vmm_read_order(&order, &config, &err);
	if (result == 0)
		result = vmm_load_fork(world->vmm, &config, &order, &err);
	FUZZ_CHECK(result == 0 || err.message[0]);
	forker_order_clear(&order);
	config_clear(&config_snapshot_fork_object, &config);
	return result == 0;
}

/* The first byte says which, the second which call of KVM fails. */
static void next_monitor(struct world *world, struct fuzz_input *input)
{
	struct machine_config shape = { .vcpu_count = 1, .mem_size_mib = 4 };
	struct vmm_options options = { .serial_input = true, .serial_escape = true };
	uint8_t how = input_u8(input), fail_at = input_u8(input);
	struct error err = { 0 };

	end_monitor(world);
	fake_kvm_begin(fail_at & 0x80 ? (fail_at & 0x7fU) + 1 : 0, EINVAL);
	if (how & 1) {
		fake_forker_open(&world->forker);
		options.forker = &world->forker.forker;
	}
	begin_monitor(world, &options);
	if (how & 2)
		world->ended = !load_fork(world);
	else if (how & 4)
		world->ended = vmm_prepare(world->vmm, &shape, &err) < 0;
}

static void step(struct world *world, struct fuzz_input *input)
{
	uint8_t what = input_u8(input);

	world->vcpu = what >> 6;
	switch ((what & 0x3f) % STEP_COUNT) {
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
	case STEP_FORKER:
		fake_forker_answer(&world->forker, input);
		break;
	case STEP_DAMAGE:
		damage_step(world, input);
		break;
	case STEP_NEXT_MONITOR:
		next_monitor(world, input);
		break;
	default:
		guest_step(world, (what & 0x3f) % STEP_COUNT, input);
	}
	if (world->overlap > 0)
		world->overlap--;
	guest_settle(world);
	turn(world);
	guest_settle(world);
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
		guest_mmio(world, true, guest_window(0) + VIRTIO_MMIO_STATUS, 0, 4);
		guest_mmio(world, true, guest_window(0x80) + VIRTIO_MMIO_STATUS, 0, 4);
	}
	fake_kvm_settle();
}

static void open_world(struct world *world, struct fuzz_input *input)
{
	static const int errors[] = { ENOMEM, EINVAL, EBUSY, EPERM, EINTR, EMFILE };
	struct vmm_options options = { .serial_input = true, .serial_escape = true };
	uint8_t fail_at = input_u8(input);

	memset(world, 0, sizeof(*world));
	world->forker.fd = -1;
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		world->clients[i] = -1;
	fake_host_begin(fail_at & 0x80 ? (fail_at & 0x7fU) + 1 : 0,
			errors[fail_at % ARRAY_SIZE(errors)]);
	options.boot_timer = fail_at & 1;
	log_init(&world->log);
	world->log.level = fail_at & 2 ? LOG_TRACE : LOG_OFF;
	if (fail_at & 4) {
		fake_forker_open(&world->forker);
		options.forker = &world->forker.forker;
	}
	begin_monitor(world, &options);
	FUZZ_CHECK(log_open(&world->log, "log", NULL) == 0);
}

static void close_world(struct world *world)
{
	end_monitor(world);
	log_close(&world->log);
	fake_forker_forget(&world->forker);
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
	while (input_left(&input))
		step(&world, &input);
	world.overlap = 0;
	guest_settle(&world);
	turn(&world);
	if (!world.ended)
		check_alive(&world);
	close_world(&world);
	return 0;
}

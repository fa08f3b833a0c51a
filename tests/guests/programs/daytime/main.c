/*
 * daytime: tells the time of day (RFC 867), by UDP and TCP, and answers ARP and ping: a unikernel
 * that does something. Its parameters are in ../../README.md.
 *
 * The CPU sleeps between frames. Frames are answered in ring 3; ring 0 has the devices and the
 * clock.
 */
#include "answer.h"
#include "boot.h"
#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "end.h"
#include "params.h"
#include "text.h"
#include "virtio_net.h"

static struct host host;
static struct net net;
static uint64_t start_seconds; /* of time=; 0: kvm-clock says it */

/* "10.0.0.2" or "10.0.0.2/24"; the length of the network does not matter to who only answers. */
static bool read_address(const char *text, uint32_t *address)
{
	uint64_t number;

	*address = 0;
	for (unsigned int i = 0; i < 4; i++) {
		text = text_number(text, &number);
		if (!text || number > 255 || (i < 3 && *text++ != '.'))
			return false;
		*address |= (uint32_t)number << 8 * i;
	}
	if (*text == '\0')
		return true;
	text = *text == '/' ? text_number(text + 1, &number) : NULL;
	return text && *text == '\0' && number <= 32;
}

static uint64_t now(void)
{
	uint64_t seconds;

	if (start_seconds == 0 && clock_wall_seconds(&seconds))
		return seconds;
	return start_seconds + clock_tsc_to_ns(tsc_read() - boot_info.start_tsc) / 1000000000;
}

static void set_up(void)
{
	const char *ip = NULL;
	uint64_t seconds;
	const struct param params[] = {
		{ .name = "ip", .type = PARAM_TEXT, .value = &ip },
		{ .name = "time", .type = PARAM_NUMBER, .value = &start_seconds, .minimum = 1 },
	};

	params_read(params, sizeof(params) / sizeof(params[0]));
	if (!ip)
		guest_fail("the parameter ip=ADDRESS is missing");
	if (!read_address(ip, &host.ip))
		guest_fail("the parameter ip cannot be '%s'", ip);
	if (start_seconds == 0 && !clock_wall_seconds(&seconds))
		guest_fail(
			"this machine does not say what time it is: the parameter time=SECONDS (since 1970) can");
	if (!net_open(&net, 0))
		guest_fail("there is no network device");
	memcpy(host.mac, net.mac, sizeof(host.mac));
	host.secret = tsc_read() * 0x9e3779b97f4a7c15ULL;
}

struct exchange {
	const uint8_t *in;
	uint32_t bytes;
	uint8_t *out;
	uint64_t seconds;
};

/* Runs in ring 3. */
static uint64_t answer(void *argument)
{
	const struct exchange *exchange = argument;

	return answer_frame(&host, exchange->in, exchange->bytes, exchange->out, exchange->seconds);
}

void guest_main(void)
{
	uint64_t requests = 0;
	const struct param params[] = {
		{ .name = "requests", .type = PARAM_NUMBER, .value = &requests }
	};

	params_read(params, 1);
	set_up();
	print("result: net mac=%02x:%02x:%02x:%02x:%02x:%02x\n", host.mac[0], host.mac[1],
	      host.mac[2], host.mac[3], host.mac[4], host.mac[5]);
	print("guest: ready\n");
	while (requests == 0 || host.answered_times < requests) {
		struct exchange exchange = { .seconds = 0 };
		uint32_t bytes;

		exchange.in = net_receive(&net, &exchange.bytes);
		exchange.out = net_next_frame(&net);
		exchange.seconds = now();
		bytes = (uint32_t)user_run(answer, &exchange);
		if (bytes)
			net_send(&net, bytes);
		net_give_back(&net, (uint8_t *)(uintptr_t)exchange.in);
	}
	net_next_frame(&net); /* the last one is on its way */
	print("result: frames received=%llu sent=%llu times=%llu\n",
	      (unsigned long long)net.received, (unsigned long long)net.sent,
	      (unsigned long long)host.answered_times);
	print("result: end\n");
}

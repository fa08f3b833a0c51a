/*
 * What the daytime guest answers, frame by frame (tests/guests/programs/daytime): on the host,
 * where broken frames are easily made. test_daytime.py has it talk to a real network.
 */
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "tests/guests/programs/daytime/answer.h"

#define NOW 1795274367 /* Sat Nov 21 15:19:27 2026 */

#define US   0x0a000002u
#define PEER 0x0a000001u

static const uint8_t our_mac[MAC_BYTES] = { 2, 0, 0, 0, 0, 2 };
static const uint8_t peer_mac[MAC_BYTES] = { 2, 0, 0, 0, 0, 1 };

struct exchange {
	struct host host;
	uint8_t in[2048], out[2048];
	uint32_t in_bytes, out_bytes;
};

/* Straight from RFC 1071, and not by the code under test. */
static uint16_t sum16(const uint8_t *data, size_t bytes, uint32_t sum)
{
	for (size_t i = 0; i < bytes; i++)
		sum += (uint32_t)data[i] << (i % 2 ? 0 : 8);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void put16(uint8_t *at, unsigned int value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

static unsigned int get16(const uint8_t *at)
{
	return (unsigned int)at[0] << 8 | at[1];
}

static uint32_t get32(const uint8_t *at)
{
	return get16(at) << 16 | get16(at + 2);
}

static struct exchange begin(unsigned int ethertype)
{
	struct exchange e = { .host = { .ip = big32(US), .secret = 42 } };

	memcpy(e.host.mac, our_mac, MAC_BYTES);
	memcpy(e.in, our_mac, MAC_BYTES);
	memcpy(e.in + 6, peer_mac, MAC_BYTES);
	put16(e.in + 12, ethertype);
	e.in_bytes = 14;
	return e;
}

/* Puts an IPv4 packet around a payload, whose checksum lies at `checksum_at` (of UDP and TCP, with
 * pseudo header). */
static struct exchange begin_ip(uint8_t protocol, const void *payload, uint32_t bytes,
				size_t checksum_at)
{
	struct exchange e = begin(ETHERTYPE_IPV4);
	uint8_t *ip = e.in + 14, *data = ip + 20;
	uint32_t pseudo = protocol == PROTOCOL_ICMP
				  ? 0
				  : protocol + bytes + (US >> 16) + (US & 0xffff) + (PEER >> 16) +
					    (PEER & 0xffff);

	ip[0] = 0x45;
	put16(ip + 2, 20 + bytes);
	ip[8] = 64;
	ip[9] = protocol;
	put32(ip + 12, PEER);
	put32(ip + 16, US);
	put16(ip + 10, sum16(ip, 20, 0));
	memcpy(data, payload, bytes);
	put16(data + checksum_at, 0);
	put16(data + checksum_at, sum16(data, bytes, pseudo));
	e.in_bytes += 20 + bytes;
	return e;
}

static uint32_t answer(struct exchange *e)
{
	e->out_bytes = answer_frame(&e->host, e->in, e->in_bytes, e->out, NOW);
	return e->out_bytes;
}

/* Checks all that every IPv4 answer must have; returns its payload. */
static const uint8_t *ip_answer(const struct exchange *e, uint32_t payload_bytes)
{
	const uint8_t *ip = e->out + 14;
	uint32_t pseudo = ip[9] == PROTOCOL_ICMP
				  ? 0
				  : ip[9] + payload_bytes + (US >> 16) + (US & 0xffff) +
					    (PEER >> 16) + (PEER & 0xffff);

	cr_assert_eq(e->out_bytes, 14 + 20 + payload_bytes);
	cr_assert_arr_eq(e->out, peer_mac, MAC_BYTES);
	cr_assert_arr_eq(e->out + 6, our_mac, MAC_BYTES);
	cr_assert_eq(get16(e->out + 12), ETHERTYPE_IPV4);
	cr_assert_eq(ip[0], 0x45);
	cr_assert_eq(get16(ip + 2), 20 + payload_bytes);
	cr_assert_eq(sum16(ip, 20, 0), 0);
	cr_assert_eq(get32(ip + 12), US);
	cr_assert_eq(get32(ip + 16), PEER);
	cr_assert_eq(sum16(ip + 20, payload_bytes, pseudo), 0);
	return ip + 20;
}

Test(daytime, text_is_the_same_as_the_c_library_says)
{
	static const int64_t times[] = { 0,	     86399,	 86400,	     951782399,
					 951782400,  951868800,	 978307199,  1078012800,
					 1709164800, 1709251200, 2147483648, 4102444799,
					 4102444800, 4107542400, 7258118400, 253402300799 };

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		char text[DAYTIME_TEXT_BYTES], expected[64];
		time_t t = (time_t)times[i];
		struct tm tm;

		gmtime_r(&t, &tm);
		strftime(expected, sizeof(expected), "%a %b %e %H:%M:%S %Y\r\n", &tm);
		daytime_text((uint64_t)times[i], text);
		cr_assert_arr_eq(text, expected, DAYTIME_TEXT_BYTES, "%.24s is not %.24s", text,
				 expected);
	}
}

Test(daytime, arp_requests_for_its_address_are_answered)
{
	struct exchange e = begin(ETHERTYPE_ARP);
	uint8_t *arp = e.in + 14;

	memset(e.in, 0xff, MAC_BYTES);
	put16(arp, 1);
	put16(arp + 2, ETHERTYPE_IPV4);
	arp[4] = 6;
	arp[5] = 4;
	put16(arp + 6, 1);
	memcpy(arp + 8, peer_mac, MAC_BYTES);
	put32(arp + 14, PEER);
	put32(arp + 24, US);
	e.in_bytes = 14 + 28;
	cr_assert_eq(answer(&e), 14 + 28);
	cr_assert_arr_eq(e.out, peer_mac, MAC_BYTES);
	cr_assert_eq(get16(e.out + 14 + 6), 2);
	cr_assert_arr_eq(e.out + 14 + 8, our_mac, MAC_BYTES);
	cr_assert_eq(get32(e.out + 14 + 14), US);
	cr_assert_arr_eq(e.out + 14 + 18, peer_mac, MAC_BYTES);
	cr_assert_eq(get32(e.out + 14 + 24), PEER);

	put32(arp + 24, US + 1);
	cr_assert_eq(answer(&e), 0, "another's address");
	put32(arp + 24, US);
	put16(arp + 6, 2);
	cr_assert_eq(answer(&e), 0, "an answer");
	put16(arp + 6, 1);
	e.in_bytes--;
	cr_assert_eq(answer(&e), 0, "one byte too short");
}

Test(daytime, pings_come_back_as_they_were)
{
	uint8_t ping[101] = { ICMP_ECHO, 0, 0, 0, 0x12, 0x34, 0, 7, 'x' };

	for (uint32_t bytes = 8; bytes <= sizeof(ping); bytes++) {
		struct exchange e = begin_ip(PROTOCOL_ICMP, ping, bytes, 2);
		const uint8_t *reply;

		answer(&e);
		reply = ip_answer(&e, bytes);
		cr_assert_eq(reply[0], ICMP_ECHO_REPLY);
		cr_assert_arr_eq(reply + 4, ping + 4, bytes - 4);
	}
}

static struct exchange begin_udp(unsigned int from, unsigned int to)
{
	uint8_t udp[9] = { 0 };

	put16(udp, from);
	put16(udp + 2, to);
	put16(udp + 4, sizeof(udp));
	return begin_ip(PROTOCOL_UDP, udp, sizeof(udp), 6);
}

Test(daytime, udp_questions_get_the_time)
{
	struct exchange e = begin_udp(5000, DAYTIME_PORT);
	const uint8_t *udp;

	answer(&e);
	udp = ip_answer(&e, 8 + DAYTIME_TEXT_BYTES);
	cr_assert_eq(get16(udp), DAYTIME_PORT);
	cr_assert_eq(get16(udp + 2), 5000);
	cr_assert_eq(get16(udp + 4), 8 + DAYTIME_TEXT_BYTES);
	cr_assert_arr_eq(udp + 8, "Sat Nov 21 15:19:27 2026\r\n", DAYTIME_TEXT_BYTES);
	cr_assert_eq(e.host.answered_times, 1);
}

Test(daytime, udp_from_or_to_other_ports_is_passed_over)
{
	struct exchange to_other = begin_udp(5000, 14), from_server = begin_udp(1023, DAYTIME_PORT);

	cr_assert_eq(answer(&to_other), 0);
	cr_assert_eq(answer(&from_server), 0);
}

Test(daytime, a_changed_bit_anywhere_in_a_question_is_noticed)
{
	struct exchange good = begin_udp(5000, DAYTIME_PORT);

	/* From the IP header on: it and UDP have checksums; the time to live and such are under
	 * one, too. */
	for (uint32_t bit = 14 * 8; bit < good.in_bytes * 8; bit++) {
		struct exchange e = good;

		e.in[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_eq(answer(&e), 0, "bit %u", bit);
	}
}

Test(daytime, frames_cut_short_are_passed_over)
{
	struct exchange e = begin_udp(5000, DAYTIME_PORT);

	for (uint32_t bytes = e.in_bytes; bytes-- > 0;) {
		e.in_bytes = bytes;
		cr_assert_eq(answer(&e), 0, "%u bytes", bytes);
	}
}

static struct exchange begin_tcp(uint32_t sequence, uint32_t acknowledged, uint8_t flags,
				 uint16_t to)
{
	uint8_t tcp[20] = { 0 };

	put16(tcp, 5000);
	put16(tcp + 2, to);
	put32(tcp + 4, sequence);
	put32(tcp + 8, acknowledged);
	tcp[12] = 5 << 4;
	tcp[13] = flags;
	return begin_ip(PROTOCOL_TCP, tcp, sizeof(tcp), 16);
}

Test(daytime, a_connection_gets_the_time_and_an_end)
{
	struct exchange syn = begin_tcp(1000, 0, TCP_SYN, DAYTIME_PORT), ack, fin;
	const uint8_t *tcp;
	uint32_t first;

	answer(&syn);
	tcp = ip_answer(&syn, 20);
	cr_assert_eq(tcp[13], TCP_SYN | TCP_ACK);
	cr_assert_eq(get32(tcp + 8), 1001);
	first = get32(tcp + 4);

	ack = begin_tcp(1001, first + 1, TCP_ACK, DAYTIME_PORT);
	answer(&ack);
	tcp = ip_answer(&ack, 20 + DAYTIME_TEXT_BYTES);
	cr_assert_eq(tcp[13], TCP_FIN | TCP_PSH | TCP_ACK);
	cr_assert_eq(get32(tcp + 4), first + 1);
	cr_assert_eq(get32(tcp + 8), 1001);
	cr_assert_arr_eq(tcp + 20, "Sat Nov 21 15:19:27 2026\r\n", DAYTIME_TEXT_BYTES);

	ack = begin_tcp(1001, first + 1 + DAYTIME_TEXT_BYTES + 1, TCP_ACK, DAYTIME_PORT);
	cr_assert_eq(answer(&ack), 0, "nothing more is to be said");

	fin = begin_tcp(1001, first + 1 + DAYTIME_TEXT_BYTES + 1, TCP_FIN | TCP_ACK, DAYTIME_PORT);
	answer(&fin);
	tcp = ip_answer(&fin, 20);
	cr_assert_eq(tcp[13], TCP_ACK);
	cr_assert_eq(get32(tcp + 4), first + 1 + DAYTIME_TEXT_BYTES + 1);
	cr_assert_eq(get32(tcp + 8), 1002);
}

Test(daytime, what_belongs_to_no_connection_is_reset)
{
	struct exchange syn = begin_tcp(1000, 0, TCP_SYN, 80),
			stray = begin_tcp(1000, 77, TCP_ACK, DAYTIME_PORT);
	struct exchange reset = begin_tcp(1000, 77, TCP_RST | TCP_ACK, DAYTIME_PORT);
	const uint8_t *tcp;

	answer(&syn);
	tcp = ip_answer(&syn, 20);
	cr_assert_eq(tcp[13], TCP_RST | TCP_ACK);
	cr_assert_eq(get32(tcp + 8), 1001);

	answer(&stray);
	tcp = ip_answer(&stray, 20);
	cr_assert_eq(tcp[13], TCP_RST);
	cr_assert_eq(get32(tcp + 4), 77);

	cr_assert_eq(answer(&reset), 0, "a reset is never answered");
}

/*
 * The answers: see answer.h.
 *
 * TCP without connections: what a client sends tells where in its connection it is. The first
 * sequence number is a hash of the addresses and ports, and the text always has the same length, so
 * the segment that acknowledges our SYN gets the text and our FIN, and one that acknowledges all of
 * it gets at most an ACK. Nothing is sent twice unless the client asks twice.
 */
#include "answer.h"
#include "text.h"

#define FIRST_FREE_PORT 1024

/* An IPv4 packet that is for us and whole: its header, what it carries, and where the answer goes.
 */
struct packet {
	const struct ethernet *ethernet;
	const struct ipv4 *ip;
	const uint8_t *payload;
	uint32_t payload_bytes;
	uint8_t *out;
};

static void two_digits(char *out, unsigned int value, char pad)
{
	out[0] = (char)('0' + value / 10);
	if (value < 10)
		out[0] = pad;
	out[1] = (char)('0' + value % 10);
}

/* Civil date of a day number, in years that begin in March, so that leap days come last. */
void daytime_text(uint64_t seconds, char text[DAYTIME_TEXT_BYTES])
{
	static const char pattern[] = "Ddd Mmm dd hh:mm:ss yyyy\r\n";
	static const char days[] = "ThuFriSatSunMonTueWed";
	static const char months[] = "MarAprMayJunJulAugSepOctNovDecJanFeb";
	uint64_t day = seconds / 86400, left = seconds % 86400;
	uint64_t shifted = day + 719468; /* since March 1st of the year 0 */
	uint64_t era = shifted / 146097, of_era = shifted % 146097;
	uint64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	uint64_t of_year = of_era - (365 * year + year / 4 - year / 100);
	uint64_t month = (5 * of_year + 2) / 153;

	/* On the wire there is no NUL. */
	memcpy(text, pattern, DAYTIME_TEXT_BYTES); /* NOLINT(bugprone-not-null-terminated-result) */
	memcpy(text, &days[3 * (day % 7)], 3);
	memcpy(text + 4, &months[3 * month], 3);
	two_digits(text + 8, (unsigned int)(of_year - (153 * month + 2) / 5 + 1), ' ');
	two_digits(text + 11, (unsigned int)(left / 3600), '0');
	two_digits(text + 14, (unsigned int)(left / 60 % 60), '0');
	two_digits(text + 17, (unsigned int)(left % 60), '0');
	year += era * 400 + (month >= 10);
	two_digits(text + 20, (unsigned int)(year / 100 % 100), '0');
	two_digits(text + 22, (unsigned int)(year % 100), '0');
}

static uint32_t answer_arp(const struct host *host, const struct ethernet *ethernet, uint32_t bytes,
			   uint8_t *out)
{
	const struct arp *in = (const struct arp *)(ethernet + 1);
	struct ethernet *out_ethernet = (struct ethernet *)out;
	struct arp *reply = (struct arp *)(out_ethernet + 1);

	if (bytes < sizeof(*ethernet) + sizeof(*in) || in->hardware != big16(ARP_ETHERNET) ||
	    in->protocol != big16(ETHERTYPE_IPV4) || in->hardware_bytes != MAC_BYTES ||
	    in->protocol_bytes != sizeof(in->target_ip) || in->operation != big16(ARP_REQUEST) ||
	    in->target_ip != host->ip)
		return 0;
	memcpy(out_ethernet->to, in->sender_mac, MAC_BYTES);
	memcpy(out_ethernet->from, host->mac, MAC_BYTES);
	out_ethernet->type = big16(ETHERTYPE_ARP);
	*reply = *in;
	reply->operation = big16(ARP_REPLY);
	memcpy(reply->sender_mac, host->mac, MAC_BYTES);
	reply->sender_ip = host->ip;
	memcpy(reply->target_mac, in->sender_mac, MAC_BYTES);
	reply->target_ip = in->sender_ip;
	return sizeof(*out_ethernet) + sizeof(*reply);
}

/* Where the payload of an answer goes. */
static uint8_t *out_payload(const struct packet *packet)
{
	return packet->out + sizeof(struct ethernet) + sizeof(struct ipv4);
}

/* Puts the headers before a payload that is complete. Returns the size of the frame. */
static uint32_t finish(const struct host *host, const struct packet *packet, uint32_t payload_bytes)
{
	struct ethernet *ethernet = (struct ethernet *)packet->out;
	struct ipv4 *ip = (struct ipv4 *)(ethernet + 1);

	memcpy(ethernet->to, packet->ethernet->from, MAC_BYTES);
	memcpy(ethernet->from, host->mac, MAC_BYTES);
	ethernet->type = big16(ETHERTYPE_IPV4);
	*ip = (struct ipv4) {
		.version_length = IPV4_VERSION << 4 | sizeof(*ip) / 4,
		.bytes = big16((uint16_t)(sizeof(*ip) + payload_bytes)),
		.fragment = big16(IPV4_DO_NOT_CUT),
		.hops = IPV4_HOPS,
		.protocol = packet->ip->protocol,
		.from = host->ip,
		.to = packet->ip->from,
	};
	ip->checksum = checksum_fold(checksum_add(0, ip, sizeof(*ip)));
	return (uint32_t)(sizeof(*ethernet) + sizeof(*ip)) + payload_bytes;
}

/* The checksum of UDP or TCP: the pseudo header is the same in both directions. */
static uint16_t transport_checksum(const struct packet *packet, const void *payload, uint32_t bytes)
{
	return checksum_fold(
		checksum_add(checksum_pseudo_header(packet->ip, bytes), payload, bytes));
}

static uint32_t answer_icmp(const struct host *host, const struct packet *packet)
{
	const struct icmp *in = (const struct icmp *)packet->payload;
	struct icmp *reply = (struct icmp *)out_payload(packet);

	if (packet->payload_bytes < sizeof(*in) || in->type != ICMP_ECHO || in->code != 0 ||
	    checksum_fold(checksum_add(0, in, packet->payload_bytes)) != 0)
		return 0;
	memcpy(reply, in, packet->payload_bytes);
	reply->type = ICMP_ECHO_REPLY;
	reply->checksum = 0;
	reply->checksum = checksum_fold(checksum_add(0, reply, packet->payload_bytes));
	return finish(host, packet, packet->payload_bytes);
}

static uint32_t answer_udp(struct host *host, const struct packet *packet, uint64_t seconds)
{
	const struct udp *in = (const struct udp *)packet->payload;
	struct udp *reply = (struct udp *)out_payload(packet);
	const uint32_t bytes = sizeof(*reply) + DAYTIME_TEXT_BYTES;

	if (packet->payload_bytes < sizeof(*in) || big16(in->bytes) < sizeof(*in) ||
	    big16(in->bytes) > packet->payload_bytes || in->to != big16(DAYTIME_PORT))
		return 0;
	if (in->checksum != 0 && transport_checksum(packet, in, big16(in->bytes)) != 0)
		return 0;
	/* Two servers that answer everything would talk for ever: they have low ports. */
	if (big16(in->from) < FIRST_FREE_PORT)
		return 0;
	*reply = (struct udp) { .from = in->to, .to = in->from, .bytes = big16((uint16_t)bytes) };
	daytime_text(seconds, (char *)(reply + 1));
	reply->checksum = transport_checksum(packet, reply, bytes);
	if (reply->checksum == 0) /* which would mean that there is none */
		reply->checksum = 0xffff;
	host->answered_times++;
	return finish(host, packet, bytes);
}

static uint32_t first_sequence(const struct host *host, const struct packet *packet,
			       const struct tcp *in)
{
	uint64_t value = host->secret ^
			 ((uint64_t)packet->ip->from << 32 | (uint32_t)in->from << 16 | in->to);

	value = (value ^ value >> 33) * 0xff51afd7ed558ccdULL;
	return (uint32_t)((value ^ value >> 33) * 0xc4ceb9fe1a85ec53ULL >> 32);
}

/* Sends a segment with `text_bytes` behind its header; a reset has no acknowledgement number of its
 * own. */
static uint32_t send_tcp(const struct host *host, const struct packet *packet, const struct tcp *in,
			 uint32_t sequence, uint32_t acknowledged, uint8_t flags,
			 uint32_t text_bytes)
{
	struct tcp *reply = (struct tcp *)out_payload(packet);
	uint32_t bytes = sizeof(*reply) + text_bytes;

	*reply = (struct tcp) {
		.from = in->to,
		.to = in->from,
		.sequence = big32(sequence),
		.acknowledged = big32(acknowledged),
		.header_words = sizeof(*reply) / 4 << 4,
		.flags = flags,
		.window = big16(1024),
	};
	reply->checksum = transport_checksum(packet, reply, bytes);
	return finish(host, packet, bytes);
}

/* How far a segment moves its sender's sequence numbers on, and where that ends. */
static uint32_t sequence_end(const struct tcp *in, uint32_t data_bytes)
{
	return big32(in->sequence) + data_bytes + !!(in->flags & TCP_SYN) + !!(in->flags & TCP_FIN);
}

static uint32_t refuse_tcp(const struct host *host, const struct packet *packet,
			   const struct tcp *in, uint32_t data_bytes)
{
	if (in->flags & TCP_ACK)
		return send_tcp(host, packet, in, big32(in->acknowledged), 0, TCP_RST, 0);
	return send_tcp(host, packet, in, 0, sequence_end(in, data_bytes), TCP_RST | TCP_ACK, 0);
}

static uint32_t answer_tcp(struct host *host, const struct packet *packet, uint64_t seconds)
{
	const struct tcp *in = (const struct tcp *)packet->payload;
	uint32_t header_bytes, data_bytes, first, end;

	if (packet->payload_bytes < sizeof(*in))
		return 0;
	header_bytes = (uint32_t)(in->header_words >> 4) * 4;
	if (header_bytes < sizeof(*in) || header_bytes > packet->payload_bytes ||
	    transport_checksum(packet, in, packet->payload_bytes) != 0 || (in->flags & TCP_RST))
		return 0;
	data_bytes = packet->payload_bytes - header_bytes;
	first = first_sequence(host, packet, in);
	end = sequence_end(in, data_bytes);
	if (in->to != big16(DAYTIME_PORT))
		return refuse_tcp(host, packet, in, data_bytes);
	if (in->flags & TCP_SYN)
		return send_tcp(host, packet, in, first, end, TCP_SYN | TCP_ACK, 0);
	if (!(in->flags & TCP_ACK))
		return 0;
	if (big32(in->acknowledged) == first + 1) {
		daytime_text(seconds, (char *)out_payload(packet) + sizeof(struct tcp));
		host->answered_times++;
		return send_tcp(host, packet, in, first + 1, end, TCP_FIN | TCP_PSH | TCP_ACK,
				DAYTIME_TEXT_BYTES);
	}
	if (big32(in->acknowledged) != first + 1 + DAYTIME_TEXT_BYTES + 1)
		return refuse_tcp(host, packet, in, data_bytes);
	/* All is said; what is left to do is to acknowledge the other's end. */
	if (!(in->flags & TCP_FIN) && data_bytes == 0)
		return 0;
	return send_tcp(host, packet, in, first + 1 + DAYTIME_TEXT_BYTES + 1, end, TCP_ACK, 0);
}

static uint32_t answer_ipv4(struct host *host, const struct ethernet *ethernet, uint32_t bytes,
			    uint8_t *out, uint64_t seconds)
{
	const struct ipv4 *ip = (const struct ipv4 *)(ethernet + 1);
	struct packet packet = { .ethernet = ethernet, .ip = ip, .out = out };
	uint32_t header_bytes;

	bytes -= (uint32_t)sizeof(*ethernet);
	if (bytes < sizeof(*ip) || ip->version_length >> 4 != IPV4_VERSION)
		return 0;
	header_bytes = (uint32_t)(ip->version_length & 0xf) * 4;
	if (header_bytes < sizeof(*ip) || big16(ip->bytes) < header_bytes ||
	    big16(ip->bytes) > bytes || checksum_fold(checksum_add(0, ip, header_bytes)) != 0 ||
	    ip->to != host->ip || (big16(ip->fragment) & IPV4_FRAGMENT))
		return 0;
	packet.payload = (const uint8_t *)ip + header_bytes;
	packet.payload_bytes = big16(ip->bytes) - header_bytes;
	switch (ip->protocol) {
	case PROTOCOL_ICMP:
		return answer_icmp(host, &packet);
	case PROTOCOL_UDP:
		return answer_udp(host, &packet, seconds);
	case PROTOCOL_TCP:
		return answer_tcp(host, &packet, seconds);
	default:
		return 0;
	}
}

uint32_t answer_frame(struct host *host, const uint8_t *in, uint32_t bytes, uint8_t *out,
		      uint64_t seconds)
{
	const struct ethernet *ethernet = (const struct ethernet *)in;

	if (bytes < sizeof(*ethernet))
		return 0;
	if (ethernet->type == big16(ETHERTYPE_ARP))
		return answer_arp(host, ethernet, bytes, out);
	if (ethernet->type == big16(ETHERTYPE_IPV4))
		return answer_ipv4(host, ethernet, bytes, out, seconds);
	return 0;
}

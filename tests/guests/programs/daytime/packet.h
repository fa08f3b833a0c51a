/*
 * The formats on the wire: Ethernet, ARP (RFC 826), IPv4 (RFC 791), ICMP (RFC 792), UDP (RFC 768),
 * TCP (RFC 9293). Numbers are big-endian: see big16() and big32().
 */
#ifndef DAYTIME_PACKET_H
#define DAYTIME_PACKET_H

#include <stddef.h>
#include <stdint.h>

#define MAC_BYTES 6

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP  0x0806

struct ethernet {
	uint8_t to[MAC_BYTES], from[MAC_BYTES];
	uint16_t type;
} __attribute__((packed));

#define ARP_ETHERNET 1
#define ARP_REQUEST  1
#define ARP_REPLY    2

struct arp {
	uint16_t hardware, protocol;
	uint8_t hardware_bytes, protocol_bytes;
	uint16_t operation;
	uint8_t sender_mac[MAC_BYTES];
	uint32_t sender_ip;
	uint8_t target_mac[MAC_BYTES];
	uint32_t target_ip;
} __attribute__((packed));

#define IPV4_VERSION	4
#define IPV4_FRAGMENT	0x3fff /* more to come, or an offset */
#define IPV4_DO_NOT_CUT 0x4000
#define IPV4_HOPS	64
#define PROTOCOL_ICMP	1
#define PROTOCOL_TCP	6
#define PROTOCOL_UDP	17

struct ipv4 {
	uint8_t version_length, service;
	uint16_t bytes, id, fragment;
	uint8_t hops, protocol;
	uint16_t checksum;
	uint32_t from, to;
} __attribute__((packed));

#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO	8

struct icmp {
	uint8_t type, code;
	uint16_t checksum;
} __attribute__((packed));

struct udp {
	uint16_t from, to, bytes, checksum;
} __attribute__((packed));

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10

struct tcp {
	uint16_t from, to;
	uint32_t sequence, acknowledged;
	uint8_t header_words, flags; /* the words in the upper half */
	uint16_t window, checksum, urgent;
} __attribute__((packed));

static inline uint16_t big16(uint16_t value)
{
	return (uint16_t)(value << 8 | value >> 8);
}

static inline uint32_t big32(uint32_t value)
{
	return __builtin_bswap32(value);
}

/* The Internet checksum (RFC 1071) of some bytes, on top of `sum`; not yet folded. */
uint32_t checksum_add(uint32_t sum, const void *data, size_t bytes);

/* What belongs into a header, or 0 for data that has its right checksum in it. */
uint16_t checksum_fold(uint32_t sum);

/* What UDP and TCP add: addresses, protocol and length. */
uint32_t checksum_pseudo_header(const struct ipv4 *ip, uint32_t bytes);

#endif

/* Checksums: see packet.h. */
#include "packet.h"

uint32_t checksum_add(uint32_t sum, const void *data, size_t bytes)
{
	const uint8_t *at = data;

	for (; bytes >= 2; bytes -= 2, at += 2)
		sum += (uint32_t)at[0] << 8 | at[1];
	if (bytes)
		sum += (uint32_t)at[0] << 8;
	return sum;
}

uint16_t checksum_fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return big16((uint16_t)~sum);
}

uint32_t checksum_pseudo_header(const struct ipv4 *ip, uint32_t bytes)
{
	return checksum_add(ip->protocol + bytes, &ip->from, sizeof(ip->from) + sizeof(ip->to));
}

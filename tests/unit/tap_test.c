/*
 * The kernel's TAPs, devices/backend/tap.c: which are taken, and what is said of the others. Each
 * test has a network of its own, which goes when it ends; where the host gives none, it is skipped.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "mayfly/tap.h"

#define NOBODY 65534

static char id[] = "eth0";

static bool have_tun(void)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0 || unshare(CLONE_NEWNET) < 0) {
		cr_log_warn("skipped: no /dev/net/tun, or no network namespace: %s",
			    strerror(errno));
		close_fd(&fd);
		return false;
	}
	close(fd);
	return true;
}

/* A descriptor that is attached. The device stays when it is closed. */
static int make(const char *name, int flags, int owner)
{
	struct ifreq request = { .ifr_flags = (short)(flags | IFF_NO_PI) };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	cr_assert(fd >= 0);
	cr_assert_eq(ioctl(fd, TUNSETIFF, &request), 0);
	cr_assert_eq(ioctl(fd, TUNSETPERSIST, 1), 0);
	if (owner >= 0)
		cr_assert_eq(ioctl(fd, TUNSETOWNER, owner), 0);
	return fd;
}

static bool exists(const char *name)
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool there;

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	there = ioctl(fd, SIOCGIFINDEX, &request) == 0;
	close(fd);
	return there;
}

/* In this process alone, /dev/net is empty. */
static bool hide_tun(void)
{
	return unshare(CLONE_NEWNS) == 0 &&
	       mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("none", "/dev/net", "tmpfs", 0, NULL) == 0 && chmod("/dev/net", 0755) == 0;
}

static bool make_tun(mode_t mode)
{
	return mknod("/dev/net/tun", S_IFCHR, makedev(10, 200)) == 0 &&
	       chmod("/dev/net/tun", mode) == 0;
}

static struct network_interface_config config_of(char *name)
{
	return (struct network_interface_config) { .iface_id = id, .host_dev_name = name };
}

static void assert_refused(char *name, int code, const char *words)
{
	struct network_interface_config config = config_of(name);
	struct error err = { 0 };
	struct tap tap;

	cr_assert_eq(tap_open(&tap, &config, &err), -code, "%s", err.message);
	cr_assert_eq(tap.fd, -1);
	cr_assert(strstr(err.message, "network interface eth0: host_dev_name "), "%s", err.message);
	cr_assert(strstr(err.message, name), "%s", err.message);
	cr_assert(strstr(err.message, words), "%s", err.message);
	cr_assert_eq(tap_check(&config, &err), -code);
}

Test(tap, one_that_is_there_is_opened_and_free_again_when_closed)
{
	char name[] = "tap0";
	struct network_interface_config config = config_of(name);
	struct error err = { 0 };
	struct tap tap;

	if (!have_tun())
		return;
	close(make(name, IFF_TAP, -1));
	for (unsigned int i = 0; i < 3; i++) {
		cr_assert_eq(tap_check(&config, &err), 0, "%s", err.message);
		cr_assert_eq(tap_open(&tap, &config, &err), 0, "%s", err.message);
		cr_assert(fcntl(tap.fd, F_GETFL) & O_NONBLOCK);
		tap_close(&tap);
		cr_assert_eq(tap.fd, -1);
		tap_close(&tap);
	}
}

Test(tap, missing_one_is_not_made_and_the_command_that_makes_it_named)
{
	char name[] = "nothere0";

	if (!have_tun())
		return;
	assert_refused(name, ENODEV, "ip tuntap add dev nothere0 mode tap");
	cr_assert_not(exists(name));
}

Test(tap, missing_one_is_told_from_anothers_without_privilege)
{
	char missing[] = "nothere0", others[] = "others0", own[] = "own0";
	struct network_interface_config config = config_of(own);
	struct error err = { 0 };
	struct tap tap;

	if (!have_tun())
		return;
	close(make(others, IFF_TAP, 0));
	close(make(own, IFF_TAP, NOBODY));
	if (!hide_tun() || !make_tun(0666) || seteuid(NOBODY) < 0) {
		cr_log_warn("skipped: this user cannot become another");
		return;
	}
	assert_refused(missing, ENODEV, "there is no such TAP");
	assert_refused(others, EPERM, "belongs to another user");
	cr_assert_eq(tap_open(&tap, &config, &err), 0, "%s", err.message);
	tap_close(&tap);
	cr_assert_eq(seteuid(0), 0);
}

Test(tap, missing_and_forbidden_node_are_told_apart)
{
	char name[] = "tap0";
	struct network_interface_config config = config_of(name);
	struct error err = { 0 };
	struct tap tap;

	if (!have_tun() || !hide_tun())
		return;
	cr_assert_eq(tap_open(&tap, &config, &err), -ENOENT);
	cr_assert(strstr(err.message, "network interface eth0: cannot open /dev/net/tun"), "%s",
		  err.message);
	cr_assert(strstr(err.message, "modprobe tun"), "%s", err.message);
	if (!make_tun(0600) || seteuid(NOBODY) < 0)
		return;
	cr_assert_eq(tap_open(&tap, &config, &err), -EACCES);
	cr_assert(strstr(err.message, "this user may not open it"), "%s", err.message);
	cr_assert_eq(seteuid(0), 0);
}

Test(tap, one_in_use_is_refused)
{
	char name[] = "tap0";
	int fd;

	if (!have_tun())
		return;
	fd = make(name, IFF_TAP | IFF_VNET_HDR, -1);
	assert_refused(name, EBUSY, "in use by another process");
	close(fd);
}

Test(tap, devices_of_other_kinds_are_refused)
{
	char tun[] = "tun0", many[] = "many0", lo[] = "lo";

	if (!have_tun())
		return;
	close(make(tun, IFF_TUN, -1));
	close(make(many, IFF_TAP | IFF_MULTI_QUEUE, -1));
	assert_refused(tun, EINVAL, "this is no TAP");
	assert_refused(lo, EINVAL, "this is no TAP");
	assert_refused(many, EINVAL, "without multi_queue");
}

Test(tap, all_offloads_are_taken_and_given_back)
{
	const unsigned int tso =
		TAP_OFFLOAD_CHECKSUM | TAP_OFFLOAD_TSO4 | TAP_OFFLOAD_TSO6 | TAP_OFFLOAD_TSO_ECN;
	char name[] = "tap0";
	struct network_interface_config config = config_of(name);
	struct error err = { 0 };
	struct tap tap;

	if (!have_tun())
		return;
	close(make(name, IFF_TAP, -1));
	cr_assert_eq(tap_open(&tap, &config, &err), 0, "%s", err.message);
	cr_assert_eq(tap.ops->set_offloads(&tap, tso), 0);
	if (tap.has_uso)
		cr_assert_eq(tap.ops->set_offloads(&tap, tso | TAP_OFFLOAD_USO4 | TAP_OFFLOAD_USO6),
			     0);
	cr_assert_eq(tap.ops->set_offloads(&tap, 0), 0);
	tap_close(&tap);
}

/* Gives the TAP the address 192.0.2.1/24 and sets it up, or down. */
static void configure(const char *name, bool up)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct ifreq request = { 0 };

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	address.sin_addr.s_addr = htonl(0xc0000201);
	memcpy(&request.ifr_addr, &address, sizeof(address));
	cr_assert_eq(ioctl(fd, SIOCSIFADDR, &request), 0);
	cr_assert_eq(ioctl(fd, SIOCGIFFLAGS, &request), 0);
	request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
	cr_assert_eq(ioctl(fd, SIOCSIFFLAGS, &request), 0);
	close(fd);
}

struct arp_frame {
	uint8_t header[TAP_HEADER_BYTES];
	struct ethhdr ethernet;
	struct arphdr arp;
	uint8_t sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
} __attribute__((packed));

static struct arp_frame arp_request(void)
{
	struct arp_frame frame = {
		.ethernet = { .h_dest = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
			      .h_source = { 6, 0, 0, 0, 0, 2 },
			      .h_proto = htons(ETH_P_ARP) },
		.arp = { .ar_hrd = htons(ARPHRD_ETHER),
			 .ar_pro = htons(ETH_P_IP),
			 .ar_hln = 6,
			 .ar_pln = 4,
			 .ar_op = htons(ARPOP_REQUEST) },
		.sender_mac = { 6, 0, 0, 0, 0, 2 },
		.sender_ip = { 192, 0, 2, 2 },
		.target_ip = { 192, 0, 2, 1 },
	};

	return frame;
}

Test(tap, frames_go_both_ways_behind_a_header)
{
	char name[] = "tap0";
	struct network_interface_config config = config_of(name);
	struct arp_frame request = arp_request(), answer = { 0 };
	struct iovec out = { &request, sizeof(request) }, in = { &answer, sizeof(answer) };
	struct error err = { 0 };
	struct tap tap;

	if (!have_tun())
		return;
	close(make(name, IFF_TAP, -1));
	configure(name, true);
	cr_assert_eq(tap_open(&tap, &config, &err), 0, "%s", err.message);
	/* The kernel sends nothing until it has seen, in its own time, that somebody is attached.
	 */
	for (unsigned int i = 0; i < 600 && answer.ethernet.h_proto != htons(ETH_P_ARP);) {
		struct pollfd poll_fd = { .fd = tap.fd, .events = POLLIN };

		if (poll(&poll_fd, 1, 100) > 0) {
			cr_assert_gt(tap.ops->read(&tap, &in, 1), 0);
			continue;
		}
		cr_assert_eq(tap.ops->write(&tap, &out, 1), (ssize_t)sizeof(request));
		i++;
	}
	cr_assert_eq(answer.arp.ar_op, htons(ARPOP_REPLY));
	cr_assert_eq(memcmp(answer.target_mac, request.sender_mac, 6), 0);
	tap_close(&tap);
}

Test(tap, nothing_to_read_down_and_deleted_are_errors_of_their_own)
{
	char name[] = "tap0";
	struct network_interface_config config = config_of(name);
	struct arp_frame frame = arp_request();
	struct iovec iov = { &frame, sizeof(frame) };
	struct pollfd poll_fd = { .events = POLLOUT };
	struct error err = { 0 };
	struct tap tap;

	if (!have_tun())
		return;
	close(make(name, IFF_TAP, -1));
	cr_assert_eq(tap_open(&tap, &config, &err), 0, "%s", err.message);
	poll_fd.fd = tap.fd;
	cr_assert_eq(tap.ops->read(&tap, &iov, 1), -EAGAIN);
	cr_assert_eq(tap.ops->write(&tap, &iov, 1), -EIO, "it is down");
	cr_assert_eq(poll(&poll_fd, 1, 0), 0);
	configure(name, true);
	cr_assert_eq(poll(&poll_fd, 1, 60000), 1, "it is up");
	cr_assert_eq(tap.ops->write(&tap, &iov, 1), (ssize_t)sizeof(frame));
	cr_assert_eq(ioctl(tap.fd, TUNSETPERSIST, 0), 0);
	cr_assert_eq(system("ip link delete tap0 2>/dev/null || exit 77") == 0,
		     exists(name) == false);
	if (!exists(name)) {
		cr_assert_eq(poll(&poll_fd, 1, 60000), 1);
		cr_assert(poll_fd.revents & POLLERR);
		cr_assert_eq(tap.ops->write(&tap, &iov, 1), -EBADFD);
		cr_assert_eq(tap.ops->set_offloads(&tap, 0), -EBADFD);
	}
	tap_close(&tap);
}

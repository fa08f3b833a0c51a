/*
 * The kernel's TAPs: see include/mayfly/tap.h.
 *
 * TUNSETIFF attaches to a device, and makes it when there is none of that name: a persistent one is
 * therefore one that was there before us. One that is not goes away again when its descriptor is
 * closed. So no socket is needed to find out, which a confined process may not have.
 */
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/ioctl.h>

#include "mayfly/tap.h"

/* Of Linux 6.2. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/*
 * preadv2(2): where the descriptor stands, as readv(2) does. The disks need these two calls, and
 * what is filtered should be little.
 */
#define AT_POSITION (-1)

#define TUN_PATH  "/dev/net/tun"
#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

_Static_assert(sizeof(struct virtio_net_hdr_v1) == TAP_HEADER_BYTES, "virtio 1.2, 5.1.6");
_Static_assert(CONFIG_MAX_DEVICE_NAME_BYTES == IFNAMSIZ - 1, "what ioctl(2) takes");

static ssize_t read_frame(struct tap *tap, const struct iovec *iov, unsigned int iov_count)
{
	ssize_t length = preadv2(tap->fd, iov, (int)iov_count, AT_POSITION, 0);

	return length < 0 ? -errno : length;
}

static ssize_t write_frame(struct tap *tap, const struct iovec *iov, unsigned int iov_count)
{
	ssize_t length = pwritev2(tap->fd, iov, (int)iov_count, AT_POSITION, 0);

	return length < 0 ? -errno : length;
}

static int set_offloads(struct tap *tap, unsigned int offloads)
{
	unsigned long flags = 0;

	if (offloads & TAP_OFFLOAD_CHECKSUM)
		flags |= TUN_F_CSUM;
	if (offloads & TAP_OFFLOAD_TSO4)
		flags |= TUN_F_TSO4;
	if (offloads & TAP_OFFLOAD_TSO6)
		flags |= TUN_F_TSO6;
	if (offloads & TAP_OFFLOAD_TSO_ECN)
		flags |= TUN_F_TSO_ECN;
	if (offloads & TAP_OFFLOAD_USO4)
		flags |= TUN_F_USO4;
	if (offloads & TAP_OFFLOAD_USO6)
		flags |= TUN_F_USO6;
	return ioctl(tap->fd, TUNSETOFFLOAD, flags) < 0 ? -errno : 0;
}

static const struct tap_ops kernel_ops = {
	.read = read_frame,
	.write = write_frame,
	.set_offloads = set_offloads,
};

static int refuse(const struct network_interface_config *config, int code, const char *reason,
		  struct error *err)
{
	return error_set(err, code, "network interface %s: host_dev_name %s: %s", config->iface_id,
			 config->host_dev_name, reason);
}

static int refuse_missing(const struct network_interface_config *config, struct error *err)
{
	return error_set(err, ENODEV,
			 "network interface %s: host_dev_name %s: there is no such TAP in this "
			 "network namespace; make it with: ip tuntap add dev %s mode tap user "
			 "$(id -un) && ip link set dev %s up",
			 config->iface_id, config->host_dev_name, config->host_dev_name,
			 config->host_dev_name);
}

static int open_tun(struct tap *tap, const struct network_interface_config *config,
		    struct error *err)
{
	const char *advice = "";

	tap->fd = open(TUN_PATH, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (tap->fd >= 0)
		return 0;
	if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
		advice =
			": the host's kernel has no TUN/TAP (modprobe tun), or the node is missing (mknod " TUN_PATH
			" c 10 200)";
	else if (errno == EACCES || errno == EPERM)
		advice = ": this user may not open it";
	error_errno(err, "cannot open " TUN_PATH "%s", advice);
	return error_prefix(err, "network interface %s", config->iface_id);
}

static int attach(int fd, const char *name, unsigned int flags)
{
	struct ifreq request = { .ifr_flags = (short)flags };

	strncpy(request.ifr_name, name, sizeof(request.ifr_name) - 1);
	return ioctl(fd, TUNSETIFF, &request) < 0 ? -errno : 0;
}

/* Why TUNSETIFF failed. Attempts here only ask: nothing that they attach or make is kept. */
static int explain(const struct tap *tap, const struct network_interface_config *config, int code,
		   struct error *err)
{
	const char *name = config->host_dev_name;

	switch (code) {
	case EBUSY:
		return refuse(config, code, "the TAP is in use by another process", err);
	case EPERM:
		/* Who may not make a device learns by this whether it is there. */
		if (attach(tap->fd, name, TAP_FLAGS | IFF_TUN_EXCL) == -EBUSY)
			return error_set(err, code,
					 "network interface %s: host_dev_name %s: the TAP belongs "
					 "to another user; make it with: ip tuntap add dev %s mode "
					 "tap user $(id -un)",
					 config->iface_id, name, name);
		return refuse_missing(config, err);
	case EINVAL:
		if (attach(tap->fd, name, TAP_FLAGS | IFF_MULTI_QUEUE) == 0)
			return refuse(config, code,
				      "the TAP has several queues, a guest's interface has one: "
				      "make it without multi_queue",
				      err);
		return refuse(config, code,
			      "this is no TAP: it is a TUN (mode tun), or a device of another kind",
			      err);
	default:
		errno = code;
		return error_errno(err, "network interface %s: host_dev_name %s: cannot attach",
				   config->iface_id, name);
	}
}

static int check_was_there(const struct tap *tap, const struct network_interface_config *config,
			   struct error *err)
{
	struct ifreq request = { 0 };

	if (ioctl(tap->fd, TUNGETIFF, &request) < 0)
		return error_errno(err, "network interface %s: host_dev_name %s: cannot examine",
				   config->iface_id, config->host_dev_name);
	return request.ifr_flags & IFF_PERSIST ? 0 : refuse_missing(config, err);
}

/* The format of frames, and what is left of the settings of who was attached before. */
static int set_up(struct tap *tap, const struct network_interface_config *config, struct error *err)
{
	const unsigned int uso = TAP_OFFLOAD_CHECKSUM | TAP_OFFLOAD_USO4 | TAP_OFFLOAD_USO6;
	int header_bytes = TAP_HEADER_BYTES;

	/* An offload that the kernel does not know is refused. */
	tap->has_uso = set_offloads(tap, uso) == 0;
	if (ioctl(tap->fd, TUNSETVNETHDRSZ, &header_bytes) < 0 || set_offloads(tap, 0) < 0)
		return error_errno(err, "network interface %s: host_dev_name %s: cannot set it up",
				   config->iface_id, config->host_dev_name);
	return 0;
}

int tap_open(struct tap *tap, const struct network_interface_config *config, struct error *err)
{
	int result;

	*tap = (struct tap) { .ops = &kernel_ops, .fd = -1 };
	result = open_tun(tap, config, err);
	if (result < 0)
		return result;
	result = attach(tap->fd, config->host_dev_name, TAP_FLAGS);
	if (result < 0)
		result = explain(tap, config, -result, err);
	else
		result = check_was_there(tap, config, err);
	if (result == 0)
		result = set_up(tap, config, err);
	if (result < 0)
		tap_close(tap);
	return result;
}

void tap_close(struct tap *tap)
{
	close_fd(&tap->fd);
}

int tap_check(const struct network_interface_config *config, struct error *err)
{
	struct tap tap;
	int result = tap_open(&tap, config, err);

	tap_close(&tap);
	return result;
}

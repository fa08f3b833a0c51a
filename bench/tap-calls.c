/*
 * What a frame costs through a TAP, by the calls that a monitor could use: one system call a frame,
 * or many frames with one io_uring_enter.
 *
 *   tap-calls [ROUNDS]
 *
 * Works in a network namespace of its own (root). Prints nanoseconds of this thread's CPU time a
 * frame: for writes of a protocol that the kernel drops, so that little but the TAP is measured,
 * and for reads of frames that a packet socket has sent. Of all rounds (default 15) the best, since
 * what else runs on the machine only adds.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HEADER	 12
#define BATCH	 32
#define BATCHES	 300
#define MAX_IOVS 48
#define PROTOCOL 0x88b5 /* IEEE 802: for experiments */

static uint8_t frame[HEADER + 2048];
static uint8_t room[1 << 17];

static void must(int result, const char *what)
{
	if (result >= 0)
		return;
	perror(what);
	exit(1);
}

static double cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* A TAP that is up, and a packet socket on it. */
static int open_tap(int *packet_fd)
{
	struct ifreq request = { .ifr_name = "tap0",
				 .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL) };
	int header_bytes = HEADER, send_bytes = 64 << 20, fd, control;

	must(unshare(CLONE_NEWNET), "no network namespace");
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	must(fd, "/dev/net/tun");
	must(ioctl(fd, TUNSETIFF, &request), "TUNSETIFF");
	must(ioctl(fd, TUNSETVNETHDRSZ, &header_bytes), "TUNSETVNETHDRSZ");
	control = socket(AF_INET, SOCK_DGRAM, 0);
	must(ioctl(control, SIOCGIFFLAGS, &request), "SIOCGIFFLAGS");
	request.ifr_flags |= IFF_UP;
	must(ioctl(control, SIOCSIFFLAGS, &request), "SIOCSIFFLAGS");
	must(ioctl(control, SIOCGIFINDEX, &request), "SIOCGIFINDEX");
	close(control);
	usleep(300000); /* until the kernel has seen the carrier */
	address.sll_ifindex = request.ifr_ifindex;
	*packet_fd = socket(AF_PACKET, SOCK_RAW, 0);
	must(bind(*packet_fd, (struct sockaddr *)&address, sizeof(address)), "bind");
	setsockopt(*packet_fd, SOL_SOCKET, SO_SNDBUFFORCE, &send_bytes, sizeof(send_bytes));
	return fd;
}

/* One batch by io_uring; each frame must succeed. */
static void ring_batch(struct io_uring *ring, int reading, const struct iovec *iov,
		       unsigned int count)
{
	struct io_uring_cqe *cqe;
	unsigned int head, seen = 0;

	for (unsigned int i = 0; i < BATCH; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

		if (reading)
			io_uring_prep_readv(sqe, 0, iov, count, 0);
		else
			io_uring_prep_writev(sqe, 0, iov, count, 0);
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	must(io_uring_submit_and_wait(ring, BATCH), "io_uring_enter");
	io_uring_for_each_cqe(ring, head, cqe)
	{
		must(cqe->res, "a frame through io_uring");
		seen++;
	}
	io_uring_cq_advance(ring, seen);
}

/* The same by system calls. */
static void call_batch(int fd, int reading, const struct iovec *iov, unsigned int count)
{
	for (unsigned int i = 0; i < BATCH; i++)
		must((int)(reading ? readv(fd, iov, (int)count) : writev(fd, iov, (int)count)),
		     "a frame through a call");
}

struct way {
	int fd, packet_fd, reading, with_ring;
	struct io_uring *ring;
	const struct iovec *iov;
	unsigned int iov_count;
	size_t frame_bytes;
};

static double measure(const struct way *way)
{
	double spent = 0;

	for (unsigned int n = 0; n < BATCHES; n++) {
		double start;

		for (unsigned int i = 0; way->reading && i < BATCH; i++)
			must((int)send(way->packet_fd, frame + HEADER, way->frame_bytes, 0),
			     "send");
		start = cpu_ns();
		if (way->with_ring)
			ring_batch(way->ring, way->reading, way->iov, way->iov_count);
		else
			call_batch(way->fd, way->reading, way->iov, way->iov_count);
		spent += cpu_ns() - start;
	}
	return spent / (BATCH * BATCHES);
}

/* Writes of header and frame; reads into `parts` buffers, of which the frame needs one. */
static void compare(struct way *way, unsigned int parts, unsigned int rounds)
{
	struct iovec iov[MAX_IOVS] = { { frame, HEADER }, { frame + HEADER, way->frame_bytes } };
	double best[2] = { 0 };

	for (unsigned int i = 0; way->reading && i < parts; i++)
		iov[i] = (struct iovec) { room + i * 2600, 2600 };
	way->iov = iov;
	way->iov_count = way->reading ? parts : 2;
	for (unsigned int round = 0; round < rounds; round++) {
		for (way->with_ring = 0; way->with_ring < 2; way->with_ring++) {
			double ns = measure(way);

			if (round == 0 || ns < best[way->with_ring])
				best[way->with_ring] = ns;
		}
	}
	printf("%-5s %4zu bytes, %2u buffers: %6.0f ns by a call each, %6.0f ns by io_uring, %d at once\n",
	       way->reading ? "read" : "write", way->frame_bytes, way->iov_count, best[0], best[1],
	       BATCH);
}

int main(int argc, char **argv)
{
	unsigned int rounds = argc > 1 ? (unsigned int)strtoul(argv[1], NULL, 10) : 15;
	struct io_uring ring;
	struct way way = { .ring = &ring };

	way.fd = open_tap(&way.packet_fd);
	must(io_uring_queue_init(BATCH, &ring, 0), "io_uring_queue_init");
	must(io_uring_register_files(&ring, &way.fd, 1), "io_uring_register_files");
	memset(frame + HEADER, 0xfe, 12);
	frame[HEADER + 12] = PROTOCOL >> 8;
	frame[HEADER + 13] = PROTOCOL & 0xff;
	for (way.frame_bytes = 60; way.frame_bytes <= 1500; way.frame_bytes += 1440) {
		way.reading = 0;
		compare(&way, 0, rounds);
		way.reading = 1;
		compare(&way, 1, rounds);
		compare(&way, 43, rounds);
	}
	io_uring_queue_exit(&ring);
	return 0;
}

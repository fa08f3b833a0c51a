/*
 * The network device (virtio 1.2, 5.1): buffers and frames that are none, headers that promise what
 * nobody can do. Afterwards the device must still bring a question to the host and its answer back:
 * who has HOST_ADDRESS (RFC 826). See hostile.h.
 */
#include "hostile.h"
#include "text.h"

#define NEXT  VIRTQ_DESC_NEXT
#define WRITE VIRTQ_DESC_WRITE

#define RECEIVE	 0
#define TRANSMIT 1

#define F_CSUM	     (1ULL << 0)
#define F_GUEST_CSUM (1ULL << 1)
#define F_GUEST_TSO4 (1ULL << 7)
#define F_HOST_TSO4  (1ULL << 11)
#define F_HOST_TSO6  (1ULL << 12)
#define F_HOST_ECN   (1ULL << 13)
#define F_MRG_RXBUF  (1ULL << 15)
#define OFFLOADS     (F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN)

#define HEADER_BYTES 12
#define FRAME_BYTES  60
#define BUFFER_BYTES 2048U
#define BUFFERS	     16UL

#define NEEDS_CSUM 1
#define GSO_TCPV4  1
#define GSO_TCPV6  4
#define GSO_ECN	   0x80

struct header {
	uint8_t flags, gso_type;
	uint16_t header_bytes, gso_bytes, checksum_start, checksum_offset, buffers;
};

/* Ethernet and ARP: a broadcast from 02:00:00:00:00:02, 10.0.0.2, that asks for 10.0.0.1. */
static const uint8_t question[] = {
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,	0, 0, 0, 0, 2, 8, 6,		  /* Ethernet */
	0,    1,    8,	  0,	6,    4,    0,	1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, /* from */
	0,    0,    0,	  0,	0,    0,    10, 0, 0, 1,			  /* to */
};
#define ARP_OPERATION 21 /* the low byte of the operation: 2 is an answer */

static struct rig transmit, receive;

bool net_init(void)
{
	struct virtio_device *device = virtio_find(VIRTIO_NET, 0);

	if (!device)
		return false;
	rig_init(&transmit, device, TRANSMIT);
	rig_init(&receive, device, RECEIVE);
	return true;
}

struct rig *net_rig(void)
{
	return &transmit;
}

static void set_up(struct rig *rig)
{
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
	expect(rig_set_ready(rig), "queue_ready", rig->queue);
}

void net_start(uint64_t features)
{
	uint32_t status;

	rig_reset(&transmit);
	rig_reset(&receive);
	status = rig_negotiate(&transmit, features | VIRTIO_F_VERSION_1);
	expect(status & VIRTIO_FEATURES_OK, "features_ok", status);
	set_up(&transmit);
	set_up(&receive);
	rig_go(&transmit);
}

static struct header *header_of(struct rig *rig)
{
	return (struct header *)(void *)rig->memory->header;
}

static void put_question(struct rig *rig)
{
	memset(rig->memory->header, 0, HEADER_BYTES);
	memset(rig->memory->data, 0, FRAME_BYTES);
	memcpy(rig->memory->data, question, sizeof(question));
	rig_put(rig, 0, rig_header(rig), HEADER_BYTES, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), FRAME_BYTES, 0, 0);
}

/* A frame of descriptors that are in place is taken, whatever becomes of it. */
static void expect_taken(struct rig *rig, const char *what, uint64_t value)
{
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig), what, value);
	expect_not_broken(rig);
}

static void give_buffers(void)
{
	for (uint16_t i = 0; i < BUFFERS; i++) {
		rig_put(&receive, i, rig_data(&receive) + (uint64_t)i * BUFFER_BYTES, BUFFER_BYTES,
			WRITE, 0);
		rig_offer(&receive, i);
	}
	rig_notify(&receive);
}

/* The host's own frames may come first, and fill the buffers. */
static bool receive_answer(void)
{
	while (rig_wait(&receive)) {
		uint32_t id = receive.used->ring[(receive.used_seen - 1) & (RIG_QUEUE_SIZE - 1)].id;
		const uint8_t *frame =
			receive.memory->data + (id % BUFFERS) * (size_t)BUFFER_BYTES + HEADER_BYTES;

		if (!expect(id < BUFFERS, "buffer", id))
			return false;
		if (frame[12] == 8 && frame[13] == 6 && frame[ARP_OPERATION] == 2)
			return true;
		rig_offer(&receive, (uint16_t)id);
		rig_notify(&receive);
	}
	return false;
}

void expect_net_works(void)
{
	net_start(0);
	give_buffers();
	put_question(&transmit);
	expect_taken(&transmit, "a_good_frame", 0);
	expect(receive_answer(), "answer_of_the_host", receive.used->index);
	expect(rig_guards_hold(&transmit) && rig_guards_hold(&receive), "guards", 0);
}

static void frame_that_is_writable(struct rig *rig)
{
	put_question(rig);
	rig_put(rig, 1, rig_data(rig), FRAME_BYTES, WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect_broken(rig);
}

static void frame_with_room_behind(struct rig *rig)
{
	put_question(rig);
	rig_put(rig, 1, rig_data(rig), FRAME_BYTES, NEXT, 2);
	rig_put(rig, 2, rig_status(rig), 1, WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect_broken(rig);
}

static void header_of_eleven_bytes(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), HEADER_BYTES - 1, 0, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect_broken(rig);
}

static void frames_of_few_bytes(struct rig *rig)
{
	put_question(rig);
	rig_put(rig, 0, rig_header(rig), HEADER_BYTES, 0, 0);
	expect_taken(rig, "nothing_but_a_header", 0);
	for (uint32_t bytes = 1; bytes < FRAME_BYTES; bytes++) {
		rig_put(rig, 0, rig_header(rig), HEADER_BYTES, NEXT, 1);
		rig_put(rig, 1, rig_data(rig), bytes, 0, 0);
		expect_taken(rig, "bytes", bytes);
	}
}

static void frames_in_many_pieces(struct rig *rig)
{
	put_question(rig);
	for (uint16_t i = 0; i < HEADER_BYTES + FRAME_BYTES; i++)
		rig_put(rig, i,
			i < HEADER_BYTES ? rig_header(rig) + i : rig_data(rig) + i - HEADER_BYTES,
			1, i < HEADER_BYTES + FRAME_BYTES - 1 ? NEXT : 0, (uint16_t)(i + 1));
	expect_taken(rig, "pieces_of_one_byte", 0);
	for (uint16_t i = 0; i < RIG_QUEUE_SIZE; i++)
		rig_put(rig, i, rig_header(rig), 1, i < RIG_QUEUE_SIZE - 1 ? NEXT : 0,
			(uint16_t)(i + 1));
	expect_taken(rig, "as_many_as_the_queue_has", 0);
}

static void frames_too_long(struct rig *rig)
{
	static const uint32_t lengths[] = { 1515,  9018,  65535, 65536,	 65550,	  65554,  65565,
					    65566, 65567, 70000, 131072, 1 << 20, 1 << 24 };

	put_question(rig);
	for (unsigned int i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		rig_put(rig, 1, 0x100000, lengths[i], 0, 0); /* the program itself */
		expect_taken(rig, "length", lengths[i]);
	}
	/* All that a chain may have. */
	for (uint16_t i = 1; i < RIG_QUEUE_SIZE - 1; i++)
		rig_put(rig, i, 0, 1 << 24, NEXT, (uint16_t)(i + 1));
	rig_put(rig, RIG_QUEUE_SIZE - 1, 0, 1 << 20, 0, 0);
	expect_taken(rig, "nearly_4_gib", 0);
}

/* With and without the features that would allow them: taken, sent or dropped, and nothing else. */
static void headers_of_all_kinds(struct rig *rig)
{
	static const uint16_t numbers[] = {
		0, 1, 13, 14, 34, 40, 59, 60, 61, 1460, 0x7fff, 0xffff
	};
	static const uint8_t kinds[] = { 0, GSO_TCPV4, GSO_TCPV6 };
	const unsigned int count = sizeof(numbers) / sizeof(numbers[0]);
	struct header *header = header_of(rig);

	put_question(rig);
	for (unsigned int type = 0; type < 256; type++) {
		header->gso_type = (uint8_t)type;
		header->flags = (uint8_t)(type * 37);
		expect_taken(rig, "gso_type", type);
	}
	for (unsigned int i = 0; i < count * count; i++) {
		header->flags = NEEDS_CSUM;
		header->gso_type = (uint8_t)(kinds[i % 3] | (i & 4 ? GSO_ECN : 0));
		header->header_bytes = numbers[i % count];
		header->gso_bytes = numbers[i / count];
		header->checksum_start = numbers[(i + 5) % count];
		header->checksum_offset = numbers[(i * 7) % count];
		header->buffers = numbers[(i + 2) % count];
		expect_taken(rig, "header", i);
	}
}

/* A whole header of IPv4 and TCP, so that the host's segmentation has something to work on. */
static void segments_of_nothing(struct rig *rig)
{
	struct header *header = header_of(rig);
	uint64_t state = 0x853c49e6748fea9bULL;

	put_question(rig);
	for (uint64_t round = 0; round < rounds; round++) {
		uint64_t numbers = random_next(&state), more = random_next(&state);
		uint8_t *frame = rig->memory->data;
		uint32_t bytes = (uint32_t)(numbers >> 48) + 14;

		frame[12] = 8;
		frame[13] = 0;
		frame[14] = 0x45;
		frame[16] = (uint8_t)(more >> 8);
		frame[17] = (uint8_t)more;
		frame[23] = numbers & 1 ? 6 : 17;
		frame[46] = (uint8_t)(more >> 16 & 0xf0);
		*header = (struct header) {
			.flags = NEEDS_CSUM,
			.gso_type = numbers & 2 ? GSO_TCPV4 : GSO_TCPV6,
			.header_bytes = (uint16_t)(numbers & 4 ? 54 : more >> 24),
			.gso_bytes = (uint16_t)(numbers >> 16 & 0x7ff),
			.checksum_start = (uint16_t)(numbers & 8 ? 34 : more >> 40),
			.checksum_offset = (uint16_t)(numbers & 0x10 ? 16 : more >> 48),
		};
		rig_put(rig, 1, rig_data(rig), bytes < RIG_DATA_BYTES ? bytes : RIG_DATA_BYTES, 0,
			0);
		expect_taken(rig, "segments", round);
	}
}

static void offer_bad_buffer(void)
{
	rig_offer(&receive, 0);
	rig_notify(&receive);
	expect_broken(&receive);
}

static void buffer_that_is_readable(struct rig *rig)
{
	(void)rig;
	rig_put(&receive, 0, rig_data(&receive), BUFFER_BYTES, 0, 0);
	offer_bad_buffer();
}

static void buffer_that_is_half_readable(struct rig *rig)
{
	(void)rig;
	rig_put(&receive, 0, rig_header(&receive), HEADER_BYTES, NEXT, 1);
	rig_put(&receive, 1, rig_data(&receive), BUFFER_BYTES, WRITE, 0);
	offer_bad_buffer();
}

static void buffer_of_eleven_bytes(struct rig *rig)
{
	(void)rig;
	rig_put(&receive, 0, rig_data(&receive), HEADER_BYTES - 1, WRITE, 0);
	offer_bad_buffer();
}

static void buffer_outside(struct rig *rig)
{
	(void)rig;
	rig_put(&receive, 0, end_of_memory() - 16, BUFFER_BYTES, WRITE, 0);
	offer_bad_buffer();
}

static void buffer_loop(struct rig *rig)
{
	(void)rig;
	rig_put(&receive, 0, rig_data(&receive), BUFFER_BYTES, WRITE | NEXT, 0);
	offer_bad_buffer();
}

static void receive_index_jumps(struct rig *rig)
{
	(void)rig;
	receive.avail->index = 0x8000;
	memory_barrier();
	rig_notify(&receive);
	expect_broken(&receive);
}

/* Frames come, since the host answers; none fits. */
static void buffers_too_small(struct rig *rig)
{
	for (uint32_t bytes = HEADER_BYTES; bytes < HEADER_BYTES + FRAME_BYTES; bytes += 7) {
		for (uint16_t i = 0; i < BUFFERS; i++) {
			rig_put(&receive, i, rig_data(&receive) + (uint64_t)i * BUFFER_BYTES, bytes,
				WRITE, 0);
			rig_offer(&receive, i);
		}
		rig_notify(&receive);
		put_question(rig);
		expect_taken(rig, "frame", bytes);
		expect_witness();
	}
	expect_not_broken(rig);
}

/* All buffers in one place, in pieces of one byte, in the rings' own pages. */
static void buffers_in_odd_places(struct rig *rig)
{
	for (uint16_t i = 0; i < 128; i++)
		rig_put(&receive, i, rig_data(&receive) + i, 1,
			(uint16_t)(i == 127 ? WRITE : WRITE | NEXT), (uint16_t)(i + 1));
	for (unsigned int i = 0; i < BUFFERS; i++)
		rig_offer(&receive, 0);
	rig_put(&receive, 128, rig_used(&receive), PAGE_BYTES, WRITE, 0);
	rig_put(&receive, 129, rig_table(&receive), PAGE_BYTES, WRITE, 0);
	rig_offer(&receive, 128);
	rig_offer(&receive, 129);
	rig_notify(&receive);
	for (unsigned int i = 0; i < 2 * BUFFERS; i++) {
		put_question(rig);
		expect_taken(rig, "frame", i);
	}
	expect_witness();
	if (virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET)
		count_broken();
}

#define UNTOUCHED 0x5c

static void reset_between_question_and_answer(struct rig *rig)
{
	for (unsigned int i = 0; i < 20; i++) {
		net_start(i & 1 ? F_MRG_RXBUF : 0);
		give_buffers();
		put_question(rig);
		rig_offer(rig, 0);
		rig_notify(rig);
		if (i & 2)
			expect_witness();
		virtio_write(rig->device, VIRTIO_STATUS, 0);
		bytes_fill(receive.memory->data, UNTOUCHED, BUFFERS * BUFFER_BYTES);
		for (unsigned int j = 0; j < 3; j++)
			expect_witness();
		expect(bytes_are(receive.memory->data, UNTOUCHED, BUFFERS * BUFFER_BYTES), "data",
		       i);
	}
}

static void receive_queue_reset(struct rig *rig)
{
	net_start(F_RING_RESET);
	for (unsigned int i = 0; i < 10; i++) {
		give_buffers();
		put_question(rig);
		expect_taken(rig, "frame", i);
		virtio_write(rig->device, VIRTIO_QUEUE_SEL, RECEIVE);
		virtio_write(rig->device, VIRTIO_QUEUE_RESET, 1);
		bytes_fill(receive.memory->data, UNTOUCHED, BUFFERS * BUFFER_BYTES);
		expect_witness();
		expect(bytes_are(receive.memory->data, UNTOUCHED, BUFFERS * BUFFER_BYTES), "data",
		       i);
		receive.avail->index = receive.used->index = receive.used_seen = 0;
		set_up(&receive);
	}
	give_buffers();
	put_question(rig);
	expect_taken(rig, "frame", 10);
	expect(receive_answer(), "answer_of_the_host", 0);
}

static void queues_beyond_the_pair(struct rig *rig)
{
	static const uint32_t queues[] = { 2, 3, 255, 0xffff, 0x10000, 0xffffffff };

	for (unsigned int i = 0; i < sizeof(queues) / sizeof(queues[0]); i++) {
		virtio_write(rig->device, VIRTIO_QUEUE_SEL, queues[i]);
		expect(virtio_read(rig->device, VIRTIO_QUEUE_NUM_MAX) == 0, "size", queues[i]);
		virtio_write(rig->device, VIRTIO_QUEUE_READY, 1);
		virtio_write(rig->device, VIRTIO_QUEUE_NOTIFY, queues[i]);
	}
	expect_not_broken(rig);
}

static void one_queue_alone(struct rig *rig)
{
	for (unsigned int only = 0; only < 2; only++) {
		struct rig *one = only ? &transmit : &receive;

		rig_reset(&transmit);
		rig_reset(&receive);
		rig_negotiate(one, VIRTIO_F_VERSION_1);
		set_up(one);
		rig_go(one);
		for (uint32_t queue = 0; queue < 4; queue++)
			virtio_write(rig->device, VIRTIO_QUEUE_NOTIFY, queue);
		if (only) {
			put_question(rig);
			expect_taken(rig, "frame", 0);
		} else {
			give_buffers();
		}
		expect_witness();
		expect_not_broken(rig);
	}
}

static void flood_of_frames(struct rig *rig)
{
	struct header *header = header_of(rig);

	put_question(rig);
	for (unsigned int i = 0; i < RIG_QUEUE_SIZE; i++)
		rig->avail->ring[i] = 0;
	for (uint64_t i = 0; i < rounds; i++) {
		uint64_t start = tsc_read();

		header->gso_type = i & 1 ? 0xff : 0; /* dropped, or sent */
		rig->avail->index = (uint16_t)(rig->avail->index + RIG_QUEUE_SIZE);
		memory_barrier();
		rig_notify(rig);
		while (rig->used->index != rig->avail->index && tsc_read() - start < patience)
			cpu_relax();
		if (!expect(rig->used->index == rig->avail->index, "answers", i))
			return;
	}
	expect_witness();
}

static const struct hostile_case cases[] = {
	{ "net-frame-that-is-writable", frame_that_is_writable, 0 },
	{ "net-frame-with-room-behind", frame_with_room_behind, 0 },
	{ "net-header-of-eleven-bytes", header_of_eleven_bytes, 0 },
	{ "net-frames-of-few-bytes", frames_of_few_bytes, 0 },
	{ "net-frames-in-many-pieces", frames_in_many_pieces, 0 },
	{ "net-frames-too-long", frames_too_long, 0 },
	{ "net-headers-of-all-kinds", headers_of_all_kinds, 0 },
	{ "net-headers-of-all-kinds-allowed", headers_of_all_kinds, OFFLOADS },
	{ "net-segments-of-nothing", segments_of_nothing, OFFLOADS },
	{ "net-buffer-that-is-readable", buffer_that_is_readable, 0 },
	{ "net-buffer-that-is-half-readable", buffer_that_is_half_readable, 0 },
	{ "net-buffer-of-eleven-bytes", buffer_of_eleven_bytes, 0 },
	{ "net-buffer-of-eleven-bytes-mergeable", buffer_of_eleven_bytes, F_MRG_RXBUF },
	{ "net-buffer-outside", buffer_outside, 0 },
	{ "net-buffer-loop", buffer_loop, 0 },
	{ "net-receive-index-jumps", receive_index_jumps, 0 },
	{ "net-buffers-too-small", buffers_too_small, 0 },
	{ "net-buffers-too-small-mergeable", buffers_too_small, F_MRG_RXBUF },
	{ "net-buffers-in-odd-places", buffers_in_odd_places, 0 },
	{ "net-buffers-in-odd-places-mergeable", buffers_in_odd_places, F_MRG_RXBUF },
	{ "net-reset-between-question-and-answer", reset_between_question_and_answer, 0 },
	{ "net-receive-queue-reset", receive_queue_reset, 0 },
	{ "net-queues-beyond-the-pair", queues_beyond_the_pair, 0 },
	{ "net-one-queue-alone", one_queue_alone, 0 },
	{ "net-flood-of-frames", flood_of_frames, 0 },
};

const struct hostile_suite suite_net = SUITE("net", NEED_NET, false, cases);

/* As in race.c: what the device may write is in the rigs' memory, what it may send is anything. */
static void run_race(void (*step)(struct rig *rig, uint64_t numbers), struct rig *raced)
{
	race_start(raced, step);
	for (uint64_t round = 0; round < rounds; round++) {
		net_start(OFFLOADS | F_MRG_RXBUF | F_INDIRECT_DESC);
		give_buffers();
		put_question(&transmit);
		for (unsigned int i = 0; i < 64; i++) {
			rig_offer(&transmit, 0);
			rig_offer(&receive, (uint16_t)(i % BUFFERS));
			if (i % 4 == 3) {
				rig_notify(&receive);
				rig_notify(&transmit);
			}
		}
		if (round % 8 == 0)
			expect_witness();
	}
	race_end();
	rig_reset(&transmit);
	rig_reset(&receive);
	expect_witness();
}

static void rewrite_frames(struct rig *rig, uint64_t numbers)
{
	struct header *header = header_of(rig);

	race_rewrite_descriptors(rig, numbers & ~(1ULL << 10)); /* the flags stay */
	header->flags = (uint8_t)(numbers >> 20);
	header->gso_type = (uint8_t)(numbers >> 28) & 0x87;
	header->gso_bytes = (uint16_t)(numbers >> 36);
	header->checksum_start = (uint16_t)(numbers >> 44) & 0x7f;
}

static void race_frames(struct rig *rig)
{
	run_race(rewrite_frames, rig);
}

static void race_transmit_descriptors(struct rig *rig)
{
	run_race(race_rewrite_descriptors, rig);
}

static void race_receive_descriptors(struct rig *rig)
{
	(void)rig;
	run_race(race_rewrite_descriptors, &receive);
}

static const struct hostile_case races[] = {
	{ "race-net-frames", race_frames, 0 },
	{ "race-net-transmit", race_transmit_descriptors, 0 },
	{ "race-net-receive", race_receive_descriptors, 0 },
};

const struct hostile_suite suite_race_net = SUITE("race-net", NEED_NET_AND_TWO_CPUS, false, races);

/* A forker for a fuzzer: see fake_forker.h. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_forker.h"
#include "tests/fuzz/fuzz_state_file.h"

#define CHANGES_AT_MOST 16
#define DAMAGE_BYTES	(256 * KIB) /* of larger files: their ends, where their records are */

void fake_forker_open(struct fake_forker *fake)
{
	int ends[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
	fake->forker.fd = ends[0];
	fake->fd = fcntl(ends[1], F_DUPFD_CLOEXEC, FAKE_FDS_FROM);
	FUZZ_CHECK(fake->fd >= 0);
	close(ends[1]);
}

static void take_order(struct fake_forker *fake)
{
	static char words[FORKER_MAX_WORDS_BYTES];
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(FORKER_MAX_DESCRIPTORS * sizeof(int))];
	} control;
	struct iovec content = { words, sizeof(words) - 1 };
	struct msghdr message = { .msg_iov = &content,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	ssize_t got = recvmsg(fake->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (got <= 0)
		return;
	FUZZ_CHECK(CMSG_FIRSTHDR(&message) && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
	FUZZ_CHECK(control.head.cmsg_len == CMSG_LEN(FORKER_MAX_DESCRIPTORS * sizeof(int)));
	fake_forker_forget(fake);
	words[got] = '\0';
	fake->words = strdup(words);
	for (unsigned int i = 0; i < FORKER_MAX_DESCRIPTORS; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(&control.head) + i * sizeof(fd), sizeof(fd));
		fake->descriptors[i] = fcntl(fd, F_DUPFD_CLOEXEC, FAKE_FDS_FROM);
		FUZZ_CHECK(fake->descriptors[i] >= 0);
		close(fd);
	}
}

void fake_forker_close(struct fake_forker *fake)
{
	if (fake->fd < 0)
		return;
	take_order(fake);
	forker_close(&fake->forker);
	close(fake->fd);
	fake->fd = -1;
}

void fake_forker_forget(struct fake_forker *fake)
{
	if (!fake->words)
		return;
	for (unsigned int i = 0; i < FORKER_MAX_DESCRIPTORS; i++)
		close(fake->descriptors[i]);
	free(fake->words);
	fake->words = NULL;
}

void fake_forker_answer(struct fake_forker *fake, struct fuzz_input *input)
{
	struct forker_answer answer = { .process_id = 4711 };
	uint8_t how = input_u8(input);
	size_t length = sizeof(answer);

	if (fake->fd < 0)
		return;
	take_order(fake);
	switch (how % 5) {
	case 0:
		break;
	case 1: /* a refusal, of any number */
		answer.code = (int32_t)input_u32(input);
		memset(answer.message, 'x', sizeof(answer.message));
		break;
	case 2:
		length = input_u8(input) + 1U;
		break;
	case 3: /* it has ended */
		shutdown(fake->fd, SHUT_RDWR);
		return;
	default: /* later */
		return;
	}
	(void)!send(fake->fd, &answer, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool fake_forker_order(const struct fake_forker *fake, struct forker_order *order)
{
	*order = (struct forker_order) { .answer_fd = -1 };
	if (!fake->words)
		return false;
	order->given = true;
	order->words = strdup(fake->words);
	for (unsigned int i = 0; i < FORKER_MAX_DESCRIPTORS; i++)
		order->descriptors[i] = fcntl(fake->descriptors[i], F_DUPFD_CLOEXEC, 0);
	return true;
}

void fake_damage(int fd, struct fuzz_input *input, bool mend)
{
	static uint8_t bytes[DAMAGE_BYTES];
	unsigned int changes = input_u8(input) % (CHANGES_AT_MOST + 1);
	struct stat status;
	size_t length;
	off_t from;

	if (fd < 0 || fstat(fd, &status) < 0 || status.st_size == 0)
		return;
	length = (size_t)status.st_size < sizeof(bytes) ? (size_t)status.st_size : sizeof(bytes);
	from = status.st_size - (off_t)length;
	FUZZ_CHECK(pread(fd, bytes, length, from) == (ssize_t)length);
	for (unsigned int i = 0; i < changes && input_left(input); i++) {
		size_t at = input_u32(input) % length;

		bytes[at] ^= input_u8(input);
	}
	if (mend && from == 0)
		mend_state_file(bytes, length);
	/* A base is sealed once somebody runs from it. */
	(void)!pwrite(fd, bytes, length, from);
}

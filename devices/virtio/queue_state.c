/*
 * A virtqueue in a state file: see include/mayfly/virtqueue.h.
 *
 * What is in the rings is in guest memory. What a queue knows beside it is where they are and how
 * far it has come. A chain that was taken and never given back, such as the one that broke the
 * device, is counted by the difference of the two indices.
 */
#include <stdio.h>

#include "mayfly/virtqueue.h"

void virtqueue_save(const struct virtqueue *queue, struct state_writer *writer)
{
	state_put_u16(writer, queue->size);
	state_put_u64(writer, queue->descriptors_gpa);
	state_put_u64(writer, queue->available_gpa);
	state_put_u64(writer, queue->used_gpa);
	state_put_u8(writer, queue->ready);
	state_put_u16(writer, queue->next_available);
	state_put_u16(writer, queue->next_used);
}

static void refuse(struct state_section *section, const char *name, const char *field,
		   const char *reason, uint64_t value)
{
	char full_name[STATE_MAX_FIELD_BYTES];

	snprintf(full_name, sizeof(full_name), "%s %s", name, field);
	state_refuse(section, full_name, "%s (0x%llx)", reason, (unsigned long long)value);
}

void virtqueue_restore(struct virtqueue *queue, uint64_t features, const char *name,
		       struct state_section *section)
{
	struct virtqueue read = *queue;
	uint16_t next_available, next_used;
	bool ready;

	read.size = state_get_u16(section);
	read.descriptors_gpa = state_get_u64(section);
	read.available_gpa = state_get_u64(section);
	read.used_gpa = state_get_u64(section);
	ready = state_get_bool(section, "queue ready");
	next_available = state_get_u16(section);
	next_used = state_get_u16(section);
	if (state_failed(section))
		return;
	/* The driver writes no other size, ready or not. */
	if (read.size == 0 || read.size > read.size_max || (read.size & (read.size - 1)))
		refuse(section, name, "size", "it is not possible", read.size);
	else if (ready && virtqueue_enable(&read, features) < 0)
		refuse(section, name, "addresses", read.fault, read.fault_value);
	else if ((uint16_t)(next_available - next_used) > (ready ? read.size : 0))
		refuse(section, name, "indices", "more chains are out than there can be",
		       (uint16_t)(next_available - next_used));
	else if (!ready && next_used)
		refuse(section, name, "indices", "the queue is not in use", next_used);
	if (state_failed(section))
		return;
	read.next_available = next_available;
	read.next_used = read.published_used = next_used;
	*queue = read;
}

/* virtio-mmio: see virtio.h. */
#include "end.h"
#include "interrupts.h"
#include "pages.h"
#include "params.h"
#include "text.h"
#include "virtio.h"

#define DEVICE_PARAMETER "virtio_mmio.device"

static struct virtio_device devices[VIRTIO_DEVICES_MAX];
static unsigned int device_count;
static bool devices_read;

/* SIZE@ADDRESS:IRQ[:ID], where SIZE may end in K. Runs in ring 3. */
static uint64_t read_device(void *argument)
{
	const char *at = argument;
	struct virtio_device *device = &devices[device_count];
	uint64_t irq;

	while (*at && *at != '@')
		at++;
	if (*at != '@')
		return false;
	at = text_number(at + 1, &device->base);
	if (!at || *at != ':' || !text_number(at + 1, &irq) || irq >= INTERRUPT_PINS)
		return false;
	device->irq = (uint32_t)irq;
	return true;
}

static void read_devices(void)
{
	const char *value;

	if (devices_read)
		return;
	devices_read = true;
	while ((value = params_nth(DEVICE_PARAMETER, device_count))) {
		struct virtio_device *device = &devices[device_count];

		if (device_count == VIRTIO_DEVICES_MAX)
			guest_fail("there are more than %d virtio devices", VIRTIO_DEVICES_MAX);
		if (!user_run(read_device, (void *)(uintptr_t)value))
			guest_fail("the parameter " DEVICE_PARAMETER " cannot be '%s'", value);
		if (virtio_read(device, VIRTIO_MAGIC) != VIRTIO_MAGIC_VALUE)
			guest_fail("there is no virtio device at %#llx",
				   (unsigned long long)device->base);
		if (virtio_read(device, VIRTIO_VERSION) != 2)
			guest_fail("the virtio device at %#llx has version %u instead of 2",
				   (unsigned long long)device->base,
				   virtio_read(device, VIRTIO_VERSION));
		device->id = virtio_read(device, VIRTIO_DEVICE_ID);
		device_count++;
	}
}

unsigned int virtio_count(void)
{
	read_devices();
	return device_count;
}

struct virtio_device *virtio_at(unsigned int index)
{
	return &devices[index];
}

struct virtio_device *virtio_find(uint32_t id, unsigned int index)
{
	for (unsigned int i = 0; i < virtio_count(); i++) {
		if (devices[i].id == id && index-- == 0)
			return &devices[i];
	}
	return NULL;
}

static uint32_t offered_features(const struct virtio_device *device, uint32_t half)
{
	virtio_write(device, VIRTIO_DEVICE_FEATURES_SEL, half);
	return virtio_read(device, VIRTIO_DEVICE_FEATURES);
}

void virtio_open(struct virtio_device *device, uint64_t wanted)
{
	uint64_t offered;

	virtio_write(device, VIRTIO_STATUS, 0);
	while (virtio_read(device, VIRTIO_STATUS) != 0)
		cpu_relax();
	virtio_write(device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	offered = (uint64_t)offered_features(device, 1) << 32 | offered_features(device, 0);
	device->features = offered & (wanted | VIRTIO_F_VERSION_1);
	if (!(device->features & VIRTIO_F_VERSION_1))
		guest_fail("the virtio device at %#llx is not of version 1",
			   (unsigned long long)device->base);
	for (uint32_t half = 0; half < 2; half++) {
		virtio_write(device, VIRTIO_DRIVER_FEATURES_SEL, half);
		virtio_write(device, VIRTIO_DRIVER_FEATURES,
			     (uint32_t)(device->features >> 32 * half));
	}
	virtio_write(device, VIRTIO_STATUS,
		     VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	if (!(virtio_read(device, VIRTIO_STATUS) & VIRTIO_FEATURES_OK))
		guest_fail("the virtio device at %#llx refuses the features %#llx",
			   (unsigned long long)device->base, (unsigned long long)device->features);
}

static void write_address(const struct virtio_device *device, uint32_t offset,
			  const volatile void *address)
{
	virtio_write(device, offset, (uint32_t)(uintptr_t)address);
	virtio_write(device, offset + 4, (uint32_t)((uintptr_t)address >> 32));
}

void virtio_queue_open(struct virtqueue *queue, struct virtio_device *device, uint16_t index,
		       uint16_t size)
{
	uint32_t size_max;
	uint8_t *page;

	virtio_write(device, VIRTIO_QUEUE_SEL, index);
	size_max = virtio_read(device, VIRTIO_QUEUE_NUM_MAX);
	if (size > VIRTIO_QUEUE_SIZE)
		size = VIRTIO_QUEUE_SIZE;
	if (size > size_max)
		size = (uint16_t)size_max;
	if (size == 0)
		guest_fail("the virtio device at %#llx has no queue %u",
			   (unsigned long long)device->base, index);
	/* A page for what the driver writes, one for what the device writes. */
	page = pages_take(2);
	*queue = (struct virtqueue) {
		.device = device,
		.index = index,
		.size = size,
		.desc = (struct virtq_desc *)page,
		.avail = (struct virtq_avail *)(page + PAGE_BYTES / 2),
		.used = (struct virtq_used *)(page + PAGE_BYTES),
		.free_count = size,
	};
	for (uint16_t i = 0; i < size; i++)
		queue->desc[i].next = (uint16_t)(i + 1);
	virtio_write(device, VIRTIO_QUEUE_NUM, size);
	write_address(device, VIRTIO_QUEUE_DESC_LOW, queue->desc);
	write_address(device, VIRTIO_QUEUE_DRIVER_LOW, queue->avail);
	write_address(device, VIRTIO_QUEUE_DEVICE_LOW, queue->used);
	virtio_write(device, VIRTIO_QUEUE_READY, 1);
	if (virtio_read(device, VIRTIO_QUEUE_READY) != 1)
		guest_fail("the virtio device at %#llx refuses queue %u",
			   (unsigned long long)device->base, index);
	queue->avail->flags = VIRTQ_AVAIL_NO_INTERRUPT;
}

void virtio_ready(struct virtio_device *device)
{
	virtio_write(device, VIRTIO_STATUS, virtio_read(device, VIRTIO_STATUS) | VIRTIO_DRIVER_OK);
}

static void on_interrupt(struct trap_frame *frame)
{
	for (unsigned int i = 0; i < device_count; i++) {
		struct virtio_device *device = &devices[i];

		if (interrupt_vector(device->irq) != frame->vector)
			continue;
		virtio_write(device, VIRTIO_INTERRUPT_ACK,
			     virtio_read(device, VIRTIO_INTERRUPT_STATUS));
		device->interrupt_tsc = frame->tsc;
		device->interrupts++;
	}
	interrupt_done();
}

void virtio_enable_interrupt(struct virtio_device *device)
{
	interrupts_init();
	interrupt_route(device->irq, on_interrupt);
}

uint16_t virtqueue_add(struct virtqueue *queue, const struct virtq_buffer *buffers,
		       unsigned int count)
{
	uint16_t head = queue->free_head;
	struct virtq_desc *desc = NULL;

	if (count > queue->free_count)
		guest_fail("virtqueue %u has no room for %u descriptors", queue->index, count);
	for (unsigned int i = 0; i < count; i++) {
		desc = &queue->desc[queue->free_head];
		desc->address = (uintptr_t)buffers[i].data;
		desc->length = buffers[i].bytes;
		desc->flags = (uint16_t)(VIRTQ_DESC_NEXT |
					 (buffers[i].device_writes ? VIRTQ_DESC_WRITE : 0));
		queue->free_head = desc->next;
	}
	if (desc)
		desc->flags &= (uint16_t)~VIRTQ_DESC_NEXT;
	queue->free_count = (uint16_t)(queue->free_count - count);
	queue->avail->ring[queue->avail->index % queue->size] = head;
	compiler_barrier(); /* the entry before the index (2.7.13) */
	queue->avail->index++;
	return head;
}

void virtqueue_notify(struct virtqueue *queue)
{
	memory_barrier(); /* the index before the look at the flag (2.7.13.4.1) */
	if (!(queue->used->flags & VIRTQ_USED_NO_NOTIFY))
		virtio_write(queue->device, VIRTIO_QUEUE_NOTIFY, queue->index);
}

/* Gives a chain's descriptors back. */
static void release(struct virtqueue *queue, uint16_t head)
{
	uint16_t last = head;

	queue->free_count++;
	while (queue->desc[last].flags & VIRTQ_DESC_NEXT) {
		last = queue->desc[last].next;
		queue->free_count++;
	}
	queue->desc[last].next = queue->free_head;
	queue->free_head = head;
}

int virtqueue_take(struct virtqueue *queue, uint32_t *written)
{
	uint32_t id;

	if (queue->used_seen == queue->used->index)
		return -1;
	compiler_barrier();
	id = queue->used->ring[queue->used_seen % queue->size].id;
	if (id >= queue->size)
		guest_fail("virtqueue %u: the device used a chain %u, which does not exist",
			   queue->index, id);
	if (written)
		*written = queue->used->ring[queue->used_seen % queue->size].length;
	queue->used_seen++;
	release(queue, (uint16_t)id);
	return (int)id;
}

uint16_t virtqueue_wait(struct virtqueue *queue, uint32_t *written)
{
	bool asleep = !(queue->avail->flags & VIRTQ_AVAIL_NO_INTERRUPT);
	int head;

	while ((head = virtqueue_take(queue, written)) < 0) {
		if (asleep)
			cpu_wait();
		else
			cpu_relax();
	}
	return (uint16_t)head;
}

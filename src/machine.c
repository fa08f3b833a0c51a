/*
 * The machine: see machine.h. How it boots, what is asked of it while it lives, how it ends; its
 * drives.
 *
 * KVM, vCPUs and their threads are there already (machine_prepare.c). Kernel and initrd are mapped
 * into guest memory under KVM's slots: nothing of it has been touched, so that KVM has no page to
 * forget.
 */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "machine_private.h"
#include "startup_trace.h"

void machine_mark(struct machine *machine, enum startup_stage stage)
{
	startup_mark(machine->request.options->startup_trace, stage);
}

static void on_escape(void *context)
{
	struct machine *machine = context;

	machine->request.on_end(machine->request.context, VMM_EXIT_OK);
}

struct boot_virtio_device machine_virtio_slot(unsigned int slot)
{
	return (struct boot_virtio_device) {
		.base = LAYOUT_VIRTIO_MMIO + slot * LAYOUT_VIRTIO_MMIO_BYTES,
		.cmdline_base = LAYOUT_VIRTIO_MMIO_CMDLINE + slot * LAYOUT_VIRTIO_MMIO_BYTES,
		.irq = LAYOUT_IRQ_VIRTIO_FIRST + slot,
	};
}

/* The root drive comes first, whatever its place in the configuration: the guest names it /dev/vda.
 */
const struct drive_config *machine_take_config(struct machine *machine,
					       const struct vm_config *config)
{
	const struct drive_config *root = NULL;
	unsigned int next = 0;

	machine->config = config;
	machine->drive_count = config->drive_count;
	machine->interface_count = config->interface_count;
	for (unsigned int i = 0; i < config->drive_count; i++) {
		if (config->drives[i].is_root_device) {
			root = &config->drives[i];
			machine->slots[i] = next++;
		}
	}
	for (unsigned int i = 0; i < config->drive_count; i++) {
		if (!config->drives[i].is_root_device)
			machine->slots[i] = next++;
	}
	return root;
}

static int load_kernel(struct machine *machine, const struct vm_config *config,
		       struct boot_entry *entry, struct error *err)
{
	const struct drive_config *root = machine_take_config(machine, config);
	struct boot_platform platform = {
		.vcpu_count = (unsigned int)config->machine.vcpu_count,
		.virtio_count = config->drive_count + config->interface_count,
	};
	const char *args = config->boot_source.boot_args;
	char root_parameter[96];
	int result;
	struct boot_request request = {
		.kernel_path = config->boot_source.kernel_image_path,
		.initrd_path = config->boot_source.initrd_path,
		.cmdline = args ? args : CONFIG_DEFAULT_BOOT_ARGS,
		.protocol = config->boot_source.boot_protocol,
	};

	for (unsigned int slot = 0; slot < platform.virtio_count; slot++)
		platform.virtio[slot] = machine_virtio_slot(slot);
	if (root) {
		snprintf(root_parameter, sizeof(root_parameter), "root=%s%s %s",
			 root->partuuid ? "PARTUUID=" : "/dev/vda",
			 root->partuuid ? root->partuuid : "", root->is_read_only ? "ro" : "rw");
		request.root_parameter = root_parameter;
	}
	result = boot_load(&machine->memory, &request, &platform, entry, err);
	if (result < 0)
		return result;
	vmgenid_init(&machine->vmgenid);
	return vmgenid_renew(&machine->vmgenid, &machine->memory, err);
}

int machine_open_disks(struct machine *machine, const struct vm_config *config, struct error *err)
{
	for (unsigned int i = 0; i < config->drive_count; i++) {
		struct machine_drive *drive = &machine->drives[i];
		int result = disk_open(&drive->disk, &config->drives[i], VIRTIO_BLOCK_QUEUE_SIZE,
				       NULL, err);

		if (result < 0)
			return result;
		strcpy(drive->id, config->drives[i].drive_id);
	}
	return 0;
}

int machine_wire_virtio(struct machine *machine, struct virtio_mmio *mmio, int interrupt_fd,
			unsigned int slot, struct error *err)
{
	int result = vm_add_irqfd(&machine->vm, machine_virtio_slot(slot).irq, interrupt_fd, err);

	for (unsigned int w = 0; result == 0 && w < VIRTIO_MMIO_WINDOWS; w++) {
		struct bus_device *window = &mmio->windows[w].device;

		result = bus_attach(&machine->mmio, window, err);
		for (unsigned int q = 0; result == 0 && q < mmio->ops->queue_count; q++)
			result = vm_add_ioeventfd(&machine->vm,
						  window->base + VIRTIO_MMIO_NOTIFY_OFFSET, q,
						  virtio_mmio_notify_fd(mmio, q), err);
	}
	return result;
}

int machine_add_drive(struct machine *machine, unsigned int index, struct error *err)
{
	const struct drive_config *config = &machine->config->drives[index];
	struct machine_drive *drive = &machine->drives[index];
	struct virtio_block_options options = {
		.drive_id = drive->id,
		.slot = machine->slots[index],
		.memory = &machine->memory,
		.loop = machine->request.loop,
		.log = machine->request.log,
		.rate_limiter = config->has_rate_limiter ? &config->rate_limiter : NULL,
	};
	int result;

	drive->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (drive->interrupt_fd < 0)
		return error_errno(err, "drive %s: cannot make its interrupt", drive->id);
	options.interrupt_fd = drive->interrupt_fd;
	result = virtio_block_create(&drive->block, &options, drive->disk, err);
	if (result < 0)
		return result;
	drive->disk = NULL;
	return machine_wire_virtio(machine, virtio_block_transport(drive->block),
				   drive->interrupt_fd, options.slot, err);
}

int machine_open_console(struct machine *machine, const struct vm_config *config, struct error *err)
{
	struct rate_limiter_config limiter = config_serial_limiter(&config->serial);
	struct console_options options = {
		.serial = &machine->serial,
		.loop = machine->request.loop,
		.log = machine->request.log,
		.input_fd = machine->request.options->serial_input ? STDIN_FILENO : -1,
		.output_fd = STDOUT_FILENO,
		.output_path = config->has_serial ? config->serial.serial_out_path : NULL,
		.rate_limiter = &limiter,
		.escape = machine->request.options->serial_escape,
		.on_escape = on_escape,
		.context = machine,
	};

	return console_open(&machine->console, &options, err);
}

int machine_boot(struct machine *machine, const struct vm_config *config, struct error *err)
{
	struct boot_entry entry = { 0 };
	int result = machine_share_memory(machine, err);

	if (result == 0)
		result = load_kernel(machine, config, &entry, err);
	machine_mark(machine, STARTUP_KERNEL);
	if (result == 0)
		result = machine_open_disks(machine, config, err);
	if (result == 0)
		result = machine_open_taps(machine, config, err);
	machine_mark(machine, STARTUP_DISKS);
	for (unsigned int i = 0; result == 0 && i < machine->drive_count; i++)
		result = machine_add_drive(machine, i, err);
	if (result == 0)
		result = machine_add_interfaces(machine, err);
	if (result == 0)
		result = vcpus_set_entry(machine->vcpus, &entry, err);
	if (result == 0)
		result = machine_open_console(machine, config, err);
	if (result == 0)
		result = machine_prepare_fork(machine, err);
	machine_mark(machine, STARTUP_DEVICES);
	machine->config = NULL;
	return result;
}

static void destroy_drive(struct machine *machine, struct machine_drive *drive)
{
	struct error err = { 0 };

	/* Unsafe leaves it to the host's page cache, as it does every flush of the guest. */
	if (drive->block && disk_cache_type(virtio_block_disk(drive->block)) == CACHE_WRITEBACK &&
	    virtio_block_flush(drive->block, &err) < 0)
		log_error(machine->request.log,
			  "drive %s: what the guest wrote last may be lost: %s", drive->id,
			  err.message);
	virtio_block_destroy(drive->block);
	disk_close(drive->disk);
	close_fd(&drive->interrupt_fd);
}

void machine_destroy(struct machine *machine)
{
	if (!machine)
		return;
	loop_remove(machine->request.loop, &machine->exit_source);
	vcpus_destroy(machine->vcpus);
	machine_mark(machine, STARTUP_STOPPED);
	for (unsigned int i = 0; i < machine->drive_count; i++)
		destroy_drive(machine, &machine->drives[i]);
	machine_destroy_interfaces(machine);
	console_close(&machine->console);
	serial_destroy(&machine->serial);
	i8042_destroy(&machine->i8042);
	machine_mark(machine, STARTUP_FLUSHED);
	vm_close(&machine->vm);
	machine_mark(machine, STARTUP_CLOSED);
	machine_release_memory(machine);
	close_fd(&machine->state_fd);
	free(machine);
}

/*
 * First the vCPUs, so that nobody asks the devices for more; then the devices, one after the other.
 * Both are quick where the host's disks are.
 */
void machine_pause(struct machine *machine)
{
	vcpus_pause(machine->vcpus);
	for (unsigned int i = 0; i < machine->drive_count; i++)
		virtio_block_pause(machine->drives[i].block);
	machine_pause_interfaces(machine);
	console_pause(&machine->console);
}

void machine_resume(struct machine *machine)
{
	machine_begin_working_set(machine);
	console_resume(&machine->console);
	serial_resume(&machine->serial);
	i8042_resume(&machine->i8042);
	machine_resume_interfaces(machine);
	for (unsigned int i = 0; i < machine->drive_count; i++)
		virtio_block_resume(machine->drives[i].block);
	vcpus_resume(machine->vcpus);
}

int machine_send_ctrl_alt_del(struct machine *machine, struct error *err)
{
	return i8042_send_ctrl_alt_del(&machine->i8042, err);
}

int machine_swap_drive(struct machine *machine, unsigned int drive_index,
		       const struct drive_config *config, struct error *err)
{
	struct virtio_block *block = machine->drives[drive_index].block;
	struct disk *disk;
	int result =
		disk_open(&disk, config, VIRTIO_BLOCK_QUEUE_SIZE, virtio_block_disk(block), err);

	if (result < 0)
		return result;
	result = virtio_block_set_disk(block, disk, err);
	if (result < 0)
		disk_close(disk);
	return result;
}

void machine_limit_drive(struct machine *machine, unsigned int drive_index,
			 const struct rate_limiter_config *update)
{
	virtio_block_set_limits(machine->drives[drive_index].block, update);
}

void machine_set_counter(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

void machine_collect_limiter(const struct rate_limiter_metrics *limiter, const char *prefix,
			     json_t *object)
{
	char name[64];

	snprintf(name, sizeof(name), "%srate_limiter_throttled_events", prefix);
	machine_set_counter(object, name, limiter->throttled);
	snprintf(name, sizeof(name), "%srate_limiter_event_count", prefix);
	machine_set_counter(object, name, limiter->events);
}

static void collect_drive(struct machine_drive *drive, json_t *metrics)
{
	const struct virtio_block_metrics *block = virtio_block_metrics(drive->block);
	const struct virtio_mmio_metrics *transport =
		&virtio_block_transport(drive->block)->metrics;
	char name[CONFIG_MAX_ID_BYTES + 8];
	json_t *object = json_object();

	machine_set_counter(object, "read_count", block->reads);
	machine_set_counter(object, "read_bytes", block->read_bytes);
	machine_set_counter(object, "write_count", block->writes);
	machine_set_counter(object, "write_bytes", block->written_bytes);
	machine_set_counter(object, "flush_count", block->flushes);
	machine_set_counter(object, "discard_count", block->discards);
	machine_set_counter(object, "discard_bytes", block->discarded_bytes);
	machine_set_counter(object, "write_zeroes_count", block->write_zeroes);
	machine_set_counter(object, "write_zeroes_bytes", block->write_zeroes_bytes);
	machine_set_counter(object, "io_errors", block->io_errors);
	machine_set_counter(object, "invalid_reqs_count", block->invalid);
	machine_set_counter(object, "unsupported_reqs_count", block->unsupported);
	machine_set_counter(object, "malformed_count", block->malformed);
	machine_set_counter(object, "update_count", block->disk_updates);
	machine_set_counter(object, "notification_count", transport->notifications);
	machine_set_counter(object, "interrupt_count", transport->interrupts);
	machine_set_counter(object, "reset_count", transport->resets);
	machine_set_counter(object, "needs_reset_count", transport->needs_reset);
	machine_collect_limiter(virtio_block_limiter_metrics(drive->block), "", object);
	snprintf(name, sizeof(name), "block_%s", drive->id);
	json_object_set_new(metrics, name, object);
}

void machine_collect_metrics(struct machine *machine, json_t *metrics)
{
	json_t *uart = json_object(), *i8042 = json_object();

	machine_set_counter(uart, "write_count", machine->serial.metrics.tx_bytes);
	machine_set_counter(uart, "read_count", machine->serial.metrics.rx_bytes);
	machine_set_counter(uart, "dropped_count", machine->serial.metrics.dropped_bytes);
	machine_collect_limiter(console_limiter_metrics(&machine->console), "", uart);
	json_object_set_new(metrics, "uart", uart);
	machine_set_counter(i8042, "reset_count", machine->i8042.metrics.resets);
	machine_set_counter(i8042, "ctrl_alt_del_count", machine->i8042.metrics.ctrl_alt_dels);
	machine_set_counter(i8042, "dropped_count", machine->i8042.metrics.dropped_bytes);
	json_object_set_new(metrics, "i8042", i8042);
	for (unsigned int i = 0; i < machine->drive_count; i++)
		collect_drive(&machine->drives[i], metrics);
	machine_collect_interfaces(machine, metrics);
}

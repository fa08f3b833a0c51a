/*
 * Restoring a machine that is prepared: see machine.h.
 *
 * The order is that of a boot (machine.c): memory, which is mapped and not read, files, then what
 * KVM keeps, devices, and time as the last thing before the guest, so that as little as possible of
 * it passes unseen. Each module takes its own section and checks what is in it.
 */
#include <string.h>

#include "machine_private.h"

int machine_read_config(struct state_file *state, struct vm_config *config, struct error *err)
{
	json_t *json;
	int result = snapshot_read_config(state, &json, err);

	memset(config, 0, sizeof(*config));
	if (result < 0)
		return result;
	result = config_parse_vm(json, NULL, config, err);
	json_decref(json);
	return result < 0 ? error_prefix(err, "section " SNAPSHOT_CONFIG_SECTION) : 0;
}

static int read_identity(struct state_file *state, struct error *err)
{
	struct state_section section;
	char version[STATE_MAX_NAME_BYTES];
	int result = state_find(state, SNAPSHOT_SECTION, "", SNAPSHOT_VERSION, &section, err);

	if (result < 0)
		return result;
	/* For people: mayfly --describe-snapshot. */
	state_get_string(&section, version, sizeof(version));
	(void)state_get_u64(&section);
	return state_done(&section, err);
}

static int map_memory(struct machine *machine, const struct machine_restore_request *restore,
		      struct error *err)
{
	const struct machine_config *config = &machine->shape;
	struct state_section section;
	uint64_t size_bytes;
	int fd, result;

	result = state_find(restore->state, SNAPSHOT_MEMORY_SECTION, "", SNAPSHOT_MEMORY_VERSION,
			    &section, err);
	if (result < 0)
		return result;
	size_bytes = state_get_u64(&section);
	state_get_bytes(&section, machine->snapshot_id.bytes, sizeof(machine->snapshot_id.bytes));
	if (size_bytes != config->mem_size_mib * MIB)
		state_refuse(
			&section, "size", "it is %llu bytes, but the configuration says %llu MiB",
			(unsigned long long)size_bytes, (unsigned long long)config->mem_size_mib);
	result = state_done(&section, err);
	if (result < 0)
		return result;
	if (restore->forked)
		return memory_map_forked(&machine->memory, restore->base_fd, restore->own_fd, err);
	machine->has_snapshot = true;
	if (restore->uffd)
		return machine_attach_handler(machine, restore->memory_path, err);
	result =
		memory_file_open(restore->memory_path, size_bytes, &machine->snapshot_id, &fd, err);
	if (result < 0)
		return result;
	if (memory_map_file(&machine->memory, fd, err) < 0)
		return error_prefix(err, "memory file %s", restore->memory_path);
	/* Only what is mapped from the file is shared with those that fork from here. */
	if (machine->request.options->forker && machine->memory.base_fd >= 0) {
		result = memory_enable_fork(&machine->memory, err);
		if (result < 0)
			return result;
	}
	return machine_use_working_set(machine, restore->working_set_path, err);
}

static int restore_vmgenid(struct machine *machine, struct state_file *state, struct error *err)
{
	struct state_section section;
	int result = state_find(state, VMGENID_SECTION, "", VMGENID_VERSION, &section, err);

	if (result == 0)
		result = vmgenid_restore(&machine->vmgenid, &machine->memory, &section, err);
	if (result == 0)
		result = vmgenid_renew(&machine->vmgenid, &machine->memory, err);
	return result;
}

static int restore_legacy(struct machine *machine, struct state_file *state, struct error *err)
{
	int result = serial_restore(&machine->serial, state, err);

	if (result == 0)
		result = i8042_restore(&machine->i8042, state, err);
	return result;
}

static int restore_virtio(struct machine *machine, struct state_file *state, struct error *err)
{
	int result = 0;

	for (unsigned int i = 0; result == 0 && i < machine->drive_count; i++) {
		result = machine_add_drive(machine, i, err);
		if (result == 0)
			result = virtio_block_restore(machine->drives[i].block, state, err);
	}
	if (result == 0)
		result = machine_add_interfaces(machine, err);
	for (unsigned int i = 0; result == 0 && i < machine->interface_count; i++)
		result = virtio_net_restore(machine->interfaces[i].net, state, err);
	return result;
}

static int open_console(struct machine *machine, const struct vm_config *config,
			struct state_file *state, struct error *err)
{
	int result = machine_open_console(machine, config, err);

	if (result < 0)
		return result;
	console_pause(&machine->console);
	return console_restore_state(&machine->console, state, err);
}

/* How long the guest did not run, as the host's wall clock counts it. */
static uint64_t slept_ns(const struct vm_clock *saved)
{
	uint64_t now_ns = clock_ns(CLOCK_REALTIME);

	/* A wall clock that was set back: the guest's time must not. */
	return now_ns > saved->realtime_ns ? now_ns - saved->realtime_ns : 0;
}

static int restore_time(struct machine *machine, const struct vm_clock *saved, bool realtime,
			struct error *err)
{
	uint64_t clock = saved->clock_ns + (realtime ? slept_ns(saved) : 0);
	struct vm_clock now = { 0 };
	int result = vm_set_clock(&machine->vm, clock, err);

	if (result == 0)
		result = vm_get_clock(&machine->vm, &now, err);
	return result < 0 ? result : vcpus_restore_time(machine->vcpus, saved, &now, err);
}

int machine_restore(struct machine *machine, const struct vm_config *config,
		    const struct machine_restore_request *restore, struct error *err)
{
	struct state_file *state = restore->state;
	struct vm_clock clock;
	int result = read_identity(state, err);

	(void)machine_take_config(machine, config);
	if (result == 0)
		result = map_memory(machine, restore, err);
	machine_mark(machine, STARTUP_KERNEL);
	if (result == 0)
		result = machine_open_disks(machine, config, err);
	if (result == 0)
		result = machine_open_taps(machine, config, err);
	machine_mark(machine, STARTUP_DISKS);
	if (result == 0)
		result = vcpus_restore(machine->vcpus, state, restore->forked, err);
	if (result == 0)
		result = vm_restore(&machine->vm, state, &clock, err);
	machine_mark(machine, STARTUP_STATE);
	if (result == 0)
		result = restore_vmgenid(machine, state, err);
	if (result == 0)
		result = restore_legacy(machine, state, err);
	if (result == 0)
		result = restore_virtio(machine, state, err);
	if (result == 0)
		result = open_console(machine, config, state, err);
	if (result == 0)
		result = state_file_check_taken(state, err);
	if (result == 0)
		result = machine_prepare_fork(machine, err);
	if (result == 0)
		result = vmgenid_announce(&machine->vmgenid, &machine->vm, err);
	if (result == 0)
		result = restore_time(machine, &clock, restore->clock_realtime, err);
	machine_mark(machine, STARTUP_DEVICES);
	machine->config = NULL;
	return result;
}

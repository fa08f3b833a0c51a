/*
 * Saving a machine: see machine.h. The machine stands still: no vCPU runs, devices are at rest.
 *
 * Memory goes to its file first, then the state to the other; both have no name yet. Only when both
 * are on the disk do they get their names, so that a full disk leaves the old files as they were.
 * Each names the snapshot by the same id, so that one without the other is not taken for whole.
 */
#include <string.h>
#include <sys/random.h>

#include "machine_private.h"

int machine_draw_id(struct machine *machine, struct error *err)
{
	struct memory_file_id *id = &machine->own_id;
	ssize_t got;

	/* So few bytes come whole or not at all. */
	do {
		got = getrandom(id->bytes, sizeof(id->bytes), 0);
	} while (got < 0 && errno == EINTR);
	if (got != (ssize_t)sizeof(id->bytes))
		return error_errno(err, "the host gives no random numbers for ids of snapshots");
	return 0;
}

/*
 * No other snapshot's: no other machine has these random bytes, and this one makes its snapshots
 * one after the other.
 */
static struct memory_file_id make_id(const struct machine *machine)
{
	const uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
	struct memory_file_id id = machine->own_id;

	for (size_t i = 0; i < sizeof(now_ns); i++)
		id.bytes[i] ^= (uint8_t)(now_ns >> 8 * i);
	return id;
}

static int put_config(const struct vm_config *config, struct state_writer *writer,
		      struct error *err)
{
	json_t *json = config_format_vm(config);
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (!text)
		return error_set(err, ENOMEM, "no memory for the configuration");
	state_begin(writer, SNAPSHOT_CONFIG_SECTION, "", SNAPSHOT_CONFIG_VERSION);
	state_put_string(writer, text);
	state_end(writer);
	free(text);
	return 0;
}

static void put_identity(const struct machine *machine, const struct memory_file_id *id,
			 struct state_writer *writer)
{
	state_begin(writer, SNAPSHOT_SECTION, "", SNAPSHOT_VERSION);
	state_put_string(writer, MAYFLY_VERSION);
	state_put_u64(writer, clock_ns(CLOCK_REALTIME));
	state_end(writer);
	state_begin(writer, SNAPSHOT_MEMORY_SECTION, "", SNAPSHOT_MEMORY_VERSION);
	state_put_u64(writer, machine->memory.size_bytes);
	state_put_bytes(writer, id->bytes, sizeof(id->bytes));
	state_end(writer);
}

int machine_put_state(struct machine *machine, const struct vm_config *config,
		      const struct memory_file_id *id, struct state_writer *writer,
		      struct error *err)
{
	int result;

	put_identity(machine, id, writer);
	result = put_config(config, writer, err);
	if (result == 0)
		result = vm_save(&machine->vm, writer, err);
	if (result == 0)
		result = vcpus_save(machine->vcpus, writer, err);
	if (result < 0)
		return result;
	vmgenid_save(&machine->vmgenid, writer);
	serial_save(&machine->serial, writer);
	console_save(&machine->console, writer);
	i8042_save(&machine->i8042, writer);
	for (unsigned int i = 0; i < machine->drive_count; i++)
		virtio_block_save(machine->drives[i].block, writer);
	for (unsigned int i = 0; i < machine->interface_count; i++)
		virtio_net_save(machine->interfaces[i].net, writer);
	return state_writer_finish(writer, err);
}

static int write_state(struct atomic_file *file, const char *path,
		       const struct state_writer *writer, struct error *err)
{
	int result = atomic_file_open(file, path, err);

	if (result == 0)
		result = atomic_file_write(file, writer->bytes, writer->used_bytes, 0, err);
	if (result == 0)
		result = atomic_file_flush(file, err);
	return result;
}

static int save_memory(struct machine *machine, const struct memory_file_id *id,
		       struct machine_snapshot *snapshot, struct atomic_file *file,
		       struct error *err)
{
	struct memory_file_options options = { .path = snapshot->memory_path, .id = *id };
	struct memory_file_size size = { 0 };
	int result = 0;

	/* The first of a machine that was booted has nothing to be a diff of. */
	if (snapshot->diff && machine->has_snapshot)
		options.base = &machine->snapshot_id;
	if (machine->tracks_dirty)
		result = vm_collect_dirty(&machine->vm, &machine->memory, err);
	if (result == 0)
		result = memory_file_save(&machine->memory, &options, file, &size, err);
	if (result == 0)
		result = atomic_file_flush(file, err);
	snapshot->data_bytes = size.data_bytes;
	return result;
}

int machine_save(struct machine *machine, const struct vm_config *config,
		 struct machine_snapshot *snapshot, struct error *err)
{
	struct atomic_file memory = { .fd = -1, .folder_fd = -1 };
	struct atomic_file state = { .fd = -1, .folder_fd = -1 };
	struct state_writer writer;
	struct memory_file_id id = make_id(machine);
	int result;

	state_writer_init(&writer);
	result = machine_put_state(machine, config, &id, &writer, err);
	if (result == 0)
		result = save_memory(machine, &id, snapshot, &memory, err);
	if (result == 0)
		result = write_state(&state, snapshot->state_path, &writer, err);
	/* Of paths that are written in two ways, too: there would be a state without memory. */
	if (result == 0 && atomic_file_is_same(&memory, &state))
		result = error_set(err, EINVAL,
				   "snapshot_path and mem_file_path name the same file: %s and %s",
				   snapshot->state_path, snapshot->memory_path);
	if (result == 0)
		result = atomic_file_commit(&memory, err);
	if (result == 0)
		result = atomic_file_commit(&state, err);
	atomic_file_close(&state);
	atomic_file_close(&memory);
	state_writer_destroy(&writer);
	if (result < 0)
		return result;
	/* Only now: of a save that failed, the next one must hold the dirty pages, too. */
	if (machine->tracks_dirty)
		memory_clear_dirty(&machine->memory);
	machine->has_snapshot = true;
	machine->snapshot_id = id;
	return 0;
}

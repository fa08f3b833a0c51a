/*
 * What a load hands on to KVM: the VM's and the vCPUs' state of a hostile state file, behind the
 * readers (snapshot_fuzz.c), against the fake /dev/kvm of the monitor's fuzzer, which fails where
 * the input says. The state file is the fake's own, with bytes of it changed and its checksums put
 * right. Whatever it says and whichever call fails: nothing crashes or leaks, and what is refused
 * says why.
 *
 * The first byte says which KVM call fails (0: none), the second how; then four bytes for each
 * change: an offset, a byte, how it is put there.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz_state_file.h"
#include "mayfly/log.h"
#include "mayfly/vcpu.h"
#include "monitor/fake.h"

#define VCPUS	    2
#define CHANGES_MAX 512

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

static uint8_t *whole; /* the fake machine's state */
static size_t whole_bytes;

int __wrap_open64(const char *path, int flags, ...)
{
	unsigned int mode;
	va_list list;

	va_start(list, flags);
	mode = va_arg(list, unsigned int);
	va_end(list);
	return strcmp(path, "/dev/kvm") == 0 ? fake_kvm_open() : __real_open64(path, flags, mode);
}

/* There is none here. */
int fake_tap_ioctl(int fd, unsigned long request, void *argument, bool *mine)
{
	(void)fd;
	(void)request;
	(void)argument;
	*mine = false;
	return 0;
}

struct fake_machine {
	struct log log;
	struct vm vm;
	struct bus pio, mmio;
	struct vcpus *vcpus;
};

static int open_machine(struct fake_machine *machine, struct error *err)
{
	struct vcpus_config config = { .count = VCPUS,
				       .pio = &machine->pio,
				       .mmio = &machine->mmio,
				       .vm = &machine->vm,
				       .log = &machine->log };
	int result;

	memset(machine, 0, sizeof(*machine));
	log_init(&machine->log);
	machine->log.level = LOG_OFF;
	result = vm_open(&machine->vm, &machine->log, err);
	return result < 0 ? result : vcpus_create(&machine->vcpus, &config, err);
}

static void close_machine(struct fake_machine *machine)
{
	vcpus_destroy(machine->vcpus);
	vm_close(&machine->vm);
}

static void change(uint8_t *bytes, struct fuzz_input *input)
{
	for (unsigned int i = 0; i < CHANGES_MAX && input->length > 0; i++) {
		uint8_t *at = bytes + input_u16(input) % whole_bytes;
		uint8_t value = input_u8(input);

		switch (input_u8(input) % 3) {
		case 0:
			*at = value;
			break;
		case 1:
			*at ^= value;
			break;
		default: /* all there is from here to the end of 64 bytes */
			memset(at, value,
			       whole_bytes - (size_t)(at - bytes) < 64
				       ? whole_bytes - (size_t)(at - bytes)
				       : 64);
		}
	}
	mend_state_file(bytes, whole_bytes);
}

static int restore(struct fake_machine *machine, struct state_file *file, struct error *err)
{
	struct vm_clock saved = { 0 }, now = { 0 };
	int result = open_machine(machine, err);

	if (result == 0)
		result = vm_restore(&machine->vm, file, &saved, err);
	if (result == 0)
		result = vcpus_restore(machine->vcpus, file, false, err);
	if (result == 0)
		result = vm_set_clock(&machine->vm, saved.clock_ns, err);
	if (result == 0)
		result = vm_get_clock(&machine->vm, &now, err);
	if (result == 0)
		result = vcpus_restore_time(machine->vcpus, &saved, &now, err);
	return result;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static struct fake_machine machine;
	struct state_writer writer;
	struct state_file file;

	(void)argc;
	(void)argv;
	fake_kvm_begin(0, 0);
	FUZZ_CHECK(open_machine(&machine, NULL) == 0);
	state_writer_init(&writer);
	FUZZ_CHECK(vm_save(&machine.vm, &writer, NULL) == 0);
	FUZZ_CHECK(vcpus_save(machine.vcpus, &writer, NULL) == 0);
	FUZZ_CHECK(state_writer_finish(&writer, NULL) == 0);
	whole_bytes = writer.used_bytes;
	whole = malloc(whole_bytes);
	memcpy(whole, writer.bytes, whole_bytes);
	state_writer_destroy(&writer);
	close_machine(&machine);
	/* Otherwise nothing behind the first refusal would ever be reached. */
	FUZZ_CHECK(state_file_parse(&file, whole, whole_bytes, NULL) == 0);
	FUZZ_CHECK(restore(&machine, &file, NULL) == 0);
	close_machine(&machine);
	state_file_close(&file);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static const int reasons[] = { EINVAL, ENOMEM, EFAULT, EPERM };
	struct fuzz_input input = { data, length };
	unsigned int fail_at = input_u8(&input);
	int reason = reasons[input_u8(&input) % 4];
	static struct fake_machine machine;
	uint8_t *bytes = malloc(whole_bytes);
	struct state_file file;
	struct error err = { 0 };

	FUZZ_CHECK(bytes != NULL);
	memcpy(bytes, whole, whole_bytes);
	change(bytes, &input);
	fake_kvm_begin(fail_at, reason);
	if (state_file_parse(&file, bytes, whole_bytes, &err) == 0) {
		if (restore(&machine, &file, &err) < 0)
			FUZZ_CHECK(err.message[0] != '\0');
		else
			FUZZ_CHECK(file.entry_count > 0);
		close_machine(&machine);
		state_file_close(&file);
	}
	free(bytes);
	return 0;
}

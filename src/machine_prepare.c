/*
 * The first step of a machine (machine.h): what depends on nothing but its shape.
 *
 * The order is that of cost: the memory's address space and KVM's slots for it before the interrupt
 * controllers (vm.h); threads last, so that they begin while the second step goes on.
 */
#include <stdio.h>

#include "machine_private.h"

static void on_i8042_reset(void *context)
{
	struct machine *machine = context;

	vcpus_request_reset(machine->vcpus);
}

static void on_vcpus_exit(struct loop_source *source, uint32_t events)
{
	struct machine *machine = container_of(source, struct machine, exit_source);
	bool clean = vcpus_exit_reason(machine->vcpus) == VCPUS_RESET;

	(void)events;
	machine_mark(machine, STARTUP_END);
	loop_remove(machine->request.loop, source);
	if (clean)
		log_info(machine->request.log, "the guest has reset the machine");
	else if (!memory_file_is_whole(&machine->memory))
		log_error(machine->request.log,
			  "the snapshot's memory file was cut while the guest ran from it");
	machine->request.on_end(machine->request.context, clean ? VMM_EXIT_OK : VMM_EXIT_ERROR);
}

static int watch_vcpus(struct machine *machine, struct error *err)
{
	return loop_add(machine->request.loop, &machine->exit_source, vcpus_exit_fd(machine->vcpus),
			EPOLLIN, on_vcpus_exit, err);
}

static int create_vm(struct machine *machine, struct error *err)
{
	const struct machine_config *shape = &machine->shape;
	int result = vm_open(&machine->vm, machine->request.log, err);

	if (result == 0 && shape->vcpu_count > vm_max_vcpus(&machine->vm))
		result = error_set(
			err, EINVAL,
			"vcpu_count: this host gives a virtual machine at most %u vCPUs, not %llu",
			vm_max_vcpus(&machine->vm), (unsigned long long)shape->vcpu_count);
	/* What a fork has to copy is known by the same record. */
	machine->tracks_dirty = shape->track_dirty_pages || (machine->request.options->forker &&
							     shape->huge_pages != HUGE_PAGES_2M);
	if (result == 0 && machine->tracks_dirty)
		result = memory_track_dirty(&machine->memory, err);
	if (result == 0)
		result = vm_set_memory(&machine->vm, &machine->memory, machine->tracks_dirty, err);
	return result < 0 ? result : vm_create_irqchip(&machine->vm, err);
}

static int create_vcpus(struct machine *machine, struct error *err)
{
	struct vcpus_config vcpus = {
		.count = (unsigned int)machine->shape.vcpu_count,
		.smt = machine->shape.smt,
		.pio = &machine->pio,
		.mmio = &machine->mmio,
		.vm = &machine->vm,
		.log = machine->request.log,
		.start_time_us = machine->request.options->start_time_us,
		.startup_trace = machine->request.options->startup_trace,
		.filters = machine->request.options->filters,
	};

	return vcpus_create(&machine->vcpus, &vcpus, err);
}

static int add_legacy_devices(struct machine *machine, struct error *err)
{
	int result = serial_init(&machine->serial, err);

	if (result == 0)
		result = i8042_init(&machine->i8042, on_i8042_reset, machine, err);
	if (result == 0)
		result = bus_attach(&machine->pio, &machine->serial.device, err);
	if (result == 0)
		result = bus_attach(&machine->pio, &machine->i8042.data, err);
	if (result == 0)
		result = bus_attach(&machine->pio, &machine->i8042.command, err);
	if (result == 0)
		result = vm_add_irqfd(&machine->vm, LAYOUT_IRQ_SERIAL, machine->serial.irq_fd, err);
	if (result == 0)
		result = vm_add_irqfd(&machine->vm, LAYOUT_IRQ_I8042, machine->i8042.irq_fd, err);
	if (result == 0 && machine->request.options->boot_timer) {
		boot_timer_init(&machine->boot_timer, machine->request.log,
				machine->request.options->start_time_us);
		result = bus_attach(&machine->mmio, &machine->boot_timer.device, err);
	}
	return result;
}

static int prepare(struct machine *machine, struct error *err)
{
	int result = machine_draw_id(machine, err);

	if (result == 0)
		result = memory_create(&machine->memory, machine->shape.mem_size_mib * MIB,
				       machine->shape.huge_pages, err);
	machine_mark(machine, STARTUP_MEMORY);
	if (result == 0)
		result = create_vm(machine, err);
	machine_mark(machine, STARTUP_VM);
	if (result == 0)
		result = create_vcpus(machine, err);
	machine_mark(machine, STARTUP_VCPUS);
	if (result == 0)
		result = add_legacy_devices(machine, err);
	if (result == 0)
		result = watch_vcpus(machine, err);
	if (result == 0)
		result = vcpus_start(machine->vcpus, err);
	machine_mark(machine, STARTUP_THREADS);
	return result;
}

int machine_prepare(struct machine **out, const struct machine_request *request,
		    const struct machine_config *shape, struct error *err)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	int result;

	if (!machine)
		return error_set(err, ENOMEM, "no memory for the machine");
	machine->request = *request;
	machine->shape = *shape;
	machine->shape.cpu_template = NULL; /* the only one is None */
	machine->vm = (struct vm) { .kvm_fd = -1, .fd = -1 };
	machine->exit_source.fd = -1;
	machine->state_fd = -1;
	machine_init_interfaces(machine);
	for (unsigned int i = 0; i < CONFIG_MAX_DRIVES; i++)
		machine->drives[i].interrupt_fd = -1;
	result = prepare(machine, err);
	if (result < 0) {
		machine_destroy(machine);
		return result;
	}
	*out = machine;
	return 0;
}

bool machine_has_shape(const struct machine *machine, const struct machine_config *shape)
{
	const struct machine_config *have = &machine->shape;

	return have->vcpu_count == shape->vcpu_count && have->mem_size_mib == shape->mem_size_mib &&
	       have->smt == shape->smt && have->track_dirty_pages == shape->track_dirty_pages &&
	       have->huge_pages == shape->huge_pages;
}

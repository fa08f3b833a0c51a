/* Interrupt controllers: see interrupts.h. */
#include "interrupts.h"

#define LOCAL_APIC	  0xfee00000ULL
#define APIC_ID		  (LOCAL_APIC + 0x020)
#define APIC_EOI	  (LOCAL_APIC + 0x0b0)
#define APIC_SPURIOUS	  (LOCAL_APIC + 0x0f0)
#define APIC_COMMAND_LOW  (LOCAL_APIC + 0x300)
#define APIC_COMMAND_HIGH (LOCAL_APIC + 0x310)
#define APIC_ENABLE	  0x100
#define APIC_PENDING	  (1U << 12)
#define SPURIOUS_VECTOR	  (VECTORS - 1)

#define IO_APIC_INDEX	 0xfec00000ULL
#define IO_APIC_DATA	 0xfec00010ULL
#define REDIRECTION(pin) (0x10 + 2 * (pin))

#define PIC_MASTER_MASK 0x21
#define PIC_SLAVE_MASK	0xa1

static bool initialized;

static void on_spurious(struct trap_frame *frame)
{
	(void)frame; /* it wants no acknowledgement */
}

void interrupts_init(void)
{
	if (initialized)
		return;
	initialized = true;
	out8(PIC_MASTER_MASK, 0xff);
	out8(PIC_SLAVE_MASK, 0xff);
	trap_set_handler(SPURIOUS_VECTOR, on_spurious);
	mmio_write32(APIC_SPURIOUS, APIC_ENABLE | SPURIOUS_VECTOR);
}

static void io_apic_write(uint32_t index, uint32_t value)
{
	mmio_write32(IO_APIC_INDEX, index);
	mmio_write32(IO_APIC_DATA, value);
}

void interrupt_route(unsigned int pin, trap_handler *handler)
{
	trap_set_handler(interrupt_vector(pin), handler);
	io_apic_write(REDIRECTION(pin) + 1, apic_id() << 24);
	io_apic_write(REDIRECTION(pin), interrupt_vector(pin)); /* fixed, physical, high, edge */
}

void interrupt_done(void)
{
	mmio_write32(APIC_EOI, 0);
}

uint32_t apic_id(void)
{
	return mmio_read32(APIC_ID) >> 24;
}

void apic_send(uint32_t to_apic_id, uint32_t command)
{
	mmio_write32(APIC_COMMAND_HIGH, to_apic_id << 24);
	mmio_write32(APIC_COMMAND_LOW, command);
	while (mmio_read32(APIC_COMMAND_LOW) & APIC_PENDING)
		cpu_relax();
}

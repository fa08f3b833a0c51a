/* Accesses of every width and shape, beside those of kit/cpu.h. */
#ifndef HOSTILE_ACCESS_H
#define HOSTILE_ACCESS_H

#include "cpu.h"

static inline void out16(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

/* `width` is 1, 2, 4 or 8. */
static inline uint64_t mmio_read(uint64_t address, unsigned int width)
{
	uint64_t value = 0;

	if (width == 1)
		return mmio_read8(address);
	if (width == 4)
		return mmio_read32(address);
	if (width == 2)
		__asm__ volatile("movw (%1), %w0" : "+r"(value) : "r"(address) : "memory");
	else
		__asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline void mmio_write(uint64_t address, unsigned int width, uint64_t value)
{
	if (width == 1)
		mmio_write8(address, (uint8_t)value);
	else if (width == 2)
		__asm__ volatile("movw %w0, (%1)" : : "r"(value), "r"(address) : "memory");
	else if (width == 4)
		mmio_write32(address, (uint32_t)value);
	else
		__asm__ volatile("movq %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

/* String instructions: `count` accesses by one instruction. */
#define STRING_IN(name, instruction)                                     \
	static inline void name(uint16_t port, void *to, uint64_t count) \
	{                                                                \
		__asm__ volatile("rep " instruction                      \
				 : "+D"(to), "+c"(count)                 \
				 : "d"(port)                             \
				 : "memory");                            \
	}
#define STRING_OUT(name, instruction)                                            \
	static inline void name(uint16_t port, const void *from, uint64_t count) \
	{                                                                        \
		__asm__ volatile("rep " instruction                              \
				 : "+S"(from), "+c"(count)                       \
				 : "d"(port)                                     \
				 : "memory");                                    \
	}

STRING_IN(in8_string, "insb")
STRING_IN(in16_string, "insw")
STRING_IN(in32_string, "insl")
STRING_OUT(out8_string, "outsb")
STRING_OUT(out16_string, "outsw")
STRING_OUT(out32_string, "outsl")

static inline void move8_string(uint64_t to, uint64_t from, uint64_t count)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static inline void move64_string(uint64_t to, uint64_t from, uint64_t count)
{
	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static inline void store32_string(uint64_t to, uint32_t value, uint64_t count)
{
	__asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory");
}

static inline uint32_t exchange32(uint64_t address, uint32_t value)
{
	__asm__ volatile("xchgl %0, (%1)" : "+r"(value) : "r"(address) : "memory");
	return value;
}

static inline void add32_locked(uint64_t address, uint32_t value)
{
	__asm__ volatile("lock addl %0, (%1)" : : "r"(value), "r"(address) : "memory", "cc");
}

#endif

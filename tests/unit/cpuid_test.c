#include <criterion/criterion.h>
#include <string.h>

#include "mayfly/cpuid.h"

#define VENDOR_INTEL 0x756e6547u
#define VENDOR_AMD   0x68747541u

static void add(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf, bool indexed,
		uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	table->entries[table->head.nent++] = (struct kvm_cpuid_entry2) {
		.function = leaf,
		.index = subleaf,
		.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		.eax = eax,
		.ebx = ebx,
		.ecx = ecx,
		.edx = edx,
	};
}

/* A host of 64 threads, two to a core, that offers nested virtualization. */
static struct cpuid_table *host(uint32_t vendor)
{
	static struct cpuid_table table;

	memset(&table, 0, sizeof(table));
	add(&table, 0, 0, false, 0x1f, vendor, 0, 0);
	add(&table, 1, 0, false, 0, 0x3f400800, 1u << 5, 1u << 28);
	add(&table, 4, 0, true, 0x7c004121, 0, 0, 0); /* L1 data */
	add(&table, 4, 1, true, 0x7c004122, 0, 0, 0); /* L1 code */
	add(&table, 4, 2, true, 0x7c004143, 0, 0, 0); /* L2 */
	add(&table, 4, 3, true, 0x7c0fc163, 0, 0, 0); /* L3 */
	add(&table, 4, 4, true, 0, 0, 0, 0);
	add(&table, 0xb, 0, true, 1, 2, 0x100, 63);
	add(&table, 0xb, 1, true, 6, 64, 0x201, 63);
	add(&table, 0x1f, 0, true, 1, 2, 0x100, 63);
	add(&table, 0x80000001, 0, false, 0, 0, 1u << 2, 0);
	add(&table, 0x80000008, 0, false, 0x3030, 0, 0x603f, 0);
	add(&table, 0x8000000a, 0, false, 1, 0x8000, 0, 0xffff);
	add(&table, 0x8000001d, 0, true, 0x4121, 0, 0, 0);
	add(&table, 0x8000001d, 3, true, 0x3c163, 0, 0, 0);
	add(&table, 0x8000001e, 0, false, 63, 0x11f, 0x103, 0);
	add(&table, 0x8000001f, 0, false, 0xa, 51, 509, 100);
	add(&table, 0x40000000, 0, false, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	return &table;
}

static struct cpuid_table *machine(uint32_t vendor, unsigned int vcpus, bool smt)
{
	struct cpuid_topology topology = { .vcpu_count = vcpus,
					   .smt = smt,
					   .tsc_deadline_timer = true };
	struct cpuid_table *table = host(vendor);

	cpuid_set_machine(table, &topology);
	return table;
}

static uint32_t bits(uint32_t word, unsigned int low, unsigned int high)
{
	return (word >> low) & ((1u << (high - low + 1)) - 1);
}

Test(cpuid, nested_virtualization_is_not_offered)
{
	struct cpuid_table *table = machine(VENDOR_INTEL, 1, false);

	cr_assert_not(cpuid_find(table, 1, 0)->ecx & (1u << 5));
	cr_assert_not(cpuid_find(table, 0x80000001, 0)->ecx & (1u << 2));
	cr_assert_null(cpuid_find(table, 0x8000000a, 0));
}

Test(cpuid, encrypted_memory_is_not_offered)
{
	cr_assert_null(cpuid_find(machine(VENDOR_AMD, 1, false), 0x8000001f, 0));
}

Test(cpuid, the_hypervisor_is_no_secret)
{
	struct cpuid_table *table = machine(VENDOR_AMD, 1, false);

	cr_assert(cpuid_find(table, 1, 0)->ecx & (1u << 31));
	cr_assert(cpuid_find(table, 1, 0)->ecx & (1u << 24));
	cr_assert_eq(cpuid_find(table, 0x40000000, 0)->ebx, 0x4b4d564bu);
}

Test(cpuid, one_vcpu_has_no_siblings)
{
	struct cpuid_table *table = machine(VENDOR_INTEL, 1, false);

	cr_assert_not(cpuid_find(table, 1, 0)->edx & (1u << 28));
	cr_assert_eq(bits(cpuid_find(table, 1, 0)->ebx, 16, 23), 1);
	cr_assert_eq(cpuid_find(table, 0xb, 0)->ebx, 1);
	cr_assert_eq(cpuid_find(table, 0xb, 1)->ebx, 1);
	cr_assert_eq(bits(cpuid_find(table, 4, 3)->eax, 14, 25), 0);
}

Test(cpuid, vcpus_without_smt_are_cores_that_share_the_last_cache)
{
	struct cpuid_table *table = machine(VENDOR_INTEL, 6, false);

	cr_assert(cpuid_find(table, 1, 0)->edx & (1u << 28));
	cr_assert_eq(bits(cpuid_find(table, 1, 0)->ebx, 16, 23), 8);
	cr_assert_eq(cpuid_find(table, 0xb, 0)->ebx, 1);
	cr_assert_eq(cpuid_find(table, 0xb, 0)->eax, 0);
	cr_assert_eq(cpuid_find(table, 0xb, 1)->ebx, 6);
	cr_assert_eq(cpuid_find(table, 0xb, 1)->eax, 3);
	cr_assert_eq(bits(cpuid_find(table, 0xb, 1)->ecx, 8, 15), 2);
	cr_assert_eq(bits(cpuid_find(table, 0xb, 2)->ecx, 8, 15), 0);
	cr_assert_eq(bits(cpuid_find(table, 4, 2)->eax, 14, 25), 0);
	cr_assert_eq(bits(cpuid_find(table, 4, 3)->eax, 14, 25), 7);
	cr_assert_eq(bits(cpuid_find(table, 4, 0)->eax, 26, 31), 7);
	cr_assert_eq(cpuid_find(table, 0x1f, 1)->ebx, 6);
}

Test(cpuid, smt_pairs_vcpus)
{
	struct cpuid_table *table = machine(VENDOR_INTEL, 4, true);

	cr_assert_eq(cpuid_find(table, 0xb, 0)->ebx, 2);
	cr_assert_eq(cpuid_find(table, 0xb, 0)->eax, 1);
	cr_assert_eq(cpuid_find(table, 0xb, 1)->ebx, 4);
	cr_assert_eq(bits(cpuid_find(table, 4, 0)->eax, 14, 25), 1);
	cr_assert_eq(bits(cpuid_find(table, 4, 0)->eax, 26, 31), 1);
}

Test(cpuid, amd_sizes_follow_the_vcpus)
{
	struct cpuid_table *table = machine(VENDOR_AMD, 6, false);

	cr_assert_eq(bits(cpuid_find(table, 0x80000008, 0)->ecx, 0, 7), 5);
	cr_assert_eq(bits(cpuid_find(table, 0x80000008, 0)->ecx, 12, 15), 3);
	cr_assert(cpuid_find(table, 0x80000001, 0)->ecx & (1u << 1));
	cr_assert_eq(bits(cpuid_find(table, 0x8000001d, 0)->eax, 14, 25), 0);
	cr_assert_eq(bits(cpuid_find(table, 0x8000001d, 3)->eax, 14, 25), 5);
}

Test(cpuid, each_vcpu_sees_its_own_apic_id_everywhere)
{
	struct cpuid_table *table = machine(VENDOR_AMD, 32, true);

	for (unsigned int index = 0; index < 32; index++) {
		cpuid_set_vcpu(table, index);
		cr_assert_eq(bits(cpuid_find(table, 1, 0)->ebx, 24, 31), index);
		for (uint32_t level = 0; level < 3; level++) {
			cr_assert_eq(cpuid_find(table, 0xb, level)->edx, index);
			cr_assert_eq(cpuid_find(table, 0x1f, level)->edx, index);
		}
		cr_assert_eq(cpuid_find(table, 0x8000001e, 0)->eax, index);
		cr_assert_eq(bits(cpuid_find(table, 0x8000001e, 0)->ebx, 0, 7), index / 2);
		cr_assert_eq(bits(cpuid_find(table, 0x8000001e, 0)->ebx, 8, 15), 1);
	}
}

/* Linux 6.1 says of a vCPU's table that it is as long as the room for it. */
Test(cpuid, entries_that_nobody_wrote_are_dropped)
{
	static struct cpuid_table table;
	uint32_t count;

	memcpy(&table, host(VENDOR_AMD), sizeof(table));
	/* A leaf that is all zeros but for its number stays. */
	add(&table, 0x80000002, 0, false, 0, 0, 0, 0);
	count = table.head.nent;
	table.head.nent = CPUID_MAX_ENTRIES;
	cpuid_drop_empty(&table);
	cr_assert_eq(table.head.nent, count);
	cpuid_drop_empty(&table);
	cr_assert_eq(table.head.nent, count);

	memset(&table, 0, sizeof(table));
	table.head.nent = CPUID_MAX_ENTRIES;
	cpuid_drop_empty(&table);
	cr_assert_eq(table.head.nent, 0);
}

Test(cpuid, a_full_table_is_not_overrun)
{
	struct cpuid_topology topology = { .vcpu_count = 2 };
	struct cpuid_table *table = host(VENDOR_INTEL);

	while (table->head.nent < CPUID_MAX_ENTRIES)
		add(table, 0x90000000 + table->head.nent, 0, false, 0, 0, 0, 0);
	cpuid_set_machine(table, &topology);
	cpuid_set_vcpu(table, 1);
	cr_assert_leq(table->head.nent, CPUID_MAX_ENTRIES);
}

Test(cpuid, what_follows_the_guests_registers_makes_no_difference)
{
	struct cpuid_table one = *machine(VENDOR_INTEL, 2, false), other;

	add(&one, 7, 0, true, 0, 1, 0, 0);
	add(&one, 0xd, 0, true, 7, 576, 2688, 0);
	add(&one, 0xd, 1, true, 0xf, 832, 0, 0);
	other = one;
	cr_assert(cpuid_is_same(&one, &other));
	cpuid_find(&other, 1, 0)->ecx ^= 1u << 27 | 1u << 3; /* OSXSAVE, MONITOR */
	cpuid_find(&other, 1, 0)->edx ^= 1u << 9;	     /* the APIC */
	cpuid_find(&other, 7, 0)->ecx ^= 1u << 4;	     /* OSPKE */
	cpuid_find(&other, 0xd, 0)->ebx = 2688;
	cpuid_find(&other, 0xd, 1)->ebx = 2696;
	cpuid_find(&other, 0x80000001, 0)->edx ^= 1u << 9;
	cr_assert(cpuid_is_same(&one, &other));
}

Test(cpuid, every_other_bit_makes_a_difference)
{
	struct cpuid_table one = *machine(VENDOR_INTEL, 2, false), other = one;

	other.head.nent--;
	cr_assert_not(cpuid_is_same(&one, &other));
	for (uint32_t i = 0; i < one.head.nent; i++) {
		const size_t fields[] = { offsetof(struct kvm_cpuid_entry2, function),
					  offsetof(struct kvm_cpuid_entry2, index),
					  offsetof(struct kvm_cpuid_entry2, flags),
					  offsetof(struct kvm_cpuid_entry2, eax),
					  offsetof(struct kvm_cpuid_entry2, ebx),
					  offsetof(struct kvm_cpuid_entry2, ecx),
					  offsetof(struct kvm_cpuid_entry2, edx) };

		for (size_t n = 0; n < ARRAY_SIZE(fields); n++) {
			other = one;
			*(uint32_t *)(void *)((char *)&other.entries[i] + fields[n]) ^= 1u << 11;
			cr_assert_not(cpuid_is_same(&one, &other), "entry %u, word %zu", i, n);
		}
	}
}

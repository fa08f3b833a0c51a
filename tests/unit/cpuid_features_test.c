/* Whether a host has what a guest was shown: src/cpuid_features.c. */
#include <criterion/criterion.h>
#include <string.h>

#include "mayfly/cpuid.h"

#define INTEL 0x756e6547u, 0x6c65746eu, 0x49656e69u /* EBX, ECX, EDX */
#define AMD   0x68747541u, 0x444d4163u, 0x69746e65u

static void add(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf, uint32_t eax,
		uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	table->entries[table->head.nent++] =
		(struct kvm_cpuid_entry2) { .function = leaf,
					    .index = subleaf,
					    .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
					    .eax = eax,
					    .ebx = ebx,
					    .ecx = ecx,
					    .edx = edx };
}

static struct cpuid_table processor(uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	struct cpuid_table table = { 0 };

	add(&table, 0, 0, 0x1f, ebx, ecx, edx);
	add(&table, 1, 0, 0, 0, 0xf7f83203, 0x178bfbff);
	add(&table, 7, 0, 1, 0xf1bf03ab, 0x5f46, 0x10);
	add(&table, 7, 1, 0x20, 0, 0, 0);
	add(&table, 0xd, 0, 0xe7, 0, 0, 0);
	add(&table, 0x80000008, 0, 0x3030, 0, 0, 0);
	add(&table, 0x40000001, 0, 0x01007efb, 0, 0, 0);
	return table;
}

static void refused(struct cpuid_table *guest, struct cpuid_table *host, const char *words)
{
	struct error err = { 0 };

	cr_assert_eq(cpuid_check_supported(guest, host, &err), -ENOTSUP);
	cr_assert(strstr(err.message, words), "it says: %s", err.message);
}

Test(cpuid_features, a_host_that_has_more_is_fine)
{
	struct cpuid_table host = processor(INTEL), guest = processor(INTEL);

	cpuid_find(&guest, 1, 0)->ecx &= ~(1u << 28);
	cpuid_find(&guest, 7, 0)->ebx = 0;
	cpuid_find(&guest, 0x80000008, 0)->eax = 0x3027;
	cr_assert_eq(cpuid_check_supported(&guest, &host, NULL), 0);
}

Test(cpuid_features, what_is_missing_is_named_as_in_proc_cpuinfo)
{
	static const struct {
		uint32_t leaf, subleaf;
		size_t word;
		unsigned int bit;
		const char *name;
	} cases[] = {
		{ 1, 0, offsetof(struct kvm_cpuid_entry2, ecx), 28, "feature avx," },
		{ 1, 0, offsetof(struct kvm_cpuid_entry2, ecx), 0, "feature sse3," },
		{ 1, 0, offsetof(struct kvm_cpuid_entry2, edx), 24, "feature fxsr," },
		{ 7, 0, offsetof(struct kvm_cpuid_entry2, ebx), 16, "feature avx512f," },
		{ 7, 0, offsetof(struct kvm_cpuid_entry2, ecx), 8, "feature gfni," },
		{ 7, 1, offsetof(struct kvm_cpuid_entry2, eax), 5, "feature avx512_bf16," },
		{ 0xd, 0, offsetof(struct kvm_cpuid_entry2, eax), 2, "feature avx-state," },
		{ 0x40000001, 0, offsetof(struct kvm_cpuid_entry2, eax), 3, "feature kvm-clock," },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cpuid_table host = processor(INTEL), guest = processor(INTEL);
		struct kvm_cpuid_entry2 *entry = cpuid_find(&host, cases[i].leaf, cases[i].subleaf);

		*(uint32_t *)(void *)((char *)entry + cases[i].word) &= ~(1u << cases[i].bit);
		refused(&guest, &host, cases[i].name);
	}
}

Test(cpuid_features, a_leaf_that_the_host_lacks_has_no_feature)
{
	struct cpuid_table host = processor(INTEL), guest = processor(INTEL);

	cpuid_find(&host, 7, 1)->function = 0x99;
	refused(&guest, &host, "avx512_bf16");
}

Test(cpuid_features, a_bit_without_a_name_is_said_by_its_place)
{
	struct cpuid_table host = processor(INTEL), guest = processor(INTEL);

	cpuid_find(&guest, 0xd, 0)->eax |= 1u << 31;
	refused(&guest, &host, "CPUID leaf 0xd.0 EAX bit 31");
}

Test(cpuid_features, what_the_guest_itself_turns_on_does_not_count)
{
	struct cpuid_table host = processor(INTEL), guest = processor(INTEL);

	cpuid_find(&host, 1, 0)->ecx &= ~(1u << 27); /* OSXSAVE: CR4 of the moment */
	cpuid_find(&host, 1, 0)->edx &= ~(1u << 9 | 1u << 28);
	cr_assert_eq(cpuid_check_supported(&guest, &host, NULL), 0);
}

Test(cpuid_features, another_vendor_and_narrower_addresses_are_refused)
{
	struct cpuid_table host = processor(AMD), guest = processor(INTEL);

	refused(&guest, &host, "a processor of GenuineIntel, and this host's is of AuthenticAMD");
	host = processor(INTEL);
	cpuid_find(&host, 0x80000008, 0)->eax = 0x3027;
	refused(&guest, &host, "physical addresses of 48 bits, and this host has 39");
}

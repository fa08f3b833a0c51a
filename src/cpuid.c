/*
 * What CPU the guest sees: see include/mayfly/cpuid.h.
 *
 * KVM reports the features of the host's CPU. Its topology leaves, however, describe the physical
 * CPU that happened to answer, and virtualization extensions are offered for nesting: both are
 * replaced here by what this machine is, one socket whose APIC ids are 0 .. N-1.
 */
#include <string.h>
#include <sys/ioctl.h>

#include "mayfly/cpuid.h"

/* Leaf 1. */
#define ECX_MONITOR	       (1u << 3)
#define ECX_OSXSAVE	       (1u << 27)
#define EDX_APIC	       (1u << 9)
#define ECX_VMX		       (1u << 5)
#define ECX_TSC_DEADLINE_TIMER (1u << 24)
#define ECX_HYPERVISOR	       (1u << 31)
#define EDX_HTT		       (1u << 28)
/* Leaf 7. */
#define ECX_OSPKE (1u << 4)
/* Leaf 0x80000001, ECX. */
#define ECX_CMP_LEGACY (1u << 1)
#define ECX_SVM	       (1u << 2)
/* Leaves 0xB and 0x1F, ECX bits 15:8. */
#define LEVEL_SMT  1u
#define LEVEL_CORE 2u

#define LEAF_FEATURES	       0x1u
#define LEAF_CACHE	       0x4u
#define LEAF_EXTENDED_FEATURES 0x7u
#define LEAF_TOPOLOGY	       0xbu
#define LEAF_XSAVE	       0xdu
#define LEAF_TOPOLOGY_V2       0x1fu
#define LEAF_AMD_FEATURES      0x80000001u
#define LEAF_AMD_SIZES	       0x80000008u
#define LEAF_AMD_SVM	       0x8000000au
#define LEAF_AMD_CACHE	       0x8000001du
#define LEAF_AMD_TOPOLOGY      0x8000001eu
#define LEAF_AMD_ENCRYPTION    0x8000001fu

int cpuid_get_supported(int kvm_fd, struct cpuid_table *table, struct error *err)
{
	memset(table, 0, sizeof(*table));
	table->head.nent = CPUID_MAX_ENTRIES;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, table) < 0)
		return error_errno(err, "KVM does not say which CPU features it supports");
	return 0;
}

/*
 * KVM of Linux 6.1 writes the entries and leaves their number at the room that there was. The first
 * entry of a table is leaf 0, so one of nothing but zeros at its end is none.
 */
void cpuid_drop_empty(struct cpuid_table *table)
{
	static const struct kvm_cpuid_entry2 empty;

	while (table->head.nent > 0 &&
	       memcmp(&table->entries[table->head.nent - 1], &empty, sizeof(empty)) == 0)
		table->head.nent--;
}

int cpuid_get_shown(int vcpu_fd, struct cpuid_table *table, struct error *err)
{
	memset(table, 0, sizeof(*table));
	table->head.nent = CPUID_MAX_ENTRIES;
	if (ioctl(vcpu_fd, KVM_GET_CPUID2, table) < 0)
		return error_errno(err, "KVM does not give back the CPUID table");
	cpuid_drop_empty(table);
	return 0;
}

struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf)
{
	for (uint32_t i = 0; i < table->head.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &table->entries[i];
		bool indexed = entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

		if (entry->function == leaf && (!indexed || entry->index == subleaf))
			return entry;
	}
	return NULL;
}

static struct kvm_cpuid_entry2 *find_or_add(struct cpuid_table *table, uint32_t leaf,
					    uint32_t subleaf)
{
	struct kvm_cpuid_entry2 *entry = cpuid_find(table, leaf, subleaf);

	if (entry || table->head.nent == CPUID_MAX_ENTRIES)
		return entry;
	entry = &table->entries[table->head.nent++];
	*entry = (struct kvm_cpuid_entry2) { .function = leaf,
					     .index = subleaf,
					     .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
	return entry;
}

static void remove_leaf(struct cpuid_table *table, uint32_t leaf)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < table->head.nent; i++) {
		if (table->entries[i].function != leaf)
			table->entries[kept++] = table->entries[i];
	}
	table->head.nent = kept;
}

/* What of a leaf follows the guest's own registers: Linux arch/x86/kvm/cpuid.c. */
static struct kvm_cpuid_entry2 without_runtime_bits(struct kvm_cpuid_entry2 entry)
{
	switch (entry.function) {
	case LEAF_FEATURES:
		entry.ecx &= ~(ECX_OSXSAVE | ECX_MONITOR);
		entry.edx &= ~EDX_APIC;
		break;
	case LEAF_EXTENDED_FEATURES:
		entry.ecx &= ~ECX_OSPKE;
		break;
	case LEAF_XSAVE:
		entry.ebx = 0;
		break;
	case LEAF_AMD_FEATURES:
		entry.edx &= ~EDX_APIC;
		break;
	}
	return entry;
}

bool cpuid_is_same(const struct cpuid_table *one, const struct cpuid_table *other)
{
	if (one->head.nent != other->head.nent)
		return false;
	for (uint32_t i = 0; i < one->head.nent; i++) {
		struct kvm_cpuid_entry2 a = without_runtime_bits(one->entries[i]);
		struct kvm_cpuid_entry2 b = without_runtime_bits(other->entries[i]);

		if (a.function != b.function || a.index != b.index || a.flags != b.flags ||
		    a.eax != b.eax || a.ebx != b.ebx || a.ecx != b.ecx || a.edx != b.edx)
			return false;
	}
	return true;
}

static void set_bits(uint32_t *word, unsigned int shift, unsigned int width, uint32_t value)
{
	uint32_t mask = ((1u << width) - 1) << shift;

	*word = (*word & ~mask) | ((value << shift) & mask);
}

/* The bits of an APIC id that `count` things need. */
static uint32_t id_bits(uint32_t count)
{
	uint32_t bits = 0;

	while ((1u << bits) < count)
		bits++;
	return bits;
}

static bool is_vendor(struct cpuid_table *table, uint32_t ebx)
{
	const struct kvm_cpuid_entry2 *entry = cpuid_find(table, 0, 0);

	return entry && entry->ebx == ebx;
}

static bool is_amd(struct cpuid_table *table)
{
	/* "Auth"enticAMD, "Hygo"nGenuine */
	return is_vendor(table, 0x68747541) || is_vendor(table, 0x6f677948);
}

static void set_features(struct cpuid_table *table, const struct cpuid_topology *topology)
{
	struct kvm_cpuid_entry2 *entry = cpuid_find(table, LEAF_FEATURES, 0);

	if (!entry)
		return;
	entry->ecx &= ~ECX_VMX;
	entry->ecx |= ECX_HYPERVISOR;
	if (topology->tsc_deadline_timer)
		entry->ecx |= ECX_TSC_DEADLINE_TIMER;
	set_bits(&entry->ebx, 16, 8, 1u << id_bits(topology->vcpu_count));
	entry->edx &= ~EDX_HTT;
	if (topology->vcpu_count > 1)
		entry->edx |= EDX_HTT;
}

/*
 * Intel's cache leaf. A cache of level 1 or 2 belongs to a core, one of level 3 to the socket; the
 * counts are stored less one, rounded up to the APIC id bits they take.
 */
static void set_intel_cache(struct cpuid_table *table, uint32_t threads, uint32_t cores)
{
	for (uint32_t i = 0; i < table->head.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &table->entries[i];
		uint32_t sharing;

		if (entry->function != LEAF_CACHE || (entry->eax & 0x1f) == 0)
			continue;
		sharing = ((entry->eax >> 5) & 7) < 3 ? threads : threads * cores;
		set_bits(&entry->eax, 14, 12, (1u << id_bits(sharing)) - 1);
		set_bits(&entry->eax, 26, 6, (1u << id_bits(cores)) - 1);
	}
}

static void set_amd_cache(struct cpuid_table *table, uint32_t threads, uint32_t cores)
{
	for (uint32_t i = 0; i < table->head.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &table->entries[i];
		uint32_t sharing;

		if (entry->function != LEAF_AMD_CACHE || (entry->eax & 0x1f) == 0)
			continue;
		sharing = ((entry->eax >> 5) & 7) < 3 ? threads : threads * cores;
		set_bits(&entry->eax, 14, 12, sharing - 1);
	}
}

/* The extended topology leaves: threads of a core, then cores of the socket, then the end. */
static void set_topology_leaf(struct cpuid_table *table, uint32_t leaf, uint32_t threads,
			      uint32_t vcpu_count)
{
	const struct {
		uint32_t shift, count, type;
	} levels[] = {
		{ id_bits(threads), threads, LEVEL_SMT },
		{ id_bits(vcpu_count), vcpu_count, LEVEL_CORE },
		{ 0, 0, 0 },
	};

	remove_leaf(table, leaf);
	for (uint32_t i = 0; i < ARRAY_SIZE(levels); i++) {
		struct kvm_cpuid_entry2 *entry = find_or_add(table, leaf, i);

		if (!entry)
			return;
		entry->eax = levels[i].shift;
		entry->ebx = levels[i].count;
		entry->ecx = i | levels[i].type << 8;
	}
}

static void set_amd(struct cpuid_table *table, const struct cpuid_topology *topology,
		    uint32_t threads)
{
	struct kvm_cpuid_entry2 *features = cpuid_find(table, LEAF_AMD_FEATURES, 0);
	struct kvm_cpuid_entry2 *sizes = cpuid_find(table, LEAF_AMD_SIZES, 0);

	if (features) {
		features->ecx &= ~(ECX_SVM | ECX_CMP_LEGACY);
		if (topology->vcpu_count > 1 && is_amd(table))
			features->ecx |= ECX_CMP_LEGACY;
	}
	if (sizes && is_amd(table))
		sizes->ecx = id_bits(topology->vcpu_count) << 12 | (topology->vcpu_count - 1);
	remove_leaf(table, LEAF_AMD_SVM);
	/*
	 * A host that can encrypt guests says so to every guest. Kernels then read SEV_STATUS, an
	 * MSR that a guest which is not encrypted does not have, before they can take the
	 * exception.
	 */
	remove_leaf(table, LEAF_AMD_ENCRYPTION);
	set_amd_cache(table, threads, topology->vcpu_count / threads);
}

void cpuid_set_machine(struct cpuid_table *table, const struct cpuid_topology *topology)
{
	uint32_t threads = topology->smt && topology->vcpu_count > 1 ? 2 : 1;
	bool has_v2 = cpuid_find(table, LEAF_TOPOLOGY_V2, 0);

	set_features(table, topology);
	set_intel_cache(table, threads, topology->vcpu_count / threads);
	set_topology_leaf(table, LEAF_TOPOLOGY, threads, topology->vcpu_count);
	if (has_v2)
		set_topology_leaf(table, LEAF_TOPOLOGY_V2, threads, topology->vcpu_count);
	set_amd(table, topology, threads);
	/* The highest basic leaf must reach the topology leaf that is there now. */
	for (uint32_t i = 0; i < table->head.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &table->entries[i];

		if (entry->function == 0 && entry->eax < LEAF_TOPOLOGY && !is_amd(table))
			entry->eax = LEAF_TOPOLOGY;
	}
}

void cpuid_set_vcpu(struct cpuid_table *table, unsigned int index)
{
	struct kvm_cpuid_entry2 *topology = cpuid_find(table, LEAF_TOPOLOGY, 0);
	bool smt = topology && topology->ebx > 1;

	for (uint32_t i = 0; i < table->head.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &table->entries[i];

		switch (entry->function) {
		case LEAF_FEATURES:
			set_bits(&entry->ebx, 24, 8, index);
			break;
		case LEAF_TOPOLOGY:
		case LEAF_TOPOLOGY_V2:
			entry->edx = index;
			break;
		case LEAF_AMD_TOPOLOGY:
			/* EAX: APIC id. EBX: core id and threads of a core less one. ECX: one node,
			 * number 0. */
			entry->eax = index;
			entry->ebx = smt ? (index / 2) | 1u << 8 : index;
			entry->ecx = 0;
			entry->edx = 0;
			break;
		}
	}
}

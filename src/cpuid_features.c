/*
 * Whether a host has what a guest was shown: see include/mayfly/cpuid.h.
 *
 * Sources of the names: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Linux
 * Documentation/virt/kvm/x86/cpuid.rst. The names are those that /proc/cpuinfo uses where it has
 * one, since that is where people look.
 */
#include <stdio.h>
#include <string.h>

#include "mayfly/cpuid.h"

enum output {
	EAX,
	EBX,
	ECX,
	EDX
};

/* A word of features. `names` are of its bits in order, separated by spaces; "-" has none. */
struct feature_word {
	uint32_t leaf, subleaf;
	enum output output;
	uint32_t ignored; /* bits that follow what the guest does, or that are the monitor's */
	const char *names;
};

#define BIT(n)		  (1u << (n))
#define LEAF_KVM_FEATURES 0x40000001u

static const struct feature_word words[] = {
	/* Ignored: MONITOR, which MISC_ENABLE hides; OSXSAVE, which CR4 shows; that there is a
	 * hypervisor. */
	{ 0x1, 0, ECX, BIT(3) | BIT(27) | BIT(31),
	  "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm "
	  "- pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx "
	  "f16c rdrand hypervisor" },
	/* Ignored: the APIC, which a guest may turn off; HTT, which the topology decides. */
	{ 0x1, 0, EDX, BIT(9) | BIT(28),
	  "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - "
	  "dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe" },
	{ 0x7, 0, EBX, 0,
	  "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm "
	  "zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb "
	  "intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl" },
	/* Ignored: OSPKE, which CR4 shows. */
	{ 0x7, 0, ECX, BIT(4),
	  "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq "
	  "avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - "
	  "bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks" },
	{ 0x7, 0, EDX, 0,
	  "- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl "
	  "md_clear rtm_always_abort - tsx_force_abort serialize hybrid tsxldtrk - pconfig "
	  "arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d "
	  "arch_capabilities core_capabilities spec_ctrl_ssbd" },
	{ 0x7, 1, EAX, 0,
	  "sha512 sm3 sm4 - avx_vnni avx512_bf16 lass cmpccxadd archperfmonext - fzrm fsrs fsrc - "
	  "- - - fred lkgs wrmsrns - amx_fp16 hreset avx_ifma - - lam" },
	{ 0xd, 0, EAX, 0,
	  "x87-state sse-state avx-state mpx-bndregs mpx-bndcsr avx512-opmask avx512-zmm-hi256 "
	  "avx512-hi16-zmm pt-state pkru-state pasid-state cet-user cet-kernel hdc-state uintr-state "
	  "lbr-state hwp-state amx-tilecfg amx-tiledata" },
	{ 0xd, 1, EAX, 0, "xsaveopt xsavec xgetbv1 xsaves xfd" },
	/* Ignored: cmp_legacy, which the topology decides; svm, which guests are not shown. */
	{ 0x80000001, 0, ECX, BIT(1) | BIT(2),
	  "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs "
	  "xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext "
	  "ptsc perfctr_llc mwaitx" },
	/* Ignored: the APIC, as in leaf 1. */
	{ 0x80000001, 0, EDX, BIT(9),
	  "fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov pat pse36 - mp nx - "
	  "mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow" },
	{ 0x80000007, 0, EDX, 0, "- - - - - - - - constant_tsc" },
	{ 0x80000008, 0, EBX, 0,
	  "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp "
	  "ibrs-always stibp-always-on - ibrs-same-mode - - - amd_ppin amd_ssbd virt_ssbd "
	  "amd_ssb_no cppc amd_psfd btc_no" },
	{ 0x80000021, 0, EAX, 0,
	  "no_nested_data_bp - lfence_rdtsc - - - null_sel_clr_base - autoibrs no_smm_ctl_msr" },
	{ LEAF_KVM_FEATURES, 0, EAX, 0,
	  "kvm-clock-old kvm-nop-io-delay kvm-mmu-op kvm-clock kvm-asyncpf kvm-steal-time kvm-pv-eoi "
	  "kvm-pv-unhalt - kvm-pv-tlb-flush kvm-asyncpf-vmexit kvm-pv-send-ipi kvm-poll-control "
	  "kvm-pv-sched-yield kvm-asyncpf-int kvm-msi-ext-dest-id kvm-hc-map-gpa-range "
	  "kvm-migration-control - - - - - - kvm-clock-stable" },
};

static uint32_t output_of(const struct kvm_cpuid_entry2 *entry, enum output output)
{
	const uint32_t values[] = { entry->eax, entry->ebx, entry->ecx, entry->edx };

	return values[output];
}

/* The word in the list, or its place where it has none. */
static void name_bit(const struct feature_word *word, unsigned int bit, char *out, size_t size)
{
	static const char *const outputs[] = { "EAX", "EBX", "ECX", "EDX" };
	const char *name = word->names;
	size_t length;

	for (unsigned int i = 0; i < bit && name; i++) {
		name = strchr(name, ' ');
		if (name)
			name++;
	}
	length = name ? strcspn(name, " ") : 0;
	if (length == 0 || name[0] == '-')
		snprintf(out, size, "CPUID leaf 0x%x.%u %s bit %u", word->leaf, word->subleaf,
			 outputs[word->output], bit);
	else
		snprintf(out, size, "%.*s", (int)length, name);
}

static int check_word(const struct feature_word *word, struct cpuid_table *guest,
		      struct cpuid_table *host, struct error *err)
{
	const struct kvm_cpuid_entry2 *shown = cpuid_find(guest, word->leaf, word->subleaf);
	const struct kvm_cpuid_entry2 *have = cpuid_find(host, word->leaf, word->subleaf);
	uint32_t missing;
	char name[64];

	if (!shown)
		return 0;
	missing = output_of(shown, word->output) & ~word->ignored;
	if (have)
		missing &= ~output_of(have, word->output);
	if (!missing)
		return 0;
	name_bit(word, (unsigned int)__builtin_ctz(missing), name, sizeof(name));
	return error_set(err, ENOTSUP,
			 "the guest was shown the processor feature %s, which this host lacks",
			 name);
}

/* "GenuineIntel", as EBX, EDX and ECX of leaf 0 spell it. */
static void name_vendor(struct cpuid_table *table, char name[13])
{
	const struct kvm_cpuid_entry2 *entry = cpuid_find(table, 0, 0);

	memset(name, 0, 13);
	if (!entry)
		return;
	memcpy(name, &entry->ebx, 4);
	memcpy(name + 4, &entry->edx, 4);
	memcpy(name + 8, &entry->ecx, 4);
	for (unsigned int i = 0; i < 12; i++) {
		if (name[i] && (name[i] < ' ' || name[i] > '~'))
			name[i] = '?';
	}
}

static unsigned int physical_bits(struct cpuid_table *table)
{
	const struct kvm_cpuid_entry2 *entry = cpuid_find(table, 0x80000008, 0);

	return entry ? entry->eax & 0xff : 36;
}

int cpuid_check_supported(struct cpuid_table *guest, struct cpuid_table *host, struct error *err)
{
	char shown[13], have[13];

	name_vendor(guest, shown);
	name_vendor(host, have);
	if (strcmp(shown, have) != 0)
		return error_set(err, ENOTSUP,
				 "the guest was shown a processor of %s, and this host's is of %s",
				 shown, have);
	if (physical_bits(guest) > physical_bits(host))
		return error_set(
			err, ENOTSUP,
			"the guest was shown physical addresses of %u bits, and this host has %u",
			physical_bits(guest), physical_bits(host));
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		int result = check_word(&words[i], guest, host, err);

		if (result < 0)
			return result;
	}
	return 0;
}

/* Which protections a jail lacks: see missing.h. Each line says what an attacker has by it. */
#include <stdio.h>

#include "missing.h"

static const struct {
	unsigned int bit;
	const char *words;
} texts[] = {
	{ MISSING_OTHER_USER,
	  "a user of its own: the monitor runs as you; who breaks out of it and its namespaces is you" },
	{ MISSING_GROUPS, "no groups: the monitor keeps your supplementary groups" },
	{ MISSING_LIMITS,
	  "limits of memory, CPU and processes: none without --cgroup in a cgroup that is yours" },
	{ MISSING_PIVOT_ROOT,
	  "pivot_root: it was denied; the old root lies under the jail's (chroot), out of reach only "
	  "as long as the monitor has no capabilities" },
	{ MISSING_MOUNT_NAMESPACE,
	  "a mount namespace: it was denied; the jail is a chroot among the host's mounts" },
	{ MISSING_IPC_NAMESPACE, "an IPC namespace: it was denied; the monitor sees the host's "
				 "System V IPC" },
	{ MISSING_KEYRING, "a session keyring of its own: it was denied; the monitor has yours" },
	/* No protection, but nothing works without it. */
	{ MISSING_NO_DEVICE_KVM, "/dev/kvm: this host has none (is the module kvm loaded?)" },
};

int missing_report(const struct jail *jail, struct error *err)
{
	const char *id = jail->options.id;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (!(jail->missing & texts[i].bit))
			continue;
		if (jail->options.strict)
			return error_set(err, EPERM, "--strict: missing in the jail %s: %s", id,
					 texts[i].words);
		fprintf(stderr, "mayfly-jailer: missing in the jail %s: %s\n", id, texts[i].words);
	}
	return 0;
}

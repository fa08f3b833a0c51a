/*
 * `mayfly run`: a guest on this terminal. The words become the same struct vm_config that the API
 * and the config file fill; what they mean is checked by the same code.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "options_private.h"

/* As CONFIG_DEFAULT_BOOT_ARGS, but with the serial port as the console: it is this terminal. */
#define RUN_BOOT_ARGS "console=ttyS0 reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"

enum {
	OPT_KERNEL = OPTIONS_FIRST_PRIVATE,
	OPT_INITRD,
	OPT_DRIVE,
	OPT_TAP,
	OPT_CPUS,
	OPT_MEM,
	OPT_API_SOCK,
};

const struct option options_run_known[] = {
	OPTIONS_COMMON,
	{ "kernel", required_argument, NULL, OPT_KERNEL },
	{ "initrd", required_argument, NULL, OPT_INITRD },
	{ "drive", required_argument, NULL, OPT_DRIVE },
	{ "tap", required_argument, NULL, OPT_TAP },
	{ "cpus", required_argument, NULL, OPT_CPUS },
	{ "mem", required_argument, NULL, OPT_MEM },
	{ "api-sock", required_argument, NULL, OPT_API_SOCK },
	{ 0 },
};

void options_print_run_help(void)
{
	fputs("Boots a guest with its console on this terminal. Ctrl-A x ends it; so does the guest's reboot.\n"
	      "\n"
	      "  mayfly run --kernel KERNEL [options] [-- more kernel parameters]\n"
	      "\n"
	      "  --kernel FILE        an uncompressed 64-bit vmlinux (ELF), a unikernel with a PVH note, or a bzImage\n"
	      "  --initrd FILE        an initial RAM disk\n"
	      "  --drive FILE[,ro][,root][,async]\n"
	      "                       a disk: raw image or block device; may be repeated. ro: the guest cannot write;\n"
	      "                       root: its file system is the root (the first drive is, when there is no\n"
	      "                       --initrd); async: through io_uring\n"
	      "  --tap NAME[,mac=ADDRESS][,mtu=BYTES]\n"
	      "                       a network interface: a TAP that exists (ip tuntap add dev NAME mode tap);\n"
	      "                       may be repeated\n"
	      "  --cpus N             1 to 32 (default 1)\n"
	      "  --mem SIZE           256M, 2G, or a number of MiB (default 128M)\n"
	      "  --api-sock PATH      also listen for clients of the REST API\n"
	      "  --id, --log-path, --level, --module, --show-level, --show-log-origin, --metrics-path,\n"
	      "  --startup-trace, --seccomp-filter, --no-seccomp, --enable-fork\n"
	      "                       as in mayfly --help\n"
	      "\n"
	      "Example:\n"
	      "  mayfly run --kernel vmlinux --drive rootfs.ext4 --cpus 2 --mem 256M -- init=/bin/sh\n",
	      stdout);
}

static int parse_size(const char *text, uint64_t *mib, struct error *err)
{
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (strcmp(end, "G") == 0 || strcmp(end, "GiB") == 0)
		*mib = number * 1024;
	else if (*end == '\0' || strcmp(end, "M") == 0 || strcmp(end, "MiB") == 0)
		*mib = number;
	else
		end = NULL;
	if (!end || errno || *text < '0' || *text > '9' || number > UINT32_MAX)
		return error_set(err, EINVAL, "--mem takes a size such as 256M or 2G, not '%s'.",
				 text);
	if (*mib > CONFIG_MAX_MEMORY_MIB)
		return error_set(err, EINVAL, "--mem takes at most %lluG, not '%s'.",
				 (unsigned long long)(CONFIG_MAX_MEMORY_MIB / 1024), text);
	if (*mib < CONFIG_MIN_MEMORY_MIB)
		return error_set(err, EINVAL, "--mem takes at least %dM, not '%s'.",
				 CONFIG_MIN_MEMORY_MIB, text);
	return 0;
}

/* A name with a comma may be a file's; where there is none, but one of the part before the comma.
 */
static bool is_followed_by_unknown_word(char *path)
{
	char *comma = strrchr(path, ',');
	bool unknown;

	if (!comma || access(path, F_OK) == 0)
		return false;
	*comma = '\0';
	unknown = access(path, F_OK) == 0;
	*comma = ',';
	return unknown;
}

/* FILE[,ro][,root][,async]. A file whose name ends in one of these words behind a comma can be
 * given as ./link. */
static int parse_drive(struct vm_config *config, const char *text, struct error *err)
{
	struct drive_config *drive = &config->drives[config->drive_count];
	cleanup_free char *path = strdup(text);
	char *comma;

	if (!path)
		return error_set(err, ENOMEM, "out of memory");
	if (config->drive_count == CONFIG_MAX_DRIVES)
		return error_set(err, ENOSPC, "A guest has at most %d drives.", CONFIG_MAX_DRIVES);
	config_drive_defaults(drive);
	while ((comma = strrchr(path, ','))) {
		if (strcmp(comma, ",ro") == 0)
			drive->is_read_only = true;
		else if (strcmp(comma, ",root") == 0)
			drive->is_root_device = true;
		else if (strcmp(comma, ",async") == 0)
			drive->io_engine = IO_ENGINE_ASYNC;
		else
			break;
		*comma = '\0';
	}
	if (!*path)
		return error_set(
			err, EINVAL,
			"--drive needs a file: --drive FILE[,ro][,root][,async], not '%s'.", text);
	if (is_followed_by_unknown_word(path))
		return error_set(
			err, EINVAL,
			"--drive takes FILE, ro, root and async with commas between, not '%s'.",
			strrchr(path, ',') + 1);
	/* People who run a guest by hand expect that what it synced is on the disk. */
	drive->cache_type = CACHE_WRITEBACK;
	if (asprintf(&drive->drive_id, "drive%u", config->drive_count) < 0) {
		drive->drive_id = NULL;
		return error_set(err, ENOMEM, "out of memory");
	}
	drive->path_on_host = path;
	path = NULL;
	config->drive_count++;
	return 0;
}

static int parse_tap_word(struct network_interface_config *interface, const char *word,
			  struct error *err)
{
	if (strncmp(word, "mac=", 4) == 0) {
		interface->guest_mac = strdup(word + 4);
		return interface->guest_mac ? 0 : error_set(err, ENOMEM, "out of memory");
	}
	if (strncmp(word, "mtu=", 4) == 0)
		return arguments_number("--tap NAME,mtu=", word + 4, 68, 65535, &interface->mtu,
					err);
	return error_set(
		err, EINVAL,
		"--tap takes NAME, mac=ADDRESS and mtu=BYTES with commas between, not '%s'.", word);
}

/* NAME[,mac=ADDRESS][,mtu=BYTES] */
static int parse_tap(struct vm_config *config, const char *text, struct error *err)
{
	struct network_interface_config *interface = &config->interfaces[config->interface_count];
	cleanup_free char *words = strdup(text);
	char *rest = words;
	int result = 0;

	if (!words)
		return error_set(err, ENOMEM, "out of memory");
	if (config->interface_count == CONFIG_MAX_INTERFACES)
		return error_set(err, ENOSPC, "A guest has at most %d network interfaces.",
				 CONFIG_MAX_INTERFACES);
	/* From here on config_vm_clear() frees what it has. */
	config->interface_count++;
	interface->host_dev_name = strdup(strsep(&rest, ","));
	if (asprintf(&interface->iface_id, "eth%u", config->interface_count - 1) < 0)
		interface->iface_id = NULL;
	if (!interface->host_dev_name || !interface->iface_id)
		return error_set(err, ENOMEM, "out of memory");
	if (!*interface->host_dev_name)
		return error_set(err, EINVAL, "--tap needs the name of a TAP, not '%s'.", text);
	while (result == 0 && rest) {
		const char *word = strsep(&rest, ",");

		if (interface->guest_mac && strncmp(word, "mac=", 4) == 0)
			return error_set(err, EINVAL, "--tap takes one mac=, not '%s'.", text);
		result = parse_tap_word(interface, word, err);
	}
	return result;
}

/* The kernel command line: ours, then what stands behind "--". */
static int join_boot_args(struct vm_config *config, int count, char **words, struct error *err)
{
	size_t length = sizeof(RUN_BOOT_ARGS);
	char *args;

	for (int i = 0; i < count; i++)
		length += strlen(words[i]) + 1;
	args = malloc(length);
	if (!args)
		return error_set(err, ENOMEM, "out of memory");
	strcpy(args, RUN_BOOT_ARGS);
	for (int i = 0; i < count; i++) {
		strcat(args, " ");
		strcat(args, words[i]);
	}
	config->boot_source.boot_args = args;
	return 0;
}

static char **path_slot(struct vm_config *config, int code)
{
	return code == OPT_KERNEL ? &config->boot_source.kernel_image_path
				  : &config->boot_source.initrd_path;
}

static int take_path(struct vm_config *config, int code, const char *name, const char *path,
		     struct error *err)
{
	char **slot = path_slot(config, code);

	if (*slot)
		return error_set(err, EINVAL, "%s can be given once.", name);
	if (!*path)
		return error_set(err, EINVAL, "%s needs a file behind it.", name);
	*slot = strdup(path);
	return *slot ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int finish(struct options *options, struct error *err)
{
	struct vm_config *config = &options->config;
	bool has_root = false;

	if (!config->boot_source.kernel_image_path)
		return error_set(
			err, EINVAL,
			"A guest needs a kernel: mayfly run --kernel FILE ... (mayfly run --help)");
	config->has_boot_source = true;
	/* A root that the user names wins over the one that we would take. */
	has_root = strstr(config->boot_source.boot_args, " root=");
	for (unsigned int i = 0; i < config->drive_count; i++)
		has_root |= config->drives[i].is_root_device;
	if (!has_root && config->drive_count && !config->boot_source.initrd_path)
		config->drives[0].is_root_device = true;
	return 0;
}

int options_parse_run(struct options *options, int argc, char **argv, struct error *err)
{
	struct vm_config *config = &options->config;
	int code, result = 0;

	config_machine_defaults(&config->machine);
	optind = 1;
	opterr = 0;
	while (result == 0 &&
	       (code = getopt_long(argc, argv, "+:hV", options_run_known, NULL)) != -1) {
		if (options_take_common(options, code, optarg))
			continue;
		switch (code) {
		case 'h':
			options->command = OPTIONS_RUN_HELP;
			return 0;
		case 'V':
			options->command = OPTIONS_VERSION;
			return 0;
		case OPT_KERNEL:
			result = take_path(config, code, "--kernel", optarg, err);
			break;
		case OPT_INITRD:
			result = take_path(config, code, "--initrd", optarg, err);
			break;
		case OPT_DRIVE:
			result = parse_drive(config, optarg, err);
			break;
		case OPT_TAP:
			result = parse_tap(config, optarg, err);
			break;
		case OPT_CPUS:
			result = arguments_number("--cpus", optarg, 1, LAYOUT_MAX_VCPUS,
						  &config->machine.vcpu_count, err);
			break;
		case OPT_MEM:
			result = parse_size(optarg, &config->machine.mem_size_mib, err);
			break;
		case OPT_API_SOCK:
			options->api_socket = optarg;
			break;
		default:
			return options_refuse(code, argv, true, err);
		}
	}
	if (result < 0)
		return result;
	if (optind < argc && strcmp(argv[optind - 1], "--") != 0)
		return error_set(
			err, EINVAL,
			"'%s' is not an option; kernel parameters go behind two hyphens: mayfly run ... -- %s",
			argv[optind], argv[optind]);
	result = options_check_common(options, err);
	if (result == 0)
		result = join_boot_args(config, argc - optind, argv + optind, err);
	return result < 0 ? result : finish(options, err);
}

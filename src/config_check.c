/*
 * What a config struct's fields mean together, beyond what its table says of each. Pure: no file is
 * looked at.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "config_private.h"

int config_machine_check(const struct machine_config *machine, struct error *err)
{
	int result = config_check_ranges(&config_machine_object, machine, err);

	if (result < 0)
		return result;
	/* Two threads a core, so that a guest never sees half a core. */
	if (machine->smt && machine->vcpu_count > 1 && machine->vcpu_count % 2 != 0)
		return error_set(err, EINVAL, CONFIG_VCPU_COUNT_MESSAGE);
	if (machine->huge_pages == HUGE_PAGES_2M && machine->mem_size_mib % 2 != 0)
		return error_set(err, EINVAL, CONFIG_MEMORY_SIZE_MESSAGE);
	if (machine->cpu_template && strcmp(machine->cpu_template, "None") != 0) {
		struct config_clip clip;

		return error_set(err, EINVAL,
				 "The CPU template `%s` is not supported: "
				 "`cpu_template` can only be `None`.",
				 config_clip(&clip, machine->cpu_template));
	}
	return 0;
}

int config_id_check(const char *id, struct error *err)
{
	size_t length = id ? strlen(id) : 0;

	if (length == 0)
		return error_set(err, EINVAL, "The ID cannot be empty.");
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)id[i];

		if (c >= 0x80 || (!isalnum(c) && c != '_'))
			return error_set(err, EINVAL,
					 "API Resource IDs can only contain alphanumeric "
					 "characters and underscores.");
	}
	if (length > CONFIG_MAX_ID_BYTES)
		return error_set(
			err, EINVAL,
			"The ID is too long: it has %zu characters, %d at most are allowed.",
			length, CONFIG_MAX_ID_BYTES);
	return 0;
}

/* It becomes a file name and part of log lines. */
int config_instance_id_check(const char *id, struct error *err)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
	size_t length = strlen(id);
	struct config_clip clip;

	if (length > 0 && length <= CONFIG_MAX_ID_BYTES && strspn(id, allowed) == length)
		return 0;
	return error_set(err, EINVAL,
			 "the id '%s' of the microVM is not made of 1 to %d letters, digits and "
			 "hyphens",
			 config_clip(&clip, id), CONFIG_MAX_ID_BYTES);
}

/*
 * Whether `text` has the form of `form`, where 'x' stands for a hexadecimal digit. The kernel's
 * root=PARTUUID= takes a GPT's UUID, or for an MBR its disk signature and partition number (Linux
 * block/early-lookup.c).
 */
static bool has_form(const char *text, const char *form)
{
	size_t i;

	for (i = 0; text[i] && form[i]; i++) {
		if (form[i] == 'x' ? !isxdigit((unsigned char)text[i]) : text[i] != form[i])
			return false;
	}
	return text[i] == form[i];
}

int config_drive_check(const struct drive_config *drive, struct error *err)
{
	int result = config_id_check(drive->drive_id, err);
	struct config_clip clip;

	if (result < 0)
		return result;
	result = config_check_ranges(&config_drive_object, drive, err);
	if (result < 0)
		return error_prefix(err, "drive %s", drive->drive_id);
	if (!drive->path_on_host || !drive->path_on_host[0])
		return error_set(err, EINVAL, "drive %s: path_on_host is empty", drive->drive_id);
	if (drive->partuuid && !has_form(drive->partuuid, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") &&
	    !has_form(drive->partuuid, "xxxxxxxx-xx"))
		return error_set(
			err, EINVAL,
			"drive %s: partuuid `%s` has neither the form of a GPT partition's UUID "
			"(0eaa91a0-0bfb-42f9-9a3a-7ba8e5d7e2c1) nor of an MBR's (6c3b2ad1-01)",
			drive->drive_id, config_clip(&clip, drive->partuuid));
	return 0;
}

/* What the kernel takes as a device's name (Linux dev_valid_name()), and nothing that it would
 * complete to one ("tap%d"). */
static bool is_device_name(const char *name)
{
	size_t length = strlen(name);

	if (length == 0 || length > CONFIG_MAX_DEVICE_NAME_BYTES || strcmp(name, ".") == 0 ||
	    strcmp(name, "..") == 0)
		return false;
	for (size_t i = 0; i < length; i++) {
		if (isspace((unsigned char)name[i]) || strchr("/:%", name[i]))
			return false;
	}
	return true;
}

bool config_parse_mac(const char *text, uint8_t mac[CONFIG_MAC_BYTES])
{
	if (!has_form(text, "xx:xx:xx:xx:xx:xx"))
		return false;
	for (size_t i = 0; i < CONFIG_MAC_BYTES; i++)
		mac[i] = (uint8_t)strtoul(text + 3 * i, NULL, 16);
	return true;
}

static int check_mac(const struct network_interface_config *interface, struct error *err)
{
	static const uint8_t zero[CONFIG_MAC_BYTES];
	uint8_t mac[CONFIG_MAC_BYTES];
	struct config_clip clip;

	if (!config_parse_mac(interface->guest_mac, mac))
		return error_set(err, EINVAL,
				 "network interface %s: guest_mac `%s` is no MAC address: it has "
				 "the form 06:00:ac:10:00:02",
				 interface->iface_id, config_clip(&clip, interface->guest_mac));
	if ((mac[0] & 1) || memcmp(mac, zero, sizeof(zero)) == 0)
		return error_set(err, EINVAL,
				 "network interface %s: guest_mac %s is %s: an interface cannot "
				 "have it",
				 interface->iface_id, interface->guest_mac,
				 mac[0] & 1 ? "an address of groups (the first byte is odd)"
					    : "all zeroes");
	return 0;
}

int config_network_interface_check(const struct network_interface_config *interface,
				   struct error *err)
{
	int result = config_id_check(interface->iface_id, err);
	struct config_clip clip;

	if (result < 0)
		return result;
	result = config_check_ranges(&config_network_interface_object, interface, err);
	if (result < 0)
		return error_prefix(err, "network interface %s", interface->iface_id);
	if (!interface->host_dev_name || !is_device_name(interface->host_dev_name))
		return error_set(err, EINVAL,
				 "network interface %s: host_dev_name `%s` cannot be a network "
				 "device's name: it has 1 to %d characters, without spaces, "
				 "slashes, colons and percent signs",
				 interface->iface_id,
				 config_clip(&clip, interface->host_dev_name
							    ? interface->host_dev_name
							    : ""),
				 CONFIG_MAX_DEVICE_NAME_BYTES);
	return interface->guest_mac ? check_mac(interface, err) : 0;
}

int config_complete_mac(struct network_interface_config *interface, struct error *err)
{
	uint8_t mac[CONFIG_MAC_BYTES];
	char *text;

	if (!interface->guest_mac) {
		if (getrandom(mac, sizeof(mac), 0) != sizeof(mac))
			return error_errno(err, "network interface %s: no random MAC address",
					   interface->iface_id);
		/* IEEE 802, the two lowest bits: for one station, and administered locally. */
		mac[0] = (uint8_t)((mac[0] & ~3U) | 2U);
	} else if (!config_parse_mac(interface->guest_mac, mac)) {
		return check_mac(interface, err);
	}
	if (asprintf(&text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
		     mac[5]) < 0)
		return error_set(err, ENOMEM, "network interface %s: no memory",
				 interface->iface_id);
	free(interface->guest_mac);
	interface->guest_mac = text;
	return 0;
}

int config_logger_check(const struct logger_config *logger, struct error *err)
{
	enum log_level level;
	struct config_clip clip;

	if (logger->level && !log_level_parse(logger->level, &level))
		return error_set(err, EINVAL,
				 "The log level `%s` is unknown: it is one of Error, Warn (or "
				 "Warning), Info, Debug, Trace, Off.",
				 config_clip(&clip, logger->level));
	return 0;
}

static void merge_bucket(bool *present, struct token_bucket_config *bucket,
			 const struct token_bucket_config *update)
{
	*present = update->size > 0 && update->refill_time > 0;
	*bucket = *present ? *update : (struct token_bucket_config) { 0 };
}

bool config_rate_limiter_merge(struct rate_limiter_config *limiter,
			       const struct rate_limiter_config *update)
{
	if (update->has_bandwidth)
		merge_bucket(&limiter->has_bandwidth, &limiter->bandwidth, &update->bandwidth);
	if (update->has_ops)
		merge_bucket(&limiter->has_ops, &limiter->ops, &update->ops);
	return limiter->has_bandwidth || limiter->has_ops;
}

struct rate_limiter_config config_serial_limiter(const struct serial_config *serial)
{
	if (serial->has_bucket)
		return (struct rate_limiter_config) { .has_bandwidth = true,
						      .bandwidth = serial->bucket };
	return serial->has_rate_limiter ? serial->rate_limiter : (struct rate_limiter_config) { 0 };
}

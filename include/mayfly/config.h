/*
 * What a user may configure: one struct and one table per JSON object.
 *
 * The tables (config_*_object) say each field's name, type, range and whether it is required. The
 * API, the config file and the command line all parse through them, GET answers are written through
 * them, and a test holds them against api/openapi.yaml. Nothing here knows a machine: whether a
 * file exists or two drives clash is for vmm.
 *
 * A config struct owns its strings; config_clear() frees them. Main thread only.
 */
#ifndef MAYFLY_CONFIG_H
#define MAYFLY_CONFIG_H

#include <jansson.h>
#include "mayfly/boot.h"
#include "mayfly/error.h"
#include "mayfly/layout.h"
#include "mayfly/log.h"
#include "mayfly/memory.h"

#define CONFIG_DEFAULT_BOOT_ARGS \
	"reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"

/* Why a resource or field that clients of this API know is refused. */
#define CONFIG_NOT_EMULATED                                                                          \
	"Mayfly does not emulate it. Its device model is virtio-net, virtio-blk, serial and i8042, " \
	"on purpose."
#define CONFIG_NOT_YET "not supported by this version of Mayfly"

/* The first MiB is the machine's (layout.h); unikernels make do with little more. */
#define CONFIG_MIN_MEMORY_MIB 4
#define CONFIG_MAX_MEMORY_MIB (64 * MIB) /* 64 Mi MiB: 2^46 bytes */

/* 292 years: in nanoseconds, what fits in 63 bits. */
#define CONFIG_MAX_REFILL_TIME_MS 9223372036854ULL

#define CONFIG_MAX_ID_BYTES 64
/* Together, too: see vmm. */
#define CONFIG_MAX_DRIVES     LAYOUT_MAX_VIRTIO_DEVICES
#define CONFIG_MAX_INTERFACES LAYOUT_MAX_VIRTIO_DEVICES

#define CONFIG_MAX_DEVICE_NAME_BYTES 15 /* of a network device of the host */
#define CONFIG_MAC_BYTES	     6

enum cache_type {
	CACHE_UNSAFE,
	CACHE_WRITEBACK
};
enum io_engine {
	IO_ENGINE_SYNC,
	IO_ENGINE_ASYNC
};
enum action_type {
	ACTION_INSTANCE_START,
	ACTION_SEND_CTRL_ALT_DEL,
	ACTION_FLUSH_METRICS
};
enum vm_state_request {
	VM_STATE_PAUSED,
	VM_STATE_RESUMED
};

enum snapshot_type {
	SNAPSHOT_FULL,
	SNAPSHOT_DIFF
};
enum mem_backend_type {
	MEM_BACKEND_FILE,
	MEM_BACKEND_UFFD
};

struct boot_source_config {
	char *kernel_image_path;
	char *initrd_path; /* NULL: none */
	char *boot_args;   /* NULL: CONFIG_DEFAULT_BOOT_ARGS */
	enum boot_protocol boot_protocol;
};

struct machine_config {
	uint64_t vcpu_count;
	uint64_t mem_size_mib;
	bool smt;
	bool track_dirty_pages;
	enum huge_pages huge_pages;
	char *cpu_template; /* NULL or "None" */
};

/* What a size or a refill time of 0 means: nothing is limited. */
struct token_bucket_config {
	uint64_t size;
	uint64_t refill_time; /* ms, from empty to full */
	uint64_t one_time_burst;
};

struct rate_limiter_config {
	bool has_bandwidth, has_ops;
	struct token_bucket_config bandwidth; /* of bytes */
	struct token_bucket_config ops;
};

struct drive_config {
	char *drive_id;
	char *path_on_host;
	char *partuuid; /* NULL: the root device is named by its device node */
	bool is_root_device;
	bool is_read_only;
	enum cache_type cache_type;
	enum io_engine io_engine;
	bool has_rate_limiter;
	struct rate_limiter_config rate_limiter;
};

struct network_interface_config {
	char *iface_id;
	char *host_dev_name; /* a TAP */
	char *guest_mac;     /* NULL: one is made up when the interface is configured */
	uint64_t mtu;	     /* 0: the guest is told none */
	bool has_rx_rate_limiter, has_tx_rate_limiter;
	struct rate_limiter_config rx_rate_limiter, tx_rate_limiter; /* as the guest sees it */
};

struct serial_config {
	char *serial_out_path;
	bool has_rate_limiter, has_bucket; /* one of them, or none */
	struct rate_limiter_config rate_limiter;
	struct token_bucket_config bucket; /* the same as `bandwidth` alone */
};

struct logger_config {
	char *log_path; /* NULL: standard error */
	char *level;	/* NULL: as it is */
	bool show_level;
	bool show_log_origin;
	char *module;
};

struct metrics_config {
	char *metrics_path;
};

struct action_config {
	enum action_type action_type;
};

struct vm_state_config {
	enum vm_state_request state;
};

/* PATCH of a drive. */
struct drive_update_config {
	char *drive_id;	    /* NULL: the path of the request says it */
	char *path_on_host; /* NULL: no change */
	bool has_rate_limiter;
	struct rate_limiter_config rate_limiter; /* its buckets that are absent stay as they are */
};

/* PATCH of a network interface. */
struct network_interface_update_config {
	char *iface_id; /* NULL: the path of the request says it */
	bool has_rx_rate_limiter, has_tx_rate_limiter;
	struct rate_limiter_config rx_rate_limiter, tx_rate_limiter; /* as in a PATCH of a drive */
};

struct snapshot_create_config {
	char *snapshot_path;
	char *mem_file_path;
	enum snapshot_type snapshot_type;
};

struct mem_backend_config {
	enum mem_backend_type backend_type;
	char *backend_path;
};

struct network_override_config {
	char *iface_id;
	char *host_dev_name;
};

struct drive_override_config {
	char *drive_id;
	char *path_on_host;
};

struct snapshot_load_config {
	char *snapshot_path;
	char *mem_file_path; /* the same as a mem_backend of type File; NULL: not given */
	bool has_mem_backend;
	struct mem_backend_config mem_backend;
	char *working_set_path; /* NULL: none */
	bool resume_vm, track_dirty_pages, clock_realtime;
	bool has_huge_pages; /* else as when the snapshot was made */
	enum huge_pages huge_pages;
	struct network_override_config network_overrides[CONFIG_MAX_INTERFACES];
	unsigned int network_override_count;
	struct drive_override_config drive_overrides[CONFIG_MAX_DRIVES];
	unsigned int drive_override_count;
};

struct snapshot_fork_config {
	char *api_socket_path;
	char *id;	       /* NULL: as this one's */
	char *serial_out_path; /* these three NULL: nowhere, as this one's, nowhere */
	char *log_path;
	char *metrics_path;
	bool resume_vm;
	struct network_override_config network_overrides[CONFIG_MAX_INTERFACES];
	unsigned int network_override_count;
	struct drive_override_config drive_overrides[CONFIG_MAX_DRIVES];
	unsigned int drive_override_count;
};

/* All of a microVM: what the config file holds and GET /vm/config answers. */
struct vm_config {
	bool has_boot_source, has_serial, has_logger, has_metrics;
	struct boot_source_config boot_source;
	struct machine_config machine;
	struct drive_config drives[CONFIG_MAX_DRIVES];
	unsigned int drive_count;
	struct network_interface_config interfaces[CONFIG_MAX_INTERFACES];
	unsigned int interface_count;
	struct serial_config serial;
	struct logger_config logger;
	struct metrics_config metrics;
};

enum config_type {
	CONFIG_STRING,	/* char *, owned */
	CONFIG_BOOL,	/* bool */
	CONFIG_UINT,	/* uint64_t within [min, max] */
	CONFIG_ENUM,	/* int-sized enum, spelled as in `names` */
	CONFIG_OBJECT,	/* a struct of its own */
	CONFIG_LIST,	/* an array of up to `max` such structs, their number at present_offset */
	CONFIG_REFUSED, /* known to clients of this API, not emulated here: refused with `refusal`
			   unless null */
};

struct config_field {
	const char *name;
	enum config_type type;
	bool required;
	bool nullable; /* null means the field is absent (in a PATCH that holds for every field) */
	bool deprecated; /* answers to requests that use it carry "Deprecation: true" */
	size_t offset;
	uint64_t min, max;	  /* CONFIG_UINT */
	const char *const *names; /* CONFIG_ENUM: NULL-terminated, the enum's values in order;
				     CONFIG_STRING: the spellings that a config_*_check() takes, or
				     NULL for any */
	const char *refusal;	  /* CONFIG_REFUSED */
	/* CONFIG_OBJECT, CONFIG_LIST: its table. CONFIG_OBJECT, and any other that wants it: where
	 * the bool is that says whether it is there; 0: nowhere. */
	const struct config_object *object;
	size_t present_offset;
	/*
	 * CONFIG_OBJECT: two fields may have one name. Of those, the one with `by_members` is meant
	 * by values that have a member of its object's, the one with `unless` by all others.
	 */
	bool by_members;
	const struct config_object *unless;
	const char *range_message; /* what to say when out of range; NULL: a sentence made from min
				      and max */
	const char *zero_message;  /* the same for 0 alone; NULL: as for any value out of range */
	bool zero_is_absent;	   /* CONFIG_UINT: 0, out of range, stands for a field not given */
};

struct config_object {
	const char *name; /* the kebab-case key in the config file, or what the object is called in
			     messages */
	size_t size_bytes;
	const struct config_field *fields;
	size_t field_count;
};

extern const struct config_object config_boot_source_object;
extern const struct config_object config_machine_object;
extern const struct config_object config_drive_object;
extern const struct config_object config_drive_update_object;
extern const struct config_object config_network_interface_object;
extern const struct config_object config_network_interface_update_object;
extern const struct config_object config_serial_object;
extern const struct config_object config_rate_limiter_object;
extern const struct config_object config_token_bucket_object;
extern const struct config_object config_logger_object;
extern const struct config_object config_metrics_object;
extern const struct config_object config_action_object;
extern const struct config_object config_vm_state_object;
extern const struct config_object config_snapshot_create_object;
extern const struct config_object config_snapshot_load_object;
extern const struct config_object config_snapshot_fork_object;
extern const struct config_object config_mem_backend_object;
extern const struct config_object config_network_override_object;
extern const struct config_object config_drive_override_object;

/*
 * Seeds the hashes of JSON objects, so that a client cannot choose keys which collide. Once, before
 * the first object: left to itself jansson opens /dev/urandom then, which a jailed or filtered
 * process may not. The first call counts.
 */
void config_seed_json(void);

/*
 * Parses JSON text: UTF-8, one value, no duplicate keys, bounded depth. Returns the value (owned by
 * the caller, json_decref) or NULL; the message holds line and column.
 */
json_t *config_parse_json(const char *text, size_t length_bytes, struct error *err);

/*
 * Fills `out` (of object->size_bytes, holding defaults) from a JSON object. Unknown, missing,
 * mistyped and out-of-range fields are refused by name, and with the path of the object that they
 * are in ("rate_limiter.ops: "). With `partial` (PATCH) no field is required, but for those of
 * objects within. On failure `out` is as before. -EINVAL: the JSON has not the object's form;
 * -ERANGE: a value outside its range; -ENOTSUP: a field that is known but refused. The messages of
 * the last two are whole sentences.
 */
int config_parse_object(const struct config_object *object, const json_t *json, bool partial,
			void *out, struct error *err);

/* Whether the JSON object has a field, not null, that the table calls deprecated. */
bool config_uses_deprecated(const struct config_object *object, const json_t *json);

/* The JSON of a config struct, absent strings left out. Owned by the caller. NULL when out of
 * memory. */
json_t *config_format_object(const struct config_object *object, const void *value);

/* Frees the strings that `value` owns and zeroes it. */
void config_clear(const struct config_object *object, void *value);

/* Copies `from` to `to`, strings included but for those of objects and lists within; what `to`
 * owned is freed. -ENOMEM leaves `to` as it was.
 */
int config_copy(const struct config_object *object, void *to, const void *from);

/* The defaults of each object: 1 vCPU, 128 MiB, Unsafe, Sync, the logger showing neither level nor
 * origin. */
void config_machine_defaults(struct machine_config *machine);
void config_drive_defaults(struct drive_config *drive);

/*
 * What a struct's fields mean together, beyond what the table says of each. vmm calls these for
 * every configuration that it takes, wherever it comes from; the messages are fit for a client.
 *
 * Machine: vCPU count and SMT, memory size and page size, CPU template. Drive: id, path, the form
 * of partuuid. Network interface: id, the device's name, the address. Logger: the level's name.
 */
int config_machine_check(const struct machine_config *machine, struct error *err);
int config_drive_check(const struct drive_config *drive, struct error *err);
int config_network_interface_check(const struct network_interface_config *interface,
				   struct error *err);
int config_logger_check(const struct logger_config *logger, struct error *err);

/* "06:00:ac:10:00:02", in either case, to its six bytes. False when it has another form. */
bool config_parse_mac(const char *text, uint8_t mac[CONFIG_MAC_BYTES]);

/* Gives an interface without an address a random one (unicast, locally administered), and puts the
 * one it has into lower case. */
int config_complete_mac(struct network_interface_config *interface, struct error *err);

/*
 * The buckets of `update` take the place of those in `limiter`; one that limits nothing goes away.
 * Returns whether there are any.
 */
bool config_rate_limiter_merge(struct rate_limiter_config *limiter,
			       const struct rate_limiter_config *update);

/* What limits the serial port's output, in whichever form it was given. */
struct rate_limiter_config config_serial_limiter(const struct serial_config *serial);

/* An id of an API resource: 1 to CONFIG_MAX_ID_BYTES letters, digits and underscores. */
int config_id_check(const char *id, struct error *err);

/* The microVM's own id: 1 to CONFIG_MAX_ID_BYTES letters, digits and hyphens. */
int config_instance_id_check(const char *id, struct error *err);

/*
 * The whole config file (kebab-case sections) into `config`, which is zeroed first. Unknown
 * sections are refused by name, those of devices that Mayfly does not emulate with the reason. A
 * `logger` section leaves what it does not name as it is in `logger`: what the command line said.
 * NULL stands for the defaults. config_vm_clear() frees it.
 */
int config_parse_vm(const json_t *json, const struct logger_config *logger,
		    struct vm_config *config, struct error *err);
int config_load_vm(const char *path, const struct logger_config *logger, struct vm_config *config,
		   struct error *err);
json_t *config_format_vm(const struct vm_config *config);
void config_vm_clear(struct vm_config *config);

#endif

/*
 * What a state file says about the snapshot as a whole: docs/snapshot-format.md. The machine writes
 * and reads these sections (src/machine_save.c, src/machine_restore.c); snapshot_describe() shows
 * them.
 *
 *	snapshot   version of the Mayfly that wrote it (string), wall clock in ns since 1970 (u64)
 *	memory     bytes of guest memory (u64), id of the memory file (bytes)
 *	config     the microVM's configuration: JSON as of GET /vm/config (string)
 */
#ifndef MAYFLY_SNAPSHOT_H
#define MAYFLY_SNAPSHOT_H

#include <jansson.h>
#include <stdio.h>
#include "mayfly/state.h"

#define SNAPSHOT_SECTION	"snapshot"
#define SNAPSHOT_VERSION	1
#define SNAPSHOT_MEMORY_SECTION "memory"
#define SNAPSHOT_MEMORY_VERSION 1
#define SNAPSHOT_CONFIG_SECTION "config"
#define SNAPSHOT_CONFIG_VERSION 1

#define SNAPSHOT_MAX_CONFIG_BYTES (1 * MIB)

/*
 * The section "config", parsed but not yet looked into (config_parse_vm() does that). `*out` is the
 * caller's, to be given back by json_decref(). Errors name the section. Any thread.
 */
int snapshot_read_config(struct state_file *state, json_t **out, struct error *err);

/* Writes what a state file holds to `out`: for people, or as one JSON object. Any thread. */
int snapshot_describe(const char *state_path, bool json, FILE *out, struct error *err);

#endif

/* Chooses the cases, runs them, judges them: see hostile.h and ../../README.md. */
#include "console.h"
#include "end.h"
#include "hostile.h"
#include "params.h"
#include "text.h"
#include "virtio_blk.h"

#define DEFAULT_PATIENCE 40000000000ULL /* ten seconds and more */

static const struct hostile_suite *const suites[] = {
	&suite_chains,	 &suite_indirect, &suite_rings,	  &suite_registers, &suite_queue_registers,
	&suite_requests, &suite_ranges,	  &suite_nowhere, &suite_legacy,    &suite_net,
	&suite_race,	 &suite_race_net, &suite_ends,
};

uint64_t rounds = 100;
uint64_t patience = DEFAULT_PATIENCE;

static struct rig victim, witness;
static bool has_drives, has_net;
static uint64_t broken_count;

static struct {
	const char *what; /* the first expectation that did not hold */
	uint64_t value;
} verdict;

bool expect(bool holds, const char *what, uint64_t value)
{
	if (!holds && !verdict.what) {
		verdict.what = what;
		verdict.value = value;
	}
	return holds;
}

void count_broken(void)
{
	broken_count++;
}

void expect_witness(void)
{
	if (has_drives)
		expect_reads(&witness);
}

struct rig *witness_rig(void)
{
	return &witness;
}

uint64_t end_of_memory(void)
{
	uint64_t end = 0;

	for (unsigned int i = 0; i < boot_info.range_count; i++) {
		const struct boot_range *range = &boot_info.ranges[i];
		uint64_t range_end = range->start + range->bytes;

		if (range->type == BOOT_RANGE_RAM && range_end <= 0x100000000ULL && range_end > end)
			end = range_end;
	}
	return end;
}

uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static bool is_about_net(const struct hostile_suite *suite)
{
	return suite->need == NEED_NET || suite->need == NEED_NET_AND_TWO_CPUS;
}

static const char *reason_to_skip(const struct hostile_suite *suite)
{
	if (is_about_net(suite) && !has_net)
		return "a-network-device-is-needed";
	if ((suite->need == NEED_BLOCK || suite->need == NEED_TWO_CPUS) && !has_drives)
		return "two-drives-are-needed";
	if ((suite->need == NEED_TWO_CPUS || suite->need == NEED_NET_AND_TWO_CPUS) &&
	    !race_is_possible())
		return "two-cpus-are-needed";
	return NULL;
}

/* The victim as a case expects it. Returns the rig of it. */
static struct rig *prepare(const struct hostile_suite *suite, const struct hostile_case *one)
{
	if (is_about_net(suite)) {
		net_start(one->features);
		return net_rig();
	}
	if (suite->need != NEED_NOTHING && suite->raw)
		rig_reset(&victim);
	else if (suite->need != NEED_NOTHING)
		rig_start(&victim, one->features);
	return &victim;
}

static void expect_all_works(const struct hostile_suite *suite)
{
	expect_witness();
	if (has_drives) {
		rig_start(&victim, 0);
		expect_reads(&victim);
		if (!expect(rig_guards_hold(&victim) && rig_guards_hold(&witness), "guards", 0)) {
			rig_guard(&victim);
			rig_guard(&witness);
		}
	}
	if (is_about_net(suite))
		expect_net_works();
}

static void run_case(const struct hostile_suite *suite, const struct hostile_case *one)
{
	verdict.what = NULL;
	one->run(prepare(suite, one));
	expect_all_works(suite);
	if (verdict.what)
		print("\nresult: case name=%s verdict=bad what=%s value=%#llx\n", one->name,
		      verdict.what, (unsigned long long)verdict.value);
	else
		print("\nresult: case name=%s verdict=good\n", one->name);
}

static bool is_among(const char *parameter, const char *name)
{
	const char *wanted;

	for (unsigned int i = 0; (wanted = params_nth(parameter, i)); i++) {
		if (text_equal(wanted, name))
			return true;
	}
	return false;
}

/* By its own name or its suite's; all are but the ends, where the command line names none. */
static bool is_chosen(const struct hostile_suite *suite, const struct hostile_case *one)
{
	if (!params_nth("case", 0) && !params_nth("suite", 0))
		return suite != &suite_ends;
	return is_among("suite", suite->name) || is_among("case", one->name);
}

static uint64_t run_all(void)
{
	uint64_t count = 0;

	for (size_t s = 0; s < sizeof(suites) / sizeof(suites[0]); s++) {
		for (size_t c = 0; c < suites[s]->count; c++) {
			const struct hostile_case *one = &suites[s]->cases[c];
			const char *skipped;

			if (!is_chosen(suites[s], one))
				continue;
			count++;
			skipped = reason_to_skip(suites[s]);
			if (skipped)
				print("result: case name=%s skipped=%s\n", one->name, skipped);
			else
				run_case(suites[s], one);
		}
	}
	return count;
}

static void open_drives(void)
{
	struct virtio_device *first = virtio_find(VIRTIO_BLOCK, 0);
	struct virtio_device *second = virtio_find(VIRTIO_BLOCK, 1);

	has_drives = first && second;
	if (!has_drives)
		return;
	rig_init(&victim, first, 0);
	rig_init(&witness, second, 0);
	rig_start(&witness, 0);
}

void guest_main(void)
{
	static const char *const ends[] = { "reset", "halt", NULL };
	unsigned int then = 0;
	uint64_t repeat = 1, done = 0;
	const struct param params[] = {
		{ .name = "rounds",
		  .type = PARAM_NUMBER,
		  .value = &rounds,
		  .minimum = 1,
		  .maximum = UINT32_MAX },
		{ .name = "repeat", .type = PARAM_NUMBER, .value = &repeat },
		{ .name = "patience", .type = PARAM_NUMBER, .value = &patience, .minimum = 1 },
		{ .name = "then", .type = PARAM_CHOICE, .value = &then, .choices = ends },
	};

	params_read(params, sizeof(params) / sizeof(params[0]));
	open_drives();
	has_net = net_init();
	while (repeat == 0 || done < repeat) {
		if (run_all() == 0)
			guest_fail("there is no such case or suite");
		done++;
	}
	print("result: broken count=%llu\n", (unsigned long long)broken_count);
	print("result: end\n");
	if (then == 1) {
		print("guest: ready\n");
		cpu_halt();
	}
}

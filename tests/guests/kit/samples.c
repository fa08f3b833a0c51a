/* Times: see samples.h. */
#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "pages.h"
#include "samples.h"

void samples_open(struct samples *samples, uint64_t room)
{
	samples->ticks =
		pages_take((room * sizeof(samples->ticks[0]) + PAGE_BYTES - 1) / PAGE_BYTES);
	samples->count = 0;
	samples->room = room;
}

static void sift_down(uint32_t *heap, uint64_t at, uint64_t count)
{
	uint32_t value = heap[at];

	for (uint64_t child; (child = 2 * at + 1) < count; at = child) {
		if (child + 1 < count && heap[child + 1] > heap[child])
			child++;
		if (heap[child] <= value)
			break;
		heap[at] = heap[child];
	}
	heap[at] = value;
}

/* A heap sort, since it needs no stack and no luck. Runs in ring 3. */
static uint64_t sort(void *argument)
{
	struct samples *samples = argument;
	uint32_t *ticks = samples->ticks;

	for (uint64_t i = samples->count / 2; i-- > 0;)
		sift_down(ticks, i, samples->count);
	for (uint64_t end = samples->count; end-- > 1;) {
		uint32_t largest = ticks[0];

		ticks[0] = ticks[end];
		ticks[end] = largest;
		sift_down(ticks, 0, end);
	}
	return 0;
}

static void print_times(const struct samples *samples, const char *unit, bool as_ns)
{
	const struct {
		const char *name;
		uint64_t index;
	} times[] = {
		{ "min", 0 },
		{ "median", samples->count / 2 },
		{ "p99", samples->count * 99 / 100 },
		{ "max", samples->count - 1 },
	};

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		uint64_t ticks = samples->ticks[times[i].index];

		print(" %s_%s=%llu", times[i].name, unit,
		      (unsigned long long)(as_ns ? clock_tsc_to_ns(ticks) : ticks));
	}
}

void samples_report(struct samples *samples, const char *name, const char *more)
{
	print("result: %s%s n=%llu", name, more, (unsigned long long)samples->count);
	if (samples->count > 0) {
		user_run(sort, samples);
		print_times(samples, "ticks", false);
		if (clock_tsc_khz())
			print_times(samples, "ns", true);
	}
	print("\n");
	samples->count = 0;
}

/*
 * The rate limiter (devices/rate_limiter.c, devices/token_bucket.c) with hostile limits, work of
 * any size, a clock that jumps and changes at any time. Whatever comes:
 *
 * - a bucket never lets more through than its size, its burst, what came in since, and one piece;
 * - its numbers are those of the model that the unit tests use, where that can count so far;
 * - work that waits is called at the time that was promised, and may then go on: it is never stuck.
 */
#include "fuzz_input.h"
#include "mayfly/rate_limiter.h"
#include "tests/unit/token_bucket_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MODEL_BITS 48 /* sizes, refill times and pieces below 2^48: the model's products fit */
#define STEPS	   400

static uint64_t now_ns;

static uint64_t fuzz_clock(void)
{
	return now_ns;
}

enum operation {
	OP_ADVANCE_LITTLE,
	OP_ADVANCE_FAR,
	OP_WORK,
	OP_WORK_UNTIL_LIMITED,
	OP_NEXT_TIMER,
	OP_CHANGE,
	OP_COUNT
};

/* One of the limiter's buckets, and what it should be. */
struct watched {
	struct token_bucket *bucket;
	struct bucket_model model;
	bool modelled;
	/* Since the last change. */
	uint64_t since_ns, burst;
	model_int held; /* then */
	model_int used;
	uint64_t largest;
};

struct world {
	struct loop loop;
	struct rate_limiter limiter;
	struct watched bandwidth, ops;
	bool waiting;
	bool disturbed; /* work or a change has come since it waits */
};

static void on_ready(struct rate_limiter *limiter)
{
	container_of(limiter, struct world, limiter)->waiting = false;
}

static void watch(struct watched *watched)
{
	const struct token_bucket *bucket = watched->bucket;

	watched->since_ns = now_ns;
	watched->burst = bucket->burst;
	watched->held = bucket->size;
	watched->used = 0;
	watched->largest = 0;
}

static bool fits_model(const struct token_bucket_config *config)
{
	return config->size < 1ULL << MODEL_BITS &&
	       config->refill_time < 1ULL << (MODEL_BITS - 20) &&
	       config->one_time_burst < 1ULL << MODEL_BITS;
}

static void check(const struct watched *watched)
{
	const struct token_bucket *bucket = watched->bucket;
	uint64_t available = token_bucket_available(bucket, now_ns);

	FUZZ_CHECK(token_bucket_is_ready(bucket, now_ns) == (available > 0));
	FUZZ_CHECK(bucket->burst <= watched->burst || !bucket->size);
	if (watched->modelled)
		FUZZ_CHECK(available == model_available(&watched->model));
	if (bucket->size) {
		model_int came = (model_int)(now_ns - watched->since_ns) * bucket->size;

		came = came / bucket->refill_ns + 1;
		FUZZ_CHECK(watched->used <=
			   watched->held + watched->burst + came + watched->largest);
	}
}

static void check_all(const struct world *world)
{
	check(&world->bandwidth);
	check(&world->ops);
	FUZZ_CHECK(rate_limiter_admits(&world->limiter) ==
		   (rate_limiter_available_bytes(&world->limiter) > 0));
}

static void advance(struct world *world, uint64_t to_ns)
{
	now_ns = to_ns;
	model_advance(&world->bandwidth.model, now_ns);
	model_advance(&world->ops.model, now_ns);
}

static bool is_beyond_model(const struct bucket_model *model)
{
	return model->size && -model->level / model->size > 1LL << 62;
}

static void take_from(struct watched *watched, uint64_t tokens)
{
	struct bucket_model *model = &watched->model;

	watched->used += tokens;
	if (tokens > watched->largest)
		watched->largest = tokens;
	if (!model->size)
		return;
	model_take(model, tokens);
	/* A debt of centuries, where the program stops counting. */
	if (is_beyond_model(model)) {
		watched->modelled = false;
		*model = (struct bucket_model) { .now_ns = now_ns };
	}
}

static bool work(struct world *world, uint64_t bytes)
{
	if (!rate_limiter_admits(&world->limiter)) {
		rate_limiter_wait(&world->limiter);
		world->waiting = true;
		world->disturbed = false;
		return false;
	}
	world->disturbed = true;
	rate_limiter_take(&world->limiter, 1, bytes);
	take_from(&world->bandwidth, bytes);
	take_from(&world->ops, 1);
	return true;
}

/* The timer, when it comes, comes when there is something, unless it was taken meanwhile. */
static void next_timer(struct world *world)
{
	uint64_t at_ns;

	FUZZ_CHECK(world->waiting == (world->loop.timers != NULL));
	if (!world->waiting || world->loop.timers->at_ns > UINT64_MAX / 2)
		return;
	at_ns = world->loop.timers->at_ns;
	if (at_ns > now_ns)
		advance(world, at_ns);
	loop_run_timers(&world->loop);
	FUZZ_CHECK(!world->waiting);
	FUZZ_CHECK(world->disturbed || rate_limiter_admits(&world->limiter));
}

static uint64_t input_amount(struct fuzz_input *input)
{
	uint8_t how = input_u8(input);

	switch (how & 3) {
	case 0:
		return how >> 2;
	case 1:
		return input_u16(input);
	case 2:
		return input_u64(input) & ((1ULL << MODEL_BITS) - 1);
	default:
		return input_u64(input) >> (how >> 2);
	}
}

static struct token_bucket_config input_bucket(struct fuzz_input *input)
{
	struct token_bucket_config config = { .size = input_amount(input) };

	config.refill_time = input_amount(input);
	config.one_time_burst = input_amount(input);
	return config;
}

static struct rate_limiter_config input_limits(struct fuzz_input *input)
{
	struct rate_limiter_config config = { 0 };
	uint8_t which = input_u8(input);

	config.has_bandwidth = which & 1;
	config.has_ops = which & 2;
	if (config.has_bandwidth)
		config.bandwidth = input_bucket(input);
	if (config.has_ops)
		config.ops = input_bucket(input);
	return config;
}

static void start_model(struct watched *watched, const struct token_bucket_config *config)
{
	watched->modelled = fits_model(config);
	watched->model = (struct bucket_model) { .now_ns = now_ns };
	if (watched->modelled)
		model_init(&watched->model, config, now_ns);
	watch(watched);
}

static void change_one(struct watched *watched, const struct token_bucket_config *config,
		       bool was_limited)
{
	if (!was_limited || !watched->bucket->size) {
		/* Nothing is remembered. */
		start_model(watched, config);
		return;
	}
	watched->modelled = watched->modelled && fits_model(config);
	if (watched->modelled)
		model_change(&watched->model, config);
	if (!watched->modelled || is_beyond_model(&watched->model)) {
		watched->modelled = false;
		watched->model = (struct bucket_model) { .now_ns = now_ns };
	}
	watch(watched);
}

static void change(struct world *world, const struct rate_limiter_config *config)
{
	bool bytes_limited = world->bandwidth.bucket->size, ops_limited = world->ops.bucket->size;

	rate_limiter_change(&world->limiter, config);
	world->disturbed = true;
	if (config->has_bandwidth)
		change_one(&world->bandwidth, &config->bandwidth, bytes_limited);
	if (config->has_ops)
		change_one(&world->ops, &config->ops, ops_limited);
}

static void set_up(struct world *world, struct fuzz_input *input)
{
	struct rate_limiter_config config = input_limits(input);

	memset(world, 0, sizeof(*world));
	now_ns = input_u64(input) >> 4;
	world->loop.clock_ns = fuzz_clock;
	rate_limiter_init(&world->limiter, &world->loop, on_ready, &config);
	world->bandwidth.bucket = &world->limiter.bandwidth;
	world->ops.bucket = &world->limiter.ops;
	start_model(&world->bandwidth, &config.bandwidth);
	start_model(&world->ops, &config.ops);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	struct rate_limiter_config config;
	static struct world world;
	uint64_t bytes;

	set_up(&world, &input);
	for (unsigned int step = 0; step < STEPS && input_left(&input); step++) {
		switch (input_u8(&input) % OP_COUNT) {
		case OP_ADVANCE_LITTLE:
			advance(&world, now_ns + input_u16(&input));
			break;
		case OP_ADVANCE_FAR:
			advance(&world, now_ns + (input_u64(&input) >> 12));
			break;
		case OP_WORK:
			work(&world, input_amount(&input));
			break;
		case OP_WORK_UNTIL_LIMITED:
			bytes = input_u16(&input);
			for (unsigned int n = 0; n < 100 && work(&world, bytes); n++)
				check_all(&world);
			break;
		case OP_NEXT_TIMER:
			next_timer(&world);
			break;
		default:
			config = input_limits(&input);
			change(&world, &config);
			break;
		}
		if (now_ns > UINT64_MAX / 2)
			break;
		check_all(&world);
	}
	rate_limiter_destroy(&world.limiter);
	FUZZ_CHECK(!world.loop.timers);
	return 0;
}

/* The token bucket: by hand where a number says it best, and against a model of it at random. */
#include <criterion/criterion.h>

#include "saved_state.h"
#include "token_bucket_model.h"

#define MS 1000000ULL
#define S  (1000 * MS)

static struct token_bucket bucket_of(uint64_t size, uint64_t refill_ms, uint64_t burst)
{
	struct token_bucket bucket;

	token_bucket_init(&bucket, &(struct token_bucket_config) { size, refill_ms, burst });
	return bucket;
}

Test(token_bucket, starts_full_and_refills_at_its_rate)
{
	struct token_bucket bucket = bucket_of(1000, 100, 0);

	cr_assert_eq(token_bucket_available(&bucket, 5 * S), 1000);
	token_bucket_take(&bucket, 1000, 5 * S);
	cr_assert_eq(token_bucket_available(&bucket, 5 * S), 0);
	cr_assert_not(token_bucket_is_ready(&bucket, 5 * S));
	cr_assert_eq(token_bucket_ready_at(&bucket, 1), 5 * S + MS / 10);
	cr_assert_eq(token_bucket_available(&bucket, 5 * S + MS / 10 - 1), 0);
	cr_assert_eq(token_bucket_available(&bucket, 5 * S + MS / 10), 1);
	cr_assert_eq(token_bucket_available(&bucket, 5 * S + 50 * MS), 500);
	cr_assert_eq(token_bucket_available(&bucket, 5 * S + 100 * MS), 1000);
	cr_assert_eq(token_bucket_available(&bucket, 500 * S), 1000, "no more than its size");
}

Test(token_bucket, zero_size_or_refill_time_limits_nothing)
{
	struct token_bucket buckets[] = { bucket_of(0, 100, 5), bucket_of(100, 0, 5),
					  bucket_of(0, 0, 0) };

	for (size_t i = 0; i < ARRAY_SIZE(buckets); i++) {
		cr_assert_not(token_bucket_is_limited(&buckets[i]));
		for (int n = 0; n < 3; n++) {
			token_bucket_take(&buckets[i], UINT64_MAX, S);
			cr_assert(token_bucket_is_ready(&buckets[i], S));
			cr_assert_eq(token_bucket_available(&buckets[i], S), UINT64_MAX);
			cr_assert_eq(token_bucket_ready_at(&buckets[i], 7), 0);
		}
	}
}

Test(token_bucket, burst_is_spent_once_and_first)
{
	struct token_bucket bucket = bucket_of(100, 1000, 1000);

	cr_assert_eq(token_bucket_available(&bucket, S), 1100);
	token_bucket_take(&bucket, 999, S);
	cr_assert_eq(token_bucket_available(&bucket, S), 101, "the bucket itself is still full");
	token_bucket_take(&bucket, 51, S);
	cr_assert_eq(token_bucket_available(&bucket, S), 50);
	cr_assert_eq(token_bucket_available(&bucket, 1000 * S), 100, "never again");
}

Test(token_bucket, work_larger_than_the_bucket_passes_and_is_paid_for)
{
	struct token_bucket bucket = bucket_of(100, 1000, 0);

	token_bucket_take(&bucket, 1050, S);
	cr_assert_not(token_bucket_is_ready(&bucket, S));
	cr_assert_eq(token_bucket_available(&bucket, S), 0);
	cr_assert_eq(token_bucket_ready_at(&bucket, 1), S + 9510 * MS);
	cr_assert_not(token_bucket_is_ready(&bucket, S + 9510 * MS - 1));
	cr_assert(token_bucket_is_ready(&bucket, S + 9510 * MS));
	cr_assert_eq(token_bucket_ready_at(&bucket, 100), S + 10500 * MS);
	cr_assert_eq(token_bucket_ready_at(&bucket, 5000), S + 10500 * MS, "full is the most");
}

Test(token_bucket, rate_does_not_drift)
{
	/* 7 tokens in 3 ms: no token comes at a whole nanosecond. */
	struct token_bucket bucket = bucket_of(7, 3, 0);
	uint64_t now = S, taken = 7;

	token_bucket_take(&bucket, 7, now);
	while (now < 1001 * S) {
		now = token_bucket_ready_at(&bucket, 1);
		cr_assert(token_bucket_is_ready(&bucket, now));
		cr_assert_not(token_bucket_is_ready(&bucket, now - 1));
		token_bucket_take(&bucket, 1, now);
		taken++;
	}
	cr_assert_eq(taken - 7, (now - S) * 7 / (3 * MS));
}

Test(token_bucket, extremes_neither_overflow_nor_stick)
{
	static const uint64_t sizes[] = { 1, 2, 3, 1ULL << 32, INT64_MAX, UINT64_MAX };
	static const uint64_t times[] = { 1, 2, 1000, CONFIG_MAX_REFILL_TIME_MS, UINT64_MAX };
	static const uint64_t takes[] = { 0, 1, 1ULL << 32, INT64_MAX, UINT64_MAX };

	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		for (size_t t = 0; t < ARRAY_SIZE(times); t++) {
			for (size_t n = 0; n < ARRAY_SIZE(takes); n++) {
				struct token_bucket bucket =
					bucket_of(sizes[s], times[t], sizes[s] / 2);
				uint64_t at;

				cr_assert(token_bucket_is_ready(&bucket, 0));
				for (int times_taken = 0; times_taken < 3; times_taken++)
					token_bucket_take(&bucket, takes[n], 0);
				at = token_bucket_ready_at(&bucket, 1);
				cr_assert(at == UINT64_MAX || token_bucket_is_ready(&bucket, at));
				cr_assert(at == 0 || !token_bucket_is_ready(&bucket, at - 1));
				at = token_bucket_ready_at(&bucket, UINT64_MAX);
				if (at > 0 && at < UINT64_MAX) {
					cr_assert_eq(token_bucket_available(&bucket, at), sizes[s]);
					cr_assert_lt(token_bucket_available(&bucket, at - 1),
						     sizes[s]);
				}
			}
		}
	}
}

Test(token_bucket, change_keeps_what_is_left_and_what_is_owed)
{
	struct token_bucket bucket = bucket_of(1000, 1000, 0);
	struct token_bucket_config faster = { 10000, 1000, 0 }, smaller = { 10, 1000, 0 };

	token_bucket_take(&bucket, 600, S);
	token_bucket_change(&bucket, &faster, S);
	cr_assert_eq(token_bucket_available(&bucket, S), 400, "not full again");
	cr_assert_eq(token_bucket_available(&bucket, S + 100 * MS), 1400, "at the new rate");
	token_bucket_change(&bucket, &smaller, S + 100 * MS);
	cr_assert_eq(token_bucket_available(&bucket, S + 100 * MS), 10,
		     "no more than the new size");
	token_bucket_take(&bucket, 30, S + 100 * MS);
	token_bucket_change(&bucket, &faster, S + 100 * MS);
	cr_assert_eq(token_bucket_ready_at(&bucket, 1), S + 100 * MS + 21 * MS / 10,
		     "a debt of 20");
}

Test(token_bucket, change_neither_grants_a_burst_twice_nor_keeps_more_than_the_new_one)
{
	struct token_bucket bucket = bucket_of(100, 1000, 500);
	struct token_bucket_config config = { 100, 1000, 500 };

	token_bucket_take(&bucket, 200, S);
	token_bucket_change(&bucket, &config, S);
	cr_assert_eq(token_bucket_available(&bucket, S), 400);
	config.one_time_burst = 50;
	token_bucket_change(&bucket, &config, S);
	cr_assert_eq(token_bucket_available(&bucket, S), 150);
	token_bucket_take(&bucket, 150, S);
	config.one_time_burst = 1000000;
	token_bucket_change(&bucket, &config, S);
	cr_assert_eq(token_bucket_available(&bucket, S), 0);
}

Test(token_bucket, change_from_and_to_no_limit)
{
	struct token_bucket bucket = bucket_of(0, 0, 0);
	struct token_bucket_config limit = { 100, 1000, 10 }, none = { 0, 0, 0 };

	token_bucket_take(&bucket, 1000000, S);
	token_bucket_change(&bucket, &limit, S);
	cr_assert_eq(token_bucket_available(&bucket, S), 110, "full, with its burst");
	token_bucket_take(&bucket, 1000000, S);
	token_bucket_change(&bucket, &none, S);
	cr_assert(token_bucket_is_ready(&bucket, S));
	token_bucket_change(&bucket, &limit, S);
	cr_assert_eq(token_bucket_available(&bucket, S), 110, "nothing is remembered");
}

static uint64_t random_state = 0x6d6179666c79;

static uint64_t random_number(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* Of all magnitudes alike. */
static uint64_t random_below_bits(unsigned int bits)
{
	return random_number() & ((1ULL << (random_number() % (bits + 1))) - 1);
}

static struct token_bucket_config random_config(void)
{
	return (struct token_bucket_config) { random_below_bits(50), random_below_bits(40),
					      random_number() % 4 ? 0 : random_below_bits(50) };
}

/* A debt of centuries: the program stops counting there. */
static bool is_extreme(const struct bucket_model *model)
{
	return model->size && -model->level / model->size > (1LL << 62);
}

static void compare(const struct token_bucket *bucket, const struct bucket_model *model)
{
	uint64_t available = model_available(model), now = model->now_ns, at;
	uint64_t tokens = 1 + random_number() % (bucket->size ? bucket->size : 1);

	cr_assert_eq(token_bucket_available(bucket, now), available, "%llu, not %llu",
		     (unsigned long long)token_bucket_available(bucket, now),
		     (unsigned long long)available);
	cr_assert_eq(token_bucket_is_ready(bucket, now), available > 0);
	at = token_bucket_ready_at(bucket, tokens);
	if (at > now)
		cr_assert_eq(at, model_ready_at(model, tokens));
	else
		cr_assert_eq(model_ready_at(model, tokens), now);
}

Test(token_bucket, random_schedules_are_as_the_model_says)
{
	unsigned int compared = 0;

	for (int schedule = 0; schedule < 2000; schedule++) {
		struct token_bucket_config config = random_config();
		struct token_bucket bucket;
		struct bucket_model model;
		uint64_t now = random_below_bits(60);

		token_bucket_init(&bucket, &config);
		model_init(&model, &config, now);
		for (int step = 0; step < 60 && !is_extreme(&model); step++) {
			uint64_t tokens = random_below_bits(random_number() % 4 ? 20 : 50);

			if (random_number() % 3) {
				now += random_below_bits(random_number() % 2 ? 20 : 55);
				model_advance(&model, now);
			}
			if (random_number() % 16 == 0) {
				config = random_config();
				token_bucket_change(&bucket, &config, now);
				model_change(&model, &config);
				if (is_extreme(&model))
					break;
			}
			compare(&bucket, &model);
			compared++;
			if (model.size && model_available(&model) > 0) {
				token_bucket_take(&bucket, tokens, now);
				model_take(&model, tokens);
				if (!is_extreme(&model))
					compare(&bucket, &model);
			}
		}
	}
	cr_assert_gt(compared, 50000);
}

/* Through a state file, from one clock to another. */
static struct token_bucket moved(const struct token_bucket *bucket, uint64_t from_ns,
				 uint64_t to_ns)
{
	struct saved_state saved;
	struct state_section section;
	struct token_bucket result;
	struct error err = { 0 };

	state_writer_init(&saved.writer);
	state_begin(&saved.writer, "bucket", "", 1);
	token_bucket_save(bucket, from_ns, &saved.writer);
	state_end(&saved.writer);
	saved_state_read(&saved);
	cr_assert_eq(state_find(&saved.file, "bucket", "", 1, &section, &err), 0);
	token_bucket_restore(&result, to_ns, "it", &section);
	cr_assert_eq(state_done(&section, &err), 0, "%s", err.message);
	saved_state_destroy(&saved);
	return result;
}

Test(token_bucket, saved_level_does_not_depend_on_the_clock)
{
	static const uint64_t clocks[] = { 0, 1, 5 * S, 1ULL << 62 };

	for (size_t from = 0; from < ARRAY_SIZE(clocks); from++) {
		for (size_t to = 0; to < ARRAY_SIZE(clocks); to++) {
			struct token_bucket bucket = bucket_of(1000, 100, 7), other;

			/* In debt, with a part of a nanosecond; half full; full. */
			token_bucket_take(&bucket, 1507, clocks[from]);
			other = moved(&bucket, clocks[from], clocks[to]);
			cr_assert_eq(token_bucket_available(&other, clocks[to]), 0);
			cr_assert_eq(token_bucket_ready_at(&other, 1),
				     clocks[to] + 50 * MS + MS / 10);
			other = moved(&bucket, clocks[from] + 100 * MS, clocks[to]);
			cr_assert_eq(token_bucket_available(&other, clocks[to]), 500);
			cr_assert_eq(token_bucket_available(&other, clocks[to] + 50 * MS), 1000);
			other = moved(&bucket, clocks[from] + S, clocks[to]);
			cr_assert_eq(token_bucket_available(&other, clocks[to]), 1000);
		}
	}
}

Test(token_bucket, saved_burst_and_fraction_are_kept)
{
	struct token_bucket bucket = bucket_of(3, 1, 10), other;

	token_bucket_take(&bucket, 4, S);
	other = moved(&bucket, S, 9 * S);
	cr_assert_eq(token_bucket_available(&other, 9 * S), 9);
	token_bucket_take(&bucket, 7, S); /* a third of a millisecond */
	other = moved(&bucket, S, 9 * S);
	cr_assert_eq(other.full_at_fraction, bucket.full_at_fraction);
	cr_assert_neq(other.full_at_fraction, 0);
	cr_assert_eq(other.full_at_ns - 9 * S, bucket.full_at_ns - S);
}

Test(token_bucket, saved_bucket_without_a_limit_limits_nothing)
{
	struct token_bucket bucket = bucket_of(0, 0, 0), other = moved(&bucket, S, 2 * S);

	cr_assert_not(token_bucket_is_limited(&other));
}

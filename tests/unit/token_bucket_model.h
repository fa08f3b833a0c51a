/*
 * What a token bucket is, said another way than the program does: a level that rises with time and
 * falls with work, counted in parts of a token so small that every step is a whole number of them.
 * For sizes and refill times whose product is below 2^120.
 */
#ifndef TESTS_UNIT_TOKEN_BUCKET_MODEL_H
#define TESTS_UNIT_TOKEN_BUCKET_MODEL_H

#include "mayfly/token_bucket.h"

__extension__ typedef __int128 model_int;

struct bucket_model {
	uint64_t size, refill_ns, burst;
	model_int level; /* in 1/refill_ns tokens; negative: a debt */
	uint64_t now_ns;
};

static inline void model_init(struct bucket_model *model, const struct token_bucket_config *config,
			      uint64_t now_ns)
{
	*model = (struct bucket_model) { .now_ns = now_ns };
	if (config->size == 0 || config->refill_time == 0)
		return;
	model->size = config->size;
	model->refill_ns = config->refill_time * 1000000;
	model->burst = config->one_time_burst;
	model->level = (model_int)model->size * model->refill_ns;
}

static inline void model_advance(struct bucket_model *model, uint64_t now_ns)
{
	model_int full = (model_int)model->size * model->refill_ns;
	model_int gained = (model_int)(now_ns - model->now_ns) * model->size;

	model->now_ns = now_ns;
	model->level = gained > full - model->level ? full : model->level + gained;
}

static inline void model_take(struct bucket_model *model, uint64_t tokens)
{
	uint64_t of_burst = tokens < model->burst ? tokens : model->burst;

	model->burst -= of_burst;
	model->level -= (model_int)(tokens - of_burst) * model->refill_ns;
}

static inline uint64_t model_available(const struct bucket_model *model)
{
	if (model->size == 0)
		return UINT64_MAX;
	return model->burst + (model->level > 0 ? (uint64_t)(model->level / model->refill_ns) : 0);
}

/* The earliest time, from now on, at which there are `tokens`. */
static inline uint64_t model_ready_at(const struct bucket_model *model, uint64_t tokens)
{
	model_int lacking = (model_int)tokens * model->refill_ns - model->level;

	if (model->size == 0 || model->burst > 0 || lacking <= 0)
		return model->now_ns;
	return model->now_ns + (uint64_t)((lacking + model->size - 1) / model->size);
}

/* Whole tokens; what is missing from one is missing. */
static inline void model_change(struct bucket_model *model,
				const struct token_bucket_config *config)
{
	struct bucket_model old = *model;
	model_int tokens;

	model_init(model, config, old.now_ns);
	if (old.size == 0 || model->size == 0)
		return;
	if (model->burst > old.burst)
		model->burst = old.burst;
	tokens = old.level / old.refill_ns;
	if (old.level < 0 && old.level % old.refill_ns)
		tokens--;
	if (tokens < model->size)
		model->level = tokens * model->refill_ns;
}

#endif

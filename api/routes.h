/* Which resources there are: for api/routes.c, and for the test that holds api/openapi.yaml against
 * them. */
#ifndef MAYFLY_API_ROUTES_H
#define MAYFLY_API_ROUTES_H

#include "mayfly/config.h"
#include "mayfly/http.h"

struct api_call;

struct api_route {
	enum http_method method;
	const char *path; /* without a slash at the end, and without the id */
	int (*handler)(struct api_call *call, struct error *err);
	const struct config_object *body; /* NULL: the request has none */
	bool has_id;
	bool partial; /* the body may leave out any field */
};

extern const struct api_route api_routes[];
extern const size_t api_route_count;

#endif

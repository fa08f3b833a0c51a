/* The keyboard controller: see mayfly/i8042.h. */
#include "mayfly/i8042.h"

int i8042_init(struct i8042 *i8042, void (*on_reset)(void *context), void *context, struct error *err)
{
	return error_set(err, ENOSYS, "i8042: not there yet");
}

void i8042_destroy(struct i8042 *i8042)
{
}

int i8042_send_ctrl_alt_del(struct i8042 *i8042, struct error *err)
{
	return error_set(err, ENOSYS, "i8042: not there yet");
}

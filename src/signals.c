/* Signals: see mayfly/signals.h. */
#include "mayfly/signals.h"

int signals_install(const struct log *log, struct error *err)
{
	return error_set(err, ENOSYS, "signals: not there yet");
}

int signals_enter_thread(struct error *err)
{
	return error_set(err, ENOSYS, "signals: not there yet");
}

void signals_leave_thread(void)
{
}

void signals_set_socket_path(const char *path)
{
}

int signals_add_to_loop(struct signals *signals, struct loop *loop, void (*on_end)(int signal_number, void *context),
			void *context, struct error *err)
{
	return error_set(err, ENOSYS, "signals: not there yet");
}

void signals_remove_from_loop(struct signals *signals, struct loop *loop)
{
}

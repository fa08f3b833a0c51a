/* How a small guest ends. */
#ifndef KIT_END_H
#define KIT_END_H

/*
 * Resets the machine through the i8042, which a monitor takes for a clean end; where nothing comes
 * of it, by a triple fault.
 */
__attribute__((noreturn)) void guest_end(void);

/*
 * Says "guest failed: REASON" and ends by a triple fault, so that whoever started the monitor can
 * tell by its status. (On a machine that resets after a triple fault the guest would start anew.)
 */
__attribute__((noreturn, format(printf, 1, 2))) void guest_fail(const char *format, ...);

#endif

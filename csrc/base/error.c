/* error.c - one sentence per thread about what went wrong last, and the hooks the upper floors set. */
#include "base.h"
#include <stdarg.h>
#include <stdio.h>

_Thread_local wm_failure wm_error_kind;
_Thread_local char wm_error[512];
int wm_threads = 1;
int (*wm_poll)(void);

static void write_error(wm_failure kind, const char *fmt, va_list ap) {
    wm_error_kind = kind;
    vsnprintf(wm_error, sizeof wm_error, fmt, ap);
}

int wm_fail(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    write_error(WM_VALUE, fmt, ap);
    va_end(ap);
    return -1;
}

int wm_fail_as(wm_failure kind, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    write_error(kind, fmt, ap);
    va_end(ap);
    return -1;
}

/* norm: the ops of this family; see kernels.def for the arithmetic. */
#include "../tape/tape.h"

const wm_op *const wm_ops_norm[] = {NULL};

/* axes.h - what ops with axes and indices share: counting axes from the end, sizes before and behind an axis, merging
   axes for strided kernels, indices in range. */
#ifndef WM_AXES_H
#define WM_AXES_H
#include "../tape/tape.h"

int     wm_axis(const wm_node *, const wm_tensor *, int64_t axis);          /* 0..ndim-1 from -ndim..ndim-1; -1 on failure */
int64_t wm_size_between(const wm_tensor *, int first, int end);             /* product of the lengths of axes [first, end) */

/* A walk over axes with strides, as strided_copy takes it.  Axes are added first to last; those that continue each other merge. */
typedef struct { int ndim; int64_t shape[WM_DIMS], stride[WM_DIMS]; } wm_walk;
void wm_walk_axis(wm_walk *, int64_t length, int64_t stride);

int wm_check_index(const wm_node *, const wm_tensor *index, int64_t n);     /* an IndexError if one is outside 0..n-1 */
#endif

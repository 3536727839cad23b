/* broadcast.h - shapes that meet by NumPy's rule: aligned at the last axis, a length of 1 repeats. */
#ifndef WM_BROADCAST_H
#define WM_BROADCAST_H
#include "../tape/tape.h"

enum { WM_MEET = 3 };   /* inputs that can meet at most */

/* Axes merged until few are left: shape of the result, strides of the inputs (0 repeats, the last is 0 or 1). */
typedef struct { int ndim; int64_t shape[WM_DIMS], stride[WM_MEET][WM_DIMS]; } wm_broadcast;

int  wm_broadcast_shape(const wm_node *, int n_in, int *ndim, int64_t *shape);   /* of in[0..n_in); 0 or -1 */
void wm_broadcast_strides(wm_broadcast *, const wm_tensor *out, wm_tensor *const *in, int n_in);

/* How many separate runs of axes of out does x repeat along?  0: x has the shape of out. */
int  wm_broadcast_runs(const wm_tensor *x, const wm_tensor *out);
/* dx += scale * dout summed over the axes that x repeats along.  room: as many numbers as out if there is more than one run. */
void wm_broadcast_sum(const wm_kernels *, float *dx, const wm_tensor *x, const float *dout, const wm_tensor *out,
                      double scale, float *room);
#endif

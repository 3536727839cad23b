/* cells.h - how every loss is weighted and reduced.

   A loss has a term per element (or per row).  `keep` leading axes stay in the result; over the rest the terms are
   averaged or summed: one cell of n terms per number of the result.  `weight` has the leading axes of the terms, as many
   as it likes: each of its numbers covers m terms.  mean divides by n, not by the sum of weights.
   Every loss has the attributes "reduction:e=mean|sum keep:i=0" first. */
#ifndef WM_CELLS_H
#define WM_CELLS_H
#include "axes.h"

typedef struct { int64_t O, n, m; double scale; } wm_cells;

#define WM_CELLS "reduction:e=mean|sum keep:i=0"
/* Checks keep and weight (NULL: none) against the leading `axes` axes of in[0], and makes out[0]. */
int      wm_cells_out(wm_node *, int axes, const wm_tensor *weight);
wm_cells wm_cells_of(const wm_node *, int axes, const wm_tensor *weight);
int      wm_same_shape(const wm_node *, int i, const char *name, int as, const char *as_name);   /* in[i] has the shape of in[as]; 0 or -1 */

int      wm_no_gradient(const wm_node *, int i, const char *name);   /* an error if in[i] waits for a gradient; 0 or -1 */

/* Losses of one number a row: in scratch (R numbers, asked for by wm_rows_out), then reduced; and back. */
int    wm_rows_out(wm_node *, int axes, const wm_tensor *weight);
void   wm_rows_reduce(wm_node *, int axes, const wm_tensor *weight, const float *loss);
float *wm_rows_slopes(wm_node *, int axes, const wm_tensor *weight);
#endif

/* params.h - the arena: all parameters of a model in one block, their gradients, moments and moving averages in blocks of the
   same layout.

       wm_params *p = wm_params_new(tensors, n, decays);      the tensors' numbers move; they stay usable as before
       wm_params_shadow(p, 0.999f);                            an exponential moving average
       ... tape, backward: gradients are added in the arena ...
       wm_update u = wm_params_adamw(p, &(wm_adamw){.lr = 1e-3, ...});
       wm_params_swap(p, 0); evaluate; wm_params_swap(p, 0);  the average in place of the values, and back
       wm_params_free(p);                                      the tensors keep their memory

   A tensor starts on a cache line; the numbers between tensors are 0 and stay 0.  Make views of a parameter, and NumPy
   arrays, after the arena: those made before show the old place. */
#ifndef WM_PARAMS_H
#define WM_PARAMS_H
#include "../tensor/tensor.h"

typedef struct wm_params {
    int         n;                       /* tensors */
    int         device;
    int64_t     size;                    /* numbers in a block, padding included */
    int64_t     steps;                   /* updates so far, for the bias correction; set it when a checkpoint is loaded */
    wm_tensor **tensor;
    int64_t    *at;                      /* tensor i's numbers are at[i] ... */
    wm_memory  *values, *grads, *m, *v, *shadow[WM_SHADOWS];
    float       ema[WM_SHADOWS];         /* decay of each moving average */
    int         shadows;
    int64_t    *ends;                    /* runs of tensors that share a decay flag: where each ends */
    uint8_t    *decays;
    int64_t     segments;
    double     *parts;                   /* scratch of the norm */
} wm_params;

/* The parts of the arena, each a block in the layout of the values. */
typedef enum { WM_VALUES, WM_GRADS, WM_FIRST_MOMENT, WM_SECOND_MOMENT, WM_SHADOW } wm_part;   /* WM_SHADOW + k */

/* decays[i]: does weight decay apply to tensor i?  NULL: to those of two axes or more.  The tensors are float32, need a
   gradient, are no views and appear once.  NULL, with wm_error set, if not, or if memory is out. */
wm_params *wm_params_new(wm_tensor *const *tensors, int n, const uint8_t *decays);
void       wm_params_free(wm_params *);                             /* NULL is fine */
int        wm_params_shadow(wm_params *, float ema);                /* one more moving average, from the values now: its index; -1 */
int        wm_params_swap(wm_params *, int shadow);                 /* exchange the values and an average; 0 or -1 */
wm_tensor *wm_params_part(wm_params *, wm_part, int tensor);        /* a view of tensor i's share, to save and load; NULL */
void       wm_params_clear(wm_params *);                            /* gradients to 0 */
double     wm_params_norm(const wm_params *);                       /* of the gradients, over all tensors */

typedef struct {
    double lr, beta1, beta2, eps;
    double decay;          /* decoupled: p *= 1 - lr decay, where the tensor's flag says so */
    double clip;           /* the gradient's norm is at most this; 0: no clipping */
    bool   ema_warms_up;   /* averages use min(ema, (1 + t) / (10 + t)) */
} wm_adamw;

typedef struct {
    double norm;           /* of the gradient before clipping */
    bool   clipped, skipped;   /* skipped: the norm was not finite; nothing changed but the gradients, now 0 */
} wm_update;

wm_update wm_params_adamw(wm_params *, const wm_adamw *);

/* Learning rates: a line from 0 to peak over the first `warmup` steps (step 0 is 1 / warmup of it), then constant, a line, or
   half a cosine to `floor` at step `total`. */
typedef enum { WM_CONSTANT, WM_LINEAR, WM_COSINE } wm_schedule;
double wm_schedule_at(wm_schedule, int64_t step, int64_t warmup, int64_t total, double peak, double floor);
#endif

/* kernels.h - the table of kernels: arithmetic on plain pointers, filled once per device and instruction set.
   A kernel cannot fail, allocate, print or know a tensor.  Gradients are added (+=), never assigned.
   Buffers never overlap unless kernels.def says so. */
#ifndef WM_KERNELS_H
#define WM_KERNELS_H
#include "../base/base.h"

typedef uint16_t wm_bf16;   /* the upper half of a float */
enum { WM_KIND_F32, WM_KIND_BF16, WM_KIND_U8, WM_KIND_I32 };   /* what a void pointer points to; numbered as wm_dtype */

/* What a norm multiplies and adds, by channel: (plus + factor) and term, a row of each for every `rows` rows of x.  Both may
   be NULL.  Rows of factor and term are step_... numbers apart (0: one for all), so that they may be chunks of one tensor. */
typedef struct wm_modulation {
    const float *factor, *term;
    float plus;
    int64_t rows, step_factor, step_term;
} wm_modulation;

/* A convolution, channels last: x (B,H,W,C) -> out (B,OH,OW,O).  Output (y,x) looks at rows stride y - top + [0,kh) and
   columns stride x - left + [0,kw) of x, whose pixels count `up` times in both directions; 0 outside.  image, row and
   pixel are the steps, in numbers, from one output image, row and pixel to the next. */
typedef struct wm_conv {
    int64_t B, H, W, C, OH, OW, O, kh, kw, stride, top, left, up, image, row, pixel;
} wm_conv;

/* What follows the sums: out (+)= act(sum + bias) + residual.  All may be NULL; before keeps sum + bias for backward. */
typedef enum { WM_ACT_NONE, WM_ACT_SILU, WM_ACT_RELU } wm_act;
typedef struct wm_conv_end {
    const float *bias, *residual;
    float *before;
    wm_act act;
    bool add;
} wm_conv_end;

/* The shape of an attention: outer x inner problems, whose rows lie inner rows apart, so that time and space are both
   attended to where they lie; heads are column blocks of the rows. */
enum { WM_MASK_FULL, WM_MASK_CAUSAL, WM_MASK_WINDOW, WM_MASK_FRAME_CAUSAL };
enum { WM_HEAD_WIDEST = 512 };             /* columns of one head at most */
typedef struct {
    int64_t outer, inner, Nq, Nk;          /* problems; queries and keys of one (Nk of a cache: when full) */
    int64_t H, G, D;                       /* query heads, of which G share keys; columns of one */
    int64_t q_width, k_width, v_width;     /* numbers from row to row of a tensor; heads first */
    int64_t mask, window, frame;           /* window in keys, or in frames (0: all) if frame-causal */
    int64_t lengths;                       /* how many lengths are given, if any: a divisor of outer */
    int64_t sinks, ring, pairs;            /* a cache: frames kept for good, frames that take turns; rotated pairs */
    bool interleaved;                      /* partners of a rotation lie side by side */
    float scale;
} wm_attention;

/* The shape of a norm and rotation per head: R rows of H heads, x_width numbers from row to row of x. */
enum { WM_HEAD_PLAIN, WM_HEAD_RMS, WM_HEAD_LAYER };
enum { WM_HEAD_PARTS = 32 };               /* partial sums over rows, whatever the threads */
typedef struct {
    int64_t R, H, D, x_width, inner, tables, pairs, norm;
    bool interleaved;
    float eps;
} wm_head_norm;

/* The numbers of one AdamW step (cpu/optimise.c has the formula). */
enum { WM_SHADOWS = 4 };     /* moving averages of the parameters at most */
typedef struct {
    float step, root, rest1, beta2, rest2, eps, keep, clip, follow[WM_SHADOWS];   /* rest: 1 - beta, follow: 1 - ema */
    int shadows;
} wm_adamw_numbers;

typedef struct wm_kernels {
    const char *name;
#define WM_KERNEL(name, ret, args) ret (*name) args;
#include "kernels.def"
#undef WM_KERNEL
} wm_kernels;

extern const wm_kernels *wm_k;                       /* the CPU table in use */
const wm_kernels *wm_kernels_best(void);             /* the best table that this processor can run */
const wm_kernels *wm_kernels_named(const char *);    /* NULL if there is none of that name, or it cannot run here */
const char *wm_kernels_name(int i);                  /* names of the tables that run here, best first; NULL past the last */
#endif

/* tensor.h - shape, ownership, device.  Always contiguous, channels last. */
#ifndef WM_TENSOR_H
#define WM_TENSOR_H
#include "../base/base.h"
#include "../kernels/device.h"

typedef enum { WM_F32, WM_BF16, WM_U8, WM_I32, WM_ANY, WM_WEIGHT } wm_dtype;   /* the last two only in op specs: WEIGHT is F32 or BF16 */

/* A block of numbers and who owns it; tensors and NumPy views share it. */
typedef struct wm_memory {
    int       refs;
    int       exports;              /* writable views in other hands: while any lives, nothing derived may be cached */
    uint64_t  version;              /* counts the writes that go through us */
    void     *data;
    size_t    bytes;
    void     *owner;                /* keeps borrowed memory alive; NULL if the memory is ours */
    void    (*release)(void *owner);
    int       device;               /* whose memory data is */
} wm_memory;

typedef struct wm_tensor {
    int      refs;
    uint8_t  dtype, device;
    bool     needs_grad;
    bool     keeps_grad;            /* not a leaf, yet its gradient stays after backward */
    int      ndim;
    int64_t  shape[WM_DIMS];
    int64_t  size;
    union { float *data; wm_bf16 *bf16; uint8_t *u8; int32_t *i32; void *raw; };
    wm_memory *memory;
    struct wm_tensor *base;         /* a view of this one: it shares memory and gradient */
    int64_t    offset;              /* of a view, in numbers from the base's first */
    float     *grad;                /* NULL until backward first reaches this tensor */
    wm_memory *grad_memory;
    void      *packed;              /* a weight laid out for the matrix kernels (tensor.c: wm_packed) */
    uint64_t   packed_version;
    int        packed_layout;
} wm_tensor;

wm_tensor *wm_tensor_new(int device, wm_dtype, int ndim, const int64_t *shape);   /* numbers undefined */
wm_tensor *wm_tensor_view(wm_tensor *base, int64_t offset, int ndim, const int64_t *shape);  /* offset in numbers */
wm_tensor *wm_tensor_borrow(int device, wm_dtype, void *data, int ndim, const int64_t *shape, void *owner, void (*release)(void *));
wm_tensor *wm_keep(wm_tensor *);    /* one more holder; NULL is fine */
void       wm_drop(wm_tensor *);    /* one holder less; NULL is fine */

wm_memory *wm_memory_new(int device, size_t bytes);
wm_memory *wm_memory_keep(wm_memory *);
void       wm_memory_drop(wm_memory *);
void       wm_tensor_sleep(wm_tensor *);    /* give the numbers back, keep the description (checkpointing) */
int        wm_tensor_wake(wm_tensor *);     /* room for the numbers again; 0 or -1 */
int        wm_tensor_move(wm_tensor *, wm_memory *, size_t offset_bytes);   /* the same numbers in another block (the arena) */

int        wm_tensor_send(wm_tensor *, int device);         /* the same numbers on another device, gradient too; 0 or -1 */

/* The numbers where the processor can read them: its own, or a copy of a device's (NULL, with wm_error set, if that fails). */
const void *wm_read(const wm_tensor *);
void        wm_read_done(const wm_tensor *, const void *);

int        wm_grad_ready(wm_tensor *);      /* makes the gradient, zeroed, if it needs one and has none; 0 or -1 */
float     *wm_grad(wm_tensor *);            /* its gradient; NULL if t is NULL or needs none.  Only after wm_grad_ready */
void       wm_grad_clear(wm_tensor *);      /* gives a gradient of its own back; zeroes one that lives in an arena */
bool       wm_grad_here(wm_tensor *);       /* has backward reached it (or what it is a view of)? */
void       wm_written(wm_tensor *);         /* say so after changing numbers behind a tensor */

/* The matrix kernels' layout of a weight, kept until the weight changes.  NULL, with wm_error set, if memory is out:
   so call it once in infer; with the same layout and size every later call finds that block and cannot fail.  A device
   whose kernels read weights as they lie has no packer (NULL) and gets the weight itself. */
typedef void (*wm_packer)(void *packed, const void *weight, int dtype, int64_t N, int64_t K);
static inline const void *wm_packed_now(const wm_tensor *w) { return w->packed ? w->packed : w->raw; }   /* after wm_packed */
const void *wm_packed(wm_tensor *w, int layout, size_t bytes, wm_packer, int64_t N, int64_t K);

size_t      wm_dtype_size(wm_dtype);
const char *wm_dtype_name(wm_dtype);
const char *wm_shape_text(const wm_tensor *, char *text, size_t size);   /* "(3, 4)" */
#endif

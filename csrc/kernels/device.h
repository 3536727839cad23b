/* device.h - where numbers live and what computes on them.  Device 0 is the processor and the machine's own memory; device 1 is
   CUDA, a library of its own (kernels/cuda) that is opened when it is first asked for.

   What a device does is in order: kernels, copies and clears run one after the other, to_host waits for them.  Work in flight
   cannot say at once that it failed, so devices keep their first error until wm_device_failed asks. */
#ifndef WM_DEVICE_H
#define WM_DEVICE_H
#include "kernels.h"

enum { WM_CPU, WM_CUDA, WM_DEVICES };
enum { WM_DEVICE_ABI = 2 };

enum { WM_ALL_STREAMS = -1 };

/* What a device library gives; see kernels/cuda/library.cu. */
typedef struct wm_device {
    int abi;                                   /* WM_DEVICE_ABI when the library was built */
    size_t table_bytes;                        /* sizeof(wm_kernels) when the library was built */
    const wm_kernels *kernels;                 /* launchers; those not written yet fail by name.  Packers may be NULL */
    int (*open)(void);                         /* is there a device that works?  0, or -1: error says why not */
    const char *(*describe)(void);             /* the device in words */
    const char *(*error)(void);                /* what failed since the last call, or NULL */
    void *(*alloc)(size_t bytes);              /* NULL: none left */
    void (*free)(void *block);                 /* back to the library's arena; work in flight may still read it */
    int (*to_device)(void *to, const void *from, size_t bytes);
    int (*to_host)(void *to, const void *from, size_t bytes);      /* waits */
    int (*copy)(void *to, const void *from, size_t bytes);
    int (*zero)(void *to, size_t bytes);
    int (*synchronize)(void);
    void (*trim)(void);                        /* hand idle blocks back to the driver */
    void (*guard)(bool on);                    /* tests: poisoned blocks with sentinels, never reused */
    void (*count)(wm_pool_counts *);
    int (*capture)(void);                      /* what follows is recorded, not run */
    void *(*captured)(void);                   /* the recorded graph; NULL if it cannot be one */
    int (*launch)(void *graph);
    void (*forget)(void *graph);
    bool (*has)(const char *kernel);           /* is that kernel written? */
    int (*matmul)(const char *how);            /* choose the products' arithmetic: cuda/gemm.cuh lists the ways; 0 or -1 */
    intptr_t (*stream)(void);                  /* where its work is queued */
    int (*let_wait)(intptr_t stream);          /* that stream of others goes on when ours is done with what it was given */
    int (*wait_for)(intptr_t stream);          /* ours, when that one is; WM_ALL_STREAMS: waits here, for whatever runs */
} wm_device;

extern int wm_device_now;                      /* where new tensors are made, unless inputs say otherwise */
extern const wm_device *wm_devices[WM_DEVICES];   /* NULL: the processor, or not open */

int         wm_device_open(int device);        /* 0, or -1 with wm_error: why it cannot be used */
const char *wm_device_name(int device);        /* "cpu", "cuda" */
int         wm_device_named(const char *);     /* -1: there is none of that name */
/* One thread at a time gives a device work: what an op launches stays together, and nobody else's gets into a graph that is being
   captured.  Who is inside may enter again; nobody inside may wait for Python. */
void        wm_device_enter(int device);
void        wm_device_leave(int device);
int         wm_device_failed(int device, const char *who);   /* -1 with wm_error if what was asked of it failed */

int         wm_device_wait(int device);        /* until all that it was given is done; 0 or -1 */

void *wm_device_alloc(int device, size_t bytes);      /* NULL, with wm_error set, when memory is out */
void  wm_device_free(int device, void *);             /* NULL is fine */
void  wm_zero(int device, void *, size_t bytes);
void  wm_copy(int device, void *to, const void *from, size_t bytes);
int   wm_copy_between(int to_device, void *to, int from_device, const void *from, size_t bytes);   /* waits if it ends here; 0 or -1 */

/* The kernels of a device. */
static inline const wm_kernels *wm_kernels_on(int device) { return device ? wm_devices[device]->kernels : wm_k; }
#endif

/* device.c - opens device libraries, and sends memory's calls to the device that they concern.

   The library is $WORLDMODEL_CUDA_LIBRARY, or libworldmodel_cuda.so beside this one.  It is opened once; if that fails, every
   later call says why. */
#define _GNU_SOURCE
#include "device.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int wm_device_now;
const wm_device *wm_devices[WM_DEVICES];
static const char *const names[WM_DEVICES] = {"cpu", "cuda"};

const char *wm_device_name(int device) { return names[device]; }

int wm_device_named(const char *name) {
    for (int i = 0; i < WM_DEVICES; i++)
        if (!strcmp(names[i], name)) return i;
    return -1;
}

/* ---- opening ---------------------------------------------------------------------------------- */

static void beside_us(char *path, size_t size) {
    Dl_info here;
    const char *wanted = getenv("WORLDMODEL_CUDA_LIBRARY");
    path[0] = 0;
    if (wanted && *wanted) {
        snprintf(path, size, "%s", wanted);
    } else if (dladdr((void *)&wm_device_now, &here) && here.dli_fname) {
        const char *slash = strrchr(here.dli_fname, '/');
        snprintf(path, size, "%.*slibworldmodel_cuda.so", slash ? (int)(slash + 1 - here.dli_fname) : 0, here.dli_fname);
    }
}

static int open_library(void) {
    char path[4096];
    beside_us(path, sizeof path);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return wm_fail_as(WM_RUNTIME, "cuda: this build has no CUDA library (%.300s)", dlerror());
    const wm_device *(*give)(void);
    *(void **)&give = dlsym(library, "wm_cuda_device");
    const wm_device *d = give ? give() : NULL;
    if (!d || d->abi != WM_DEVICE_ABI || d->table_bytes != sizeof(wm_kernels))
        return dlclose(library), wm_fail_as(WM_RUNTIME, "cuda: %.300s was built for another version; build again", path);
    if (d->open() < 0) return wm_fail_as(WM_RUNTIME, "cuda: %.400s", d->error());
    wm_devices[WM_CUDA] = d;
    return 0;
}

int wm_device_open(int device) {
    static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
    if (device == WM_CPU || wm_devices[device]) return 0;
    pthread_mutex_lock(&opening);
    int failed = wm_devices[device] ? 0 : open_library();
    pthread_mutex_unlock(&opening);
    return failed;
}

/* ---- one at a time ---------------------------------------------------------------------------- */

static pthread_mutex_t busy = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void wm_device_enter(int device) {
    if (device) pthread_mutex_lock(&busy);
}

void wm_device_leave(int device) {
    if (device) pthread_mutex_unlock(&busy);
}

int wm_device_failed(int device, const char *who) {
    if (!device) return 0;
    wm_device_enter(device);
    const char *why = wm_devices[device]->error();
    int failed = why ? wm_fail_as(WM_RUNTIME, "%s on %s: %.400s", who, names[device], why) : 0;
    wm_device_leave(device);
    return failed;
}

int wm_device_wait(int device) {
    wm_device_enter(device);
    int failed = wm_devices[device]->synchronize() < 0 ? wm_device_failed(device, "synchronize") : 0;
    wm_device_leave(device);
    return failed;
}

/* ---- memory ----------------------------------------------------------------------------------- */

void *wm_device_alloc(int device, size_t bytes) {
    if (!device) return wm_alloc(bytes);
    wm_device_enter(device);
    void *p = wm_devices[device]->alloc(bytes);
    if (!p) {
        const char *why = wm_devices[device]->error();
        wm_fail_as(WM_MEMORY, "out of memory on %s: %zu bytes wanted (%.300s)", names[device], bytes, why ? why : "none left");
    }
    wm_device_leave(device);
    return p;
}

void wm_device_free(int device, void *p) {
    if (!device || !p) return wm_free(p);
    wm_device_enter(device);
    wm_devices[device]->free(p);
    wm_device_leave(device);
}

void wm_zero(int device, void *to, size_t bytes) {
    wm_device_enter(device);
    if (device) wm_devices[device]->zero(to, bytes);
    else memset(to, 0, bytes);
    wm_device_leave(device);
}

void wm_copy(int device, void *to, const void *from, size_t bytes) {
    wm_device_enter(device);
    if (device) wm_devices[device]->copy(to, from, bytes);
    else memcpy(to, from, bytes);
    wm_device_leave(device);
}

int wm_copy_between(int to_device, void *to, int from_device, const void *from, size_t bytes) {
    const int device = to_device ? to_device : from_device;
    const wm_device *d = wm_devices[device];
    if (to_device == from_device) return wm_copy(to_device, to, from, bytes), 0;
    wm_device_enter(device);
    int failed = to_device ? d->to_device(to, from, bytes) : d->to_host(to, from, bytes);
    if (failed) failed = wm_device_failed(device, "copy");
    wm_device_leave(device);
    return failed;
}

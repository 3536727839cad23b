/* library.cu - libworldmodel_cuda.so as the engine sees it: one symbol, wm_cuda_device, that gives a wm_device (../device.h).

   (1) One stream; everything on it in order.  So a block that is given back may be handed out again at once.
   (2) Memory is an arena of our own over cudaMalloc: blocks by size class, eight to a doubling, kept for the next caller.
   (3) The first failure is kept, in words, until error() is asked.
   (4) A kernel that is not written yet is a launcher that notes its name: the op that needed it raises. */
#include "gemm.cuh"
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace wm_cuda {

cudaStream_t stream;
static char failure[400], said[400], device_words[512];
static bool guarded;
static std::mutex lock;

void note(const char *fmt, const char *what) {
    if (!failure[0]) snprintf(failure, sizeof failure, fmt, what);
}

static int checked(cudaError_t e, const char *what) {
    if (e == cudaSuccess) return 0;
    cudaGetLastError();
    char text[300];
    snprintf(text, sizeof text, "%s: %s (%s)", what, cudaGetErrorName(e), cudaGetErrorString(e));
    note("%s", text);
    return -1;
}

static const char *error(void) {
    const cudaError_t e = cudaGetLastError();
    if (e != cudaSuccess) checked(e, "a launch failed");
    if (!failure[0]) return NULL;
    memcpy(said, failure, sizeof said);
    failure[0] = 0;
    return said;
}

static int multiprocessors = 1;
int64_t most_blocks() { return WM_MOST_BLOCKS ? WM_MOST_BLOCKS : (int64_t)multiprocessors * 16; }

/* ---- memory (2) -------------------------------------------------------------------------------------- */

enum { SENTINELS = WM_SENTINELS };
static std::unordered_map<void *, size_t> sizes;                      /* of every block of ours; guarded: what was asked for */
static std::unordered_map<size_t, std::vector<void *>> idle;
static wm_pool_counts count;
static void *scratch;
static size_t scratch_bytes;

static size_t rounded(size_t bytes) {
    size_t step = 256;
    while (step * 16 < bytes) step *= 2;
    return bytes ? (bytes + step - 1) / step * step : step;
}

static void trim_locked() {
    for (auto &list : idle)
        for (void *p : list.second) count.bytes_idle -= list.first, sizes.erase(p), cudaFree(p);
    idle.clear();
}

static void *guarded_block(size_t bytes) {
    void *p = NULL;
    if (checked(cudaMalloc(&p, bytes + SENTINELS), "cudaMalloc") < 0) return NULL;
    checked(cudaMemsetAsync(p, 0xff, bytes, stream), "cudaMemset");
    if ((int)SENTINELS > 0) checked(cudaMemsetAsync((char *)p + bytes, 0xa5, SENTINELS, stream), "cudaMemset");
    return p;
}

static void look_at_sentinels(void *p, size_t bytes) {
    unsigned char behind[SENTINELS + 1];
    if ((int)SENTINELS == 0 || checked(cudaMemcpyAsync(behind, (char *)p + bytes, SENTINELS, cudaMemcpyDeviceToHost, stream), "copy") < 0) return;
    cudaStreamSynchronize(stream);
    for (int i = 0; i < SENTINELS; i++)
        if (behind[i] != 0xa5) { count.overruns++; return; }
}

/* A guarded block's size is kept with its top bit set. */
enum : size_t { GUARDED = (size_t)1 << 63 };

static void *alloc(size_t bytes) {
    std::lock_guard<std::mutex> hold(lock);
    const size_t size = rounded(bytes);
    void *p = NULL;
    if (guarded) {
        if ((p = guarded_block(bytes))) sizes[p] = bytes | GUARDED, count.bytes_in_use += bytes;
        return p;
    }
    auto &list = idle[size];
    if (!list.empty()) {
        p = list.back(), list.pop_back(), count.bytes_idle -= size;
    } else {
        cudaError_t e = cudaMalloc(&p, size);
        if (e == cudaErrorMemoryAllocation) cudaGetLastError(), trim_locked(), e = cudaMalloc(&p, size);
        if (checked(e, "cudaMalloc") < 0) return NULL;
        sizes[p] = size, count.misses++;
    }
    count.bytes_in_use += size;
    if (count.bytes_in_use > count.bytes_peak) count.bytes_peak = count.bytes_in_use;
    return p;
}

static void give_back(void *p) {
    std::lock_guard<std::mutex> hold(lock);
    auto it = sizes.find(p);
    if (it == sizes.end()) return note("%s", "a block was given back that is not ours");
    const size_t size = it->second & ~GUARDED;
    count.bytes_in_use -= size;
    if (it->second & GUARDED) {
        look_at_sentinels(p, size);
        sizes.erase(it);
        cudaFree(p);
        return;
    }
    idle[size].push_back(p), count.bytes_idle += size;
}

static void trim(void) {
    std::lock_guard<std::mutex> hold(lock);
    cudaStreamSynchronize(stream);
    trim_locked();
    count.bytes_peak = count.bytes_in_use;
}

void *workspace(size_t bytes) {
    if (bytes > scratch_bytes || guarded) {
        if (scratch && guarded) give_back(scratch);      /* else a graph may still write to it; the next is twice as large */
        if (!guarded && bytes < 2 * scratch_bytes) bytes = 2 * scratch_bytes;
        scratch = alloc(bytes), scratch_bytes = scratch ? bytes : 0;
    }
    return scratch;
}

static void guard(bool on) {
    if (scratch) give_back(scratch), scratch = NULL, scratch_bytes = 0;
    guarded = on;
}

static void add_counts(wm_pool_counts *c) {
    c->misses += count.misses, c->bytes_in_use += count.bytes_in_use, c->bytes_idle += count.bytes_idle;
    c->bytes_peak += count.bytes_peak, c->overruns += count.overruns;
}

static int to_device(void *to, const void *from, size_t n) { return checked(cudaMemcpyAsync(to, from, n, cudaMemcpyHostToDevice, stream), "copy to the device"); }
static int copy(void *to, const void *from, size_t n) { return checked(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToDevice, stream), "copy"); }
static int zero(void *to, size_t n) { return checked(cudaMemsetAsync(to, 0, n, stream), "clearing"); }
static int synchronize(void) { return checked(cudaStreamSynchronize(stream), "waiting"); }
static int to_host(void *to, const void *from, size_t n) {
    const int failed = checked(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToHost, stream), "copy from the device");
    return failed ? failed : synchronize();
}

/* ---- graphs --------------------------------------------------------------------------------------------- */

static int capture(void) { return checked(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "capture"); }
static void *captured(void) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    if (checked(cudaStreamEndCapture(stream, &graph), "capture") < 0) return NULL;
    if (checked(cudaGraphInstantiate(&exec, graph, 0), "graph") < 0) exec = NULL;
    cudaGraphDestroy(graph);
    return exec;
}
static int launch(void *graph) { return checked(cudaGraphLaunch((cudaGraphExec_t)graph, stream), "graph"); }
static void forget(void *graph) { cudaGraphExecDestroy((cudaGraphExec_t)graph); }

/* ---- other people's streams (DLPack) ---------------------------------------------------------------------------- */

/* `later` goes on when `earlier` has done what it has been given until now. */
static int order(cudaStream_t earlier, cudaStream_t later) {
    cudaEvent_t done;
    if (checked(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "event") < 0) return -1;
    int failed = checked(cudaEventRecord(done, earlier), "event");
    if (!failed) failed = checked(cudaStreamWaitEvent(later, done, 0), "waiting for another stream");
    cudaEventDestroy(done);
    return failed;
}
static intptr_t our_stream(void) { return (intptr_t)stream; }
static int let_wait(intptr_t other) { return order(stream, (cudaStream_t)other); }
static int wait_for(intptr_t other) {
    if (other == WM_ALL_STREAMS) return checked(cudaDeviceSynchronize(), "waiting");
    return order((cudaStream_t)other, stream);
}

/* ---- the table (4) ---------------------------------------------------------------------------------------- */

static void missing(const char *name) { note("the kernel %s is not written for CUDA yet", name); }
#define WM_KERNEL(name, ret, args) static ret missing_##name args { return missing(#name), ret(); }
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
#include "../kernels.def"
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
#undef WM_KERNEL

static wm_kernels table;

static void fill_table(void) {
    if (table.name) return;
#define WM_KERNEL(name, ret, args) table.name = missing_##name;
#include "../kernels.def"
#undef WM_KERNEL
    pointwise_table(&table);
    reduce_table(&table), softmax_table(&table), shape_table(&table), norm_table(&table), embed_table(&table);
    random_table(&table), loss_table(&table), categorical_table(&table), gaussian_table(&table), image_table(&table);
    optimise_table(&table), diffuse_table(&table), linear_table(&table), scan_table(&table);
    attention_table(&table), rotary_table_entries(&table), conv_table(&table);
    table.name = "cuda";
}

static bool has(const char *name) {
#define WM_KERNEL(entry, ret, args) if (!strcmp(name, #entry)) return table.entry != missing_##entry;
#include "../kernels.def"
#undef WM_KERNEL
    return false;
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

static int open_device(void) {
    int devices = 0;
    const cudaError_t e = cudaGetDeviceCount(&devices);
    if (e != cudaSuccess || !devices) {
        cudaGetLastError();
        snprintf(failure, sizeof failure, "no CUDA device (%s)", e == cudaSuccess ? "none found" : cudaGetErrorName(e));
        return -1;
    }
    cudaDeviceProp p;
    if (checked(cudaGetDeviceProperties(&p, 0), "device 0") < 0) return -1;
    if (checked(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream") < 0) return -1;
    multiprocessors = p.multiProcessorCount;
    snprintf(device_words, sizeof device_words, "%s, compute %d.%d, %zu MiB, %d multiprocessors", p.name, p.major, p.minor,
             p.totalGlobalMem >> 20, p.multiProcessorCount);
    fill_table();
    return 0;
}

static const char *describe(void) { return device_words; }
static int matmul(const char *how) {
    static const char *const ways[WAYS] = {"exact", "bf16", "split", "cublas", "cublas_bf16"};
    for (int i = 0; i < WAYS; i++)
        if (!strcmp(how, ways[i])) return i < BY_CUBLAS || cublas_open() ? matmul_way = i, 0 : -1;
    note("wanted 'exact', 'bf16', 'split', 'cublas' or 'cublas_bf16', got '%s'", how);
    return -1;
}

static const wm_device device = {WM_DEVICE_ABI, sizeof(wm_kernels), &table, open_device, describe, error, alloc, give_back, to_device,
                                 to_host, copy, zero, synchronize, trim, guard, add_counts, capture, captured, launch, forget, has, matmul,
                                 our_stream, let_wait, wait_for};

}  // namespace wm_cuda

extern "C" __attribute__((visibility("default"))) const wm_device *wm_cuda_device(void) {
    wm_cuda::fill_table();
    return &wm_cuda::device;
}

/* emulator.h - CUDA C++ kernel sources on the processor, so that their logic can be tested without a GPU.

   One fiber per CUDA thread; a fiber runs until it meets a barrier, a warp operation or the end of the kernel. Included
   by csrc/kernels/cuda/device.cuh in place of <cuda_runtime.h> when WM_EMULATED is defined.  CUDA's own header still
   declares the runtime's functions; emulator.cpp defines those that the library needs. */
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <cuda_runtime.h> // as plain C++: vector types, the runtime API's declarations; cuemu.cpp DEFINES those it needs
#undef __shared__
#undef __constant__
#undef __global__
#undef __device__
#undef __host__
#undef __launch_bounds__
#undef __forceinline__
#undef __grid_constant__
#define __shared__ CUEMU_ERROR_use_WM_SHARED_instead
#define __constant__ static
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __grid_constant__
#define warpSize 32

namespace cuemu {
/* What a cudaStream_t points at here: for a library beside (cublas.cpp) that has work to do in order, or to be captured. */
struct Stream {
    void (*perform)(std::function<void()>);
};
struct Warp;
struct Thread { // the running CUDA thread
    void* sp = nullptr;
    void* tsan = nullptr;
    uint3 tid{};
    unsigned lin = 0, lane = 0;
    Warp* warp = nullptr;
    int state = 0; // 0 ready, 1 waiting, 2 done
    const char* where = "";
    int line = 0;
};
extern Thread* cur;
extern uint3 block_idx;
extern dim3 block_dim, grid_dim;
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Stats {
    uint64_t launches = 0, blocks = 0, threads = 0, switches = 0, barriers = 0, warp_ops = 0, mmas = 0;
    size_t shared_peak = 0;
};
extern Stats stats;
void count_mma();
void set_schedule(unsigned seed); // 0 forward, 1 reverse, >=2 random interleaving (blocks too)
void fail(const char* fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

void run(const char* name, dim3 grid, dim3 block, size_t dyn_smem, const std::function<void()>& body);
void sync_block(const char* what, int line, int pred, int* out_and, int* out_or, int* out_count);
// all lanes of mask meet; each passes n bytes, afterwards slot(lane) of the returned table is readable
struct Slots {
    unsigned char (*b)[64];
    template <class T> T get(unsigned lane) const {
        T v;
        memcpy(&v, b[lane], sizeof v);
        return v;
    }
};
Slots warp_meet(const char* what, int line, unsigned mask, const void* v, size_t n);
void* shared_static(const void* key, size_t bytes, size_t align);
void* shared_dynamic();
size_t dyn_limit(const void* kernel);

/* Where launches go: run them here, record them (stream capture), or to an interpreter of the PTX (interpret). */
struct Launch {
    const char* name;
    dim3 grid, block;
    size_t smem;
    const void* kernel;
    std::function<void()> body;
    void** args;
    int n_args;
};
void launch_any(Launch&, std::shared_ptr<void> keep);

template <class... P, size_t... I>
void launch_packed(const char* name, dim3 grid, dim3 block, size_t smem, void (*k)(P...),
                   std::tuple<std::decay_t<P>...> values, std::index_sequence<I...>) {
    struct Packed {
        std::tuple<std::decay_t<P>...> values;
        void* args[sizeof...(P) + 1];
    };
    auto p = std::make_shared<Packed>(Packed{std::move(values), {}});
    ((p->args[I] = (void*)&std::get<I>(p->values)), ...);
    Launch l{name, grid, block, smem, (const void*)k, [p, k] { std::apply(k, p->values); }, p->args, (int)sizeof...(P)};
    launch_any(l, p);
}
template <class... P, class... A>
void launch(const char* name, dim3 grid, dim3 block, size_t smem, void (*k)(P...), A&&... a) {
    static_assert(sizeof...(P) == sizeof...(A), "kernel argument count");
    static_assert((sizeof(std::decay_t<P>) + ... + 0) <= 4096, "kernel parameters over 4 KiB");
    launch_packed(name, grid, block, smem, k, std::tuple<std::decay_t<P>...>(std::forward<A>(a)...),
                  std::index_sequence_for<P...>());
}
// fp32 helpers shared by the tensor-core emulation
inline float bf16_bits_to_float(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
void cp_async_enqueue(void* dst, const void* src, int bytes, int src_bytes);
void cp_async_commit();
void cp_async_wait(int n);
} // namespace cuemu

#if defined(__SANITIZE_THREAD__)
#define WM_MOST_BLOCKS 2 /* a fiber costs half a millisecond there */
#define WM_EACH_THREADS 64
#else
#define WM_MOST_BLOCKS 6 /* few blocks: threads stride, and a fiber costs more than its turn */
#endif
#if defined(__SANITIZE_ADDRESS__)
#define WM_SENTINELS 0 /* the sanitizer sees the first byte past a block */
#endif

#define threadIdx (cuemu::cur->tid)
#define blockIdx (cuemu::block_idx)
#define blockDim (cuemu::block_dim)
#define gridDim (cuemu::grid_dim)

#define WM_SHARED(T, name, dims)                                                                                       \
    using name##_smem_t = T dims;                                                                                      \
    static const char name##_smem_key = 0;                                                                             \
    name##_smem_t& name =                                                                                              \
        *(name##_smem_t*)cuemu::shared_static(&name##_smem_key, sizeof(name##_smem_t), alignof(name##_smem_t))
#define WM_SHARED_DYN(T, name) T* name = (T*)cuemu::shared_dynamic()
#define WM_LAUNCH(kernel, grid, block, smem, ...)                                                                      \
    cuemu::launch(#kernel, dim3(grid), dim3(block), (smem), kernel, __VA_ARGS__)

#define __syncthreads() cuemu::sync_block("__syncthreads", __LINE__, 0, nullptr, nullptr, nullptr)
static inline int cuemu_sync_red(int k, int p, int line) {
    int a, o, c;
    cuemu::sync_block("__syncthreads_x", line, p, &a, &o, &c);
    return k == 0 ? a : k == 1 ? o : c;
}
#define __syncthreads_and(p) cuemu_sync_red(0, (p), __LINE__)
#define __syncthreads_or(p) cuemu_sync_red(1, (p), __LINE__)
#define __syncthreads_count(p) cuemu_sync_red(2, (p), __LINE__)
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T> static inline T cuemu_shfl(const char* w, int line, unsigned m, T v, unsigned src, bool keep) {
    static_assert(sizeof(T) <= 8, "shuffle type");
    auto s = cuemu::warp_meet(w, line, m, &v, sizeof v);
    if (keep) return v;
    if (!(m >> src & 1))
        cuemu::fail("%s line %d: lane %u reads lane %u, which is not in mask %08x", w, line, cuemu::cur->lane, src, m);
    return s.template get<T>(src);
}
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int x, int w = 32, int ln = __builtin_LINE()) {
    unsigned l = cuemu::cur->lane, s = l ^ x;
    return cuemu_shfl("__shfl_xor_sync", ln, m, v, s, (s & ~(w - 1)) > (l & ~(w - 1)));
}
template <class T>
static inline T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, int ln = __builtin_LINE()) {
    unsigned l = cuemu::cur->lane, s = l + d;
    return cuemu_shfl("__shfl_down_sync", ln, m, v, s & 31, (l & (w - 1)) + d >= (unsigned)w);
}
template <class T> static inline T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, int ln = __builtin_LINE()) {
    unsigned l = cuemu::cur->lane;
    return cuemu_shfl("__shfl_up_sync", ln, m, v, (l - d) & 31, (l & (w - 1)) < d);
}
template <class T> static inline T __shfl_sync(unsigned m, T v, int src, int w = 32, int ln = __builtin_LINE()) {
    unsigned l = cuemu::cur->lane;
    return cuemu_shfl("__shfl_sync", ln, m, v, (l & ~(w - 1)) | (src & (w - 1)), false);
}
static inline unsigned cuemu_ballot(unsigned m, int p, int ln, const char* w) {
    int v = p != 0;
    auto s = cuemu::warp_meet(w, ln, m, &v, 4);
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        if (m >> i & 1) r |= (unsigned)s.get<int>(i) << i;
    return r;
}
static inline unsigned __ballot_sync(unsigned m, int p, int ln = __builtin_LINE()) {
    return cuemu_ballot(m, p, ln, "__ballot_sync");
}
static inline int __any_sync(unsigned m, int p, int ln = __builtin_LINE()) {
    return cuemu_ballot(m, p, ln, "__any_sync") != 0;
}
static inline int __all_sync(unsigned m, int p, int ln = __builtin_LINE()) {
    return cuemu_ballot(m, p, ln, "__all_sync") == m;
}
static inline void __syncwarp(unsigned m = 0xffffffffu, int ln = __builtin_LINE()) {
    cuemu::warp_meet("__syncwarp", ln, m, "", 0);
}

#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
template <class T> static inline T cuemu_fetch_add(T* p, T v) {
    T o;
    __atomic_load(p, &o, __ATOMIC_RELAXED);
    T n;
    do n = o + v;
    while (!__atomic_compare_exchange(p, &o, &n, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return o;
}
#else
template <class T> static inline T cuemu_fetch_add(T* p, T v) {
    T o = *p;
    *p = o + v;
    return o;
}
#endif
static inline float atomicAdd(float* p, float v) { return cuemu_fetch_add(p, v); }
static inline double atomicAdd(double* p, double v) { return cuemu_fetch_add(p, v); }
static inline int atomicAdd(int* p, int v) { return cuemu_fetch_add(p, v); }
static inline unsigned atomicAdd(unsigned* p, unsigned v) { return cuemu_fetch_add(p, v); }

#define __expf(x) expf(x) /* glibc owns the names __expf, __logf */
#define __logf(x) logf(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return c;
}
template <class T> static inline T __ldg(const T* p) { return *p; }
static inline int __float_as_int(float f) {
    int i;
    memcpy(&i, &f, 4);
    return i;
}
static inline unsigned __float_as_uint(float f) {
    unsigned i;
    memcpy(&i, &f, 4);
    return i;
}
static inline float __uint_as_float(unsigned i) {
    float f;
    memcpy(&f, &i, 4);
    return f;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
#ifndef CUEMU_NO_MINMAX
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
#endif

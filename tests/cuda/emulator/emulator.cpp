/* emulator.cpp - the scheduler of fibers, warps and barriers, and as much of CUDA's runtime as the library calls.

   Deliberately hostile: threads and blocks in the order that emulator_schedule asks for (0 forward, 1 backward, n
   shuffled), memory that begins as NaN, asynchronous copies that land as late as they may, misuse reported by thread
   and line. */
#include "emulator.h"
#include <algorithm>
#include <cstdarg>
#include <map>
#include <memory>
#include <random>
#include <vector>
#include <dlfcn.h>
#include <mutex>
#include <set>
#include <sys/mman.h>
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CUEMU_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define CUEMU_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define CUEMU_TSAN 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#define CUEMU_ASAN 1
#endif
#ifdef CUEMU_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define ACQ(p) __tsan_acquire(p)
#define REL(p) __tsan_release(p)
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
struct Ign {
    Ign() {
        AnnotateIgnoreReadsBegin("", 0);
        AnnotateIgnoreWritesBegin("", 0);
    }
    ~Ign() {
        AnnotateIgnoreWritesEnd("", 0);
        AnnotateIgnoreReadsEnd("", 0);
    }
};
#else
struct Ign {
    ~Ign() {}
};
#define ACQ(p) (void)(p)
#define REL(p) (void)(p)
#endif
#ifdef CUEMU_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && !defined(CUEMU_UCONTEXT)
extern "C" void cuemu_switch(void** save, void* load);
asm(".text\n.globl cuemu_switch\n.type cuemu_switch,@function\ncuemu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size cuemu_switch,.-cuemu_switch\n");
#else
#define CUEMU_UC 1
#include <ucontext.h>
#endif

namespace cuemu {
Thread* cur = nullptr;
uint3 block_idx;
dim3 block_dim, grid_dim;
Stats stats;
void count_mma() { stats.mmas++; }
struct Meet {
    unsigned mask = 0, arrived = 0, gen = 0;
    const char* what = "";
    int line = 0;
    alignas(16) unsigned char buf[2][32][64];
};
struct Warp {
    unsigned members = 0, exited = 0;
    std::vector<std::unique_ptr<Meet>> meets;
};
struct CpAsync {
    void* d;
    const void* s;
    int n, sn;
};

static unsigned g_seed = 0;
static std::mt19937 g_rng;
static std::vector<Thread> g_threads;
static std::vector<Warp> g_warps;
static std::vector<unsigned> g_order;
static const std::function<void()>* g_body;
static const char* g_name = "";
static unsigned g_live, g_bar_arrived;
static unsigned g_bar_gen;
static int g_bar_line;
static const char* g_bar_what;
static int g_bar_and, g_bar_or, g_bar_cnt, g_res_and[2], g_res_or[2], g_res_cnt[2];
static std::exception_ptr g_exc;
struct Sh {
    const void* key;
    void* p;
    size_t n;
};
static std::vector<Sh> g_shared;
static void* g_dyn;
static size_t g_dyn_n, g_shared_bytes;
static std::vector<std::vector<std::vector<CpAsync>>> g_cp; // [thread][group]; last group is open

#ifdef CUEMU_ASAN
static constexpr size_t STACK = 256 << 10;
#else
static constexpr size_t STACK = 64 << 10;
#endif
static std::vector<char*> g_stacks;
#ifdef CUEMU_UC
static ucontext_t g_main_uc;
static std::vector<ucontext_t> g_uc;
#else
static void* g_main_sp;
#endif
static void* g_main_tsan;
static char g_launch_sync, g_done_sync;
static const void* g_main_stack;
static size_t g_main_stack_n;
static void* g_main_fake;
static std::vector<void*> g_fake;

void set_schedule(unsigned seed) {
    g_seed = seed;
    g_rng.seed(seed);
}
void fail(const char* fmt, ...) {
    char b[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b, sizeof b, fmt, ap);
    va_end(ap);
    char w[160] = "";
    if (cur)
        snprintf(w, sizeof w, " [%s block (%u,%u,%u) thread (%u,%u,%u)]", g_name, block_idx.x, block_idx.y, block_idx.z,
                 cur->tid.x, cur->tid.y, cur->tid.z);
    throw Error(std::string("cuemu: ") + b + w);
}
static void to_main(Thread* t, bool dying) {
    stats.switches++;
#ifdef CUEMU_ASAN
    __sanitizer_start_switch_fiber(dying ? nullptr : &g_fake[t->lin], g_main_stack, g_main_stack_n);
#endif
#ifdef CUEMU_TSAN
    __tsan_switch_to_fiber(g_main_tsan, 1);
#endif
#ifdef CUEMU_UC
    swapcontext(&g_uc[t->lin], &g_main_uc);
#else
    cuemu_switch(&t->sp, g_main_sp);
#endif
#ifdef CUEMU_ASAN
    __sanitizer_finish_switch_fiber(g_fake[t->lin], &g_main_stack, &g_main_stack_n);
#endif
    (void)dying;
}
static void to_fiber(Thread* t) {
    cur = t;
#ifdef CUEMU_ASAN
    __sanitizer_start_switch_fiber(&g_main_fake, g_stacks[t->lin], STACK);
#endif
#ifdef CUEMU_TSAN
    __tsan_switch_to_fiber(t->tsan, 1);
#endif
#ifdef CUEMU_UC
    swapcontext(&g_main_uc, &g_uc[t->lin]);
#else
    cuemu_switch(&g_main_sp, t->sp);
#endif
#ifdef CUEMU_ASAN
    __sanitizer_finish_switch_fiber(g_main_fake, nullptr, nullptr);
#endif
    cur = nullptr;
}
static void release_block_barrier() {
    int i = g_bar_gen & 1;
    g_res_and[i] = g_bar_and;
    g_res_or[i] = g_bar_or;
    g_res_cnt[i] = g_bar_cnt;
    g_bar_arrived = 0;
    g_bar_gen++;
    g_bar_and = 1;
    g_bar_or = 0;
    g_bar_cnt = 0;
    for (auto& t : g_threads)
        if (t.state == 1 && t.where == g_bar_what) t.state = 0;
}
static void fiber_main() {
#ifdef CUEMU_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &g_main_stack, &g_main_stack_n);
#endif
    Thread* t = cur;
    ACQ(&g_launch_sync);
    try {
        (*g_body)();
        if (!g_cp[t->lin].empty())
            for (auto& g : g_cp[t->lin])
                if (!g.empty()) fail("kernel ended with cp.async copies never waited for");
    } catch (...) {
        if (!g_exc) g_exc = std::current_exception();
    }
    REL(&g_done_sync);
    t->state = 2;
    t->warp->exited |= 1u << t->lane;
    g_live--;
    to_main(t, true);
    abort();
}
void sync_block(const char* what, int line, int pred, int* a, int* o, int* c) {
    Ign ign;
    Thread* t = cur;
    stats.barriers++;
    // a thread that exited never arrives: real hardware lets the rest pass; we call it a bug in the kernel
    if (g_live != g_threads.size())
        fail("%s line %d reached after %zu thread(s) of the block have exited", what, line, g_threads.size() - g_live);
    if (g_bar_arrived == 0) {
        g_bar_line = line;
        g_bar_what = what;
        g_bar_and = 1;
        g_bar_or = 0;
        g_bar_cnt = 0;
    } else if (g_bar_line != line || g_bar_what != what)
        fail("divergent barrier: %s line %d while others wait at line %d", what, line, g_bar_line);
    g_bar_and &= pred != 0;
    g_bar_or |= pred != 0;
    g_bar_cnt += pred != 0;
    unsigned gen = g_bar_gen;
    static char tag[2];
    REL(&tag[gen & 1]);
    if (++g_bar_arrived == g_live)
        release_block_barrier();
    else {
        t->where = what;
        t->line = line;
        t->state = 1;
        while (g_bar_gen == gen) to_main(t, false);
    }
    ACQ(&tag[gen & 1]);
    if (a) {
        *a = g_res_and[gen & 1];
        *o = g_res_or[gen & 1];
        *c = g_res_cnt[gen & 1];
    }
}
Slots warp_meet(const char* what, int line, unsigned mask, const void* v, size_t n) {
    Ign ign;
    Thread* t = cur;
    Warp& w = *t->warp;
    stats.warp_ops++;
    if (mask == 0xffffffffu && w.members != 0xffffffffu)
        mask =
            w.members == mask
                ? mask
                : (fail("%s line %d: full mask in a warp of %d threads", what, line, __builtin_popcount(w.members)), 0);
    if (!(mask >> t->lane & 1)) fail("%s line %d: calling lane %u not in mask %08x", what, line, t->lane, mask);
    if (mask & w.exited) fail("%s line %d: mask %08x names exited lanes %08x", what, line, mask, mask & w.exited);
    Meet* m = nullptr;
    for (auto& x : w.meets)
        if (x->mask == mask) {
            m = x.get();
            break;
        }
    if (!m) {
        w.meets.emplace_back(new Meet);
        m = w.meets.back().get();
        m->mask = mask;
    }
    if (m->arrived == 0) {
        m->what = what;
        m->line = line;
    } else if (m->what != what && strcmp(m->what, what))
        fail("lanes of one warp in different operations: %s line %d and %s line %d", what, line, m->what, m->line);
    unsigned gen = m->gen;
    if (n) memcpy(m->buf[gen & 1][t->lane], v, n);
    m->arrived |= 1u << t->lane;
    REL(&m->buf[gen & 1]);
    if (m->arrived == mask) {
        m->arrived = 0;
        m->gen++;
        unsigned base = t->lin - t->lane;
        for (unsigned l = 0; l < 32; l++)
            if ((mask >> l & 1) && l != t->lane) g_threads[base + l].state = 0;
    } else {
        t->where = what;
        t->line = line;
        t->state = 1;
        while (m->gen == gen) to_main(t, false);
    }
    ACQ(&m->buf[gen & 1]);
    return Slots{m->buf[gen & 1]};
}
void* shared_static(const void* key, size_t bytes, size_t align) {
    Ign ign; // allocating under Ign resets TSan's shadow, so no thread seems to have written the fresh array
    for (auto& s : g_shared)
        if (s.key == key) return s.p;
    void* p = aligned_alloc(std::max<size_t>(align, 16), (bytes + 15) / 16 * 16);
    memset(p, 0xFF, bytes); // NaN in every float format
    g_shared.push_back({key, p, bytes});
    g_shared_bytes += bytes;
    stats.shared_peak = std::max(stats.shared_peak, g_shared_bytes + g_dyn_n);
    if (g_shared_bytes > 48 << 10) fail("static shared memory %zu bytes > 48 KiB", g_shared_bytes);
    return p;
}
void* shared_dynamic() {
    if (!g_dyn) fail("dynamic shared memory used but none was given at launch");
    return g_dyn;
}
void cp_async_enqueue(void* d, const void* s, int n, int sn) {
    Ign ign;
    auto& g = g_cp[cur->lin];
    if (g.empty()) g.emplace_back();
    g.back().push_back({d, s, n, sn});
}
void cp_async_commit() {
    Ign ign;
    auto& g = g_cp[cur->lin];
    if (g.empty()) g.emplace_back();
    g.emplace_back();
}
void cp_async_wait(int n) { // copies land as LATE as allowed, so a missing wait shows
    auto& g = g_cp[cur->lin];
    while ((int)g.size() - 1 > n) {
        for (auto& c : g[0]) {
            memcpy(c.d, c.s, c.sn);
            memset((char*)c.d + c.sn, 0, c.n - c.sn);
        }
        {
            Ign ign;
            g.erase(g.begin());
        }
    }
}
void run(const char* name, dim3 grid, dim3 block, size_t dyn, const std::function<void()>& body) {
    g_name = name;
    size_t nt = (size_t)block.x * block.y * block.z;
    if (nt == 0 || nt > 1024 || block.z > 64 || grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z)
        fail("%s: invalid launch configuration", name);
    if (dyn > 227 << 10) fail("%s: %zu bytes of dynamic shared memory", name, dyn);
#ifdef CUEMU_TSAN
    std::vector<char*> regions; // fresh stacks for every block: a reused stack address would look like a race
    g_stacks.resize(nt);
#endif
    while (g_stacks.size() < nt) {
        char* s = (char*)mmap(nullptr, STACK + 4096, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        mprotect(s, 4096, PROT_NONE);
        g_stacks.push_back(s + 4096);
    }
    g_body = &body;
    block_dim = block;
    grid_dim = grid;
    stats.launches++;
    g_fake.assign(nt, nullptr);
#ifdef CUEMU_UC
    g_uc.resize(nt);
#endif
#ifdef CUEMU_TSAN
    g_main_tsan = __tsan_get_current_fiber();
#endif
    size_t nb = (size_t)grid.x * grid.y * grid.z;
    std::vector<size_t> blocks(nb);
    for (size_t i = 0; i < nb; i++) blocks[i] = g_seed == 1 ? nb - 1 - i : i;
    if (g_seed >= 2) std::shuffle(blocks.begin(), blocks.end(), g_rng);
    g_order.resize(nt);
    for (unsigned i = 0; i < nt; i++) g_order[i] = g_seed == 1 ? nt - 1 - i : i;
    for (size_t b : blocks) {
        Ign ign;
        block_idx = uint3{(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
        stats.blocks++;
        stats.threads += nt;
        g_threads.assign(nt, Thread{});
        g_warps.clear();
        g_warps.resize((nt + 31) / 32);
        g_cp.assign(nt, {});
        g_live = nt;
        g_bar_arrived = 0;
        g_exc = nullptr;
        g_shared_bytes = 0;
        g_dyn_n = dyn;
        if (dyn) {
            g_dyn = aligned_alloc(128, (dyn + 127) / 128 * 128);
            memset(g_dyn, 0xFF, dyn);
        }
        stats.shared_peak = std::max(stats.shared_peak, dyn);
#ifdef CUEMU_TSAN
        {
            char* r = (char*)mmap(nullptr, STACK * nt, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            regions.push_back(r);
            for (size_t i = 0; i < nt; i++) g_stacks[i] = r + i * STACK;
        }
#endif
        REL(&g_launch_sync);
        for (unsigned i = 0; i < nt; i++) {
            Thread& t = g_threads[i];
            t.lin = i;
            t.lane = i & 31;
            t.warp = &g_warps[i >> 5];
            t.warp->members |= 1u << t.lane;
            t.tid = uint3{i % block.x, i / block.x % block.y, i / block.x / block.y};
#ifdef CUEMU_TSAN
            t.tsan = __tsan_create_fiber(0);
#endif
#ifdef CUEMU_UC
            getcontext(&g_uc[i]);
            g_uc[i].uc_stack.ss_sp = g_stacks[i];
            g_uc[i].uc_stack.ss_size = STACK;
            g_uc[i].uc_link = nullptr;
            makecontext(&g_uc[i], fiber_main, 0);
#else
            void** sp = (void**)(g_stacks[i] + STACK);
            *--sp = nullptr;
            *--sp = (void*)fiber_main;
            sp -= 6;
            t.sp = sp; // entry sees rsp % 16 == 8
#endif
        }
        while (g_live && !g_exc) {
            bool moved = false;
            if (g_seed >= 2) std::shuffle(g_order.begin(), g_order.end(), g_rng);
            for (unsigned i : g_order) {
                Thread& t = g_threads[i];
                if (t.state == 0) {
                    moved = true;
                    to_fiber(&t);
                    if (g_exc) break;
                }
            }
            if (!moved && g_live) {
                std::string s;
                int k = 0;
                for (auto& t : g_threads)
                    if (t.state == 1 && k++ < 4)
                        s += " thread " + std::to_string(t.lin) + " at " + t.where + " line " + std::to_string(t.line) +
                             ";";
                try {
                    fail("%s block (%u,%u,%u): deadlock, %u of %zu threads wait:%s", name, block_idx.x, block_idx.y,
                         block_idx.z, g_live, nt, s.c_str());
                } catch (...) {
                    g_exc = std::current_exception();
                }
            }
        }
#ifdef CUEMU_TSAN
        for (auto& t : g_threads) __tsan_destroy_fiber(t.tsan);
#endif
        for (auto& s : g_shared) free(s.p);
        g_shared.clear();
        if (g_dyn) {
            free(g_dyn);
            g_dyn = nullptr;
        }
        if (g_exc) {
            ACQ(&g_done_sync);
            std::rethrow_exception(g_exc);
        }
    }
    ACQ(&g_done_sync);
#ifdef CUEMU_TSAN
    for (char* r : regions) munmap(r, STACK * nt);
    g_stacks.clear();
#endif
}
} // namespace cuemu
static cudaError_t g_last = cudaSuccess;
static std::string g_text;
static std::mutex g_lock;
static std::map<const void*, size_t>& limits() {
    static std::map<const void*, size_t> m;
    return m;
}
size_t cuemu::dyn_limit(const void* k) {
    auto it = limits().find(k);
    return it == limits().end() ? 48 << 10 : it->second;
}
static std::map<char*, size_t>& allocs() {
    static std::map<char*, size_t> m;
    return m;
}
static bool is_dev(const void* p, size_t n) {
    auto it = allocs().upper_bound((char*)p);
    if (it == allocs().begin()) return false;
    --it;
    return (char*)p + n <= it->first + it->second;
}
static cudaError_t failed(cudaError_t e, const std::string& text) {
    g_last = e;
    g_text = text;
    return e;
}

/* A graph is a list of what was launched, copied and cleared while the stream was captured. */
using Steps = std::vector<std::function<void()>>;
static Steps* g_capture;
static std::string g_waits;
static void perform(std::function<void()> step) {
    if (g_capture)
        g_capture->push_back(std::move(step));
    else
        step();
}

extern "C" {
/* Another way to run a kernel: tests give the PTX interpreter.  0, or a text that says what went wrong. */
typedef const char* (*emulator_runner)(const char* mangled, const unsigned* grid, const unsigned* block, size_t smem,
                                       void** args, int n_args);
static emulator_runner g_runner;
static std::set<std::string>* g_launched;
__attribute__((visibility("default"))) void emulator_interpret(emulator_runner r) { g_runner = r; }
__attribute__((visibility("default"))) void emulator_schedule(unsigned seed) { cuemu::set_schedule(seed); }
__attribute__((visibility("default"))) unsigned long long emulator_count(int what) {
    auto& s = cuemu::stats;
    return what == 0 ? s.launches : what == 1 ? s.threads : what == 2 ? s.barriers : what == 3 ? s.warp_ops : s.mmas;
}
/* The mangled names of all kernels launched so far, a line each. */
__attribute__((visibility("default"))) const char* emulator_launched() {
    static std::string s;
    s.clear();
    if (g_launched)
        for (auto& n : *g_launched) s += n + "\n";
    return s.c_str();
}
/* The blocks that live now: to bound what an interpreter may touch. */
__attribute__((visibility("default"))) int emulator_blocks(void** at, size_t* bytes, int room) {
    int n = 0;
    for (auto& a : allocs()) {
        if (n == room) break;
        at[n] = a.first;
        bytes[n++] = a.second;
    }
    return n;
}
}

void cuemu::launch_any(Launch& l, std::shared_ptr<void> keep) {
    std::lock_guard<std::mutex> hold(g_lock);
    if (l.smem > (48 << 10) && l.smem > dyn_limit(l.kernel)) {
        failed(cudaErrorInvalidValue, std::string(l.name) + ": dynamic shared memory without cudaFuncSetAttribute");
        return;
    }
    Launch one = l;
    perform([one, keep] {
        Dl_info info;
        const char* mangled = dladdr(one.kernel, &info) && info.dli_sname ? info.dli_sname : one.name;
        if (!g_launched) g_launched = new std::set<std::string>;
        g_launched->insert(mangled);
        if (g_runner) {
            const unsigned grid[3] = {one.grid.x, one.grid.y, one.grid.z},
                           block[3] = {one.block.x, one.block.y, one.block.z};
            if (const char* why = g_runner(mangled, grid, block, one.smem, one.args, one.n_args))
                failed(cudaErrorLaunchFailure, why);
            return;
        }
        try {
            run(one.name, one.grid, one.block, one.smem, one.body);
        } catch (std::exception& e) {
            failed(cudaErrorLaunchFailure, e.what());
        }
    });
}

extern "C" {
cudaError_t cudaMalloc(void** p, size_t n) {
    std::lock_guard<std::mutex> hold(g_lock);
    *p = aligned_alloc(256, (n + 255) / 256 * 256 + 256);
    if (!*p) return cudaErrorMemoryAllocation;
#ifdef CUEMU_ASAN
    free(*p);
    if (posix_memalign(p, 256, n ? n : 1)) return cudaErrorMemoryAllocation; /* the redzone begins at byte n */
#endif
    memset(*p, 0xFF, n);
    allocs()[(char*)*p] = n;
    return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
    std::lock_guard<std::mutex> hold(g_lock);
    if (p) {
        if (!allocs().erase((char*)p)) return failed(cudaErrorInvalidValue, "cudaFree of what cudaMalloc did not give");
        free(p);
    }
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind k, cudaStream_t) {
    std::lock_guard<std::mutex> hold(g_lock);
    bool dd = k == cudaMemcpyHostToDevice || k == cudaMemcpyDeviceToDevice,
         sd = k == cudaMemcpyDeviceToHost || k == cudaMemcpyDeviceToDevice;
    if (n && (is_dev(d, n) != dd || is_dev(s, n) != sd))
        return failed(cudaErrorInvalidValue, "copy in a direction that its addresses do not have");
    if (g_capture && k != cudaMemcpyDeviceToDevice)
        return failed(cudaErrorStreamCaptureUnsupported, "copies to and from main memory cannot be captured");
    perform([=] { memcpy(d, s, n); });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* d, int v, size_t n, cudaStream_t) {
    std::lock_guard<std::mutex> hold(g_lock);
    if (n && !is_dev(d, n)) return failed(cudaErrorInvalidValue, "memset outside device memory");
    perform([=] { memset(d, v, n); });
    return cudaSuccess;
}
cudaError_t cudaGetLastError() {
    auto e = g_last;
    g_last = cudaSuccess;
    return e;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    if (g_capture) return failed(cudaErrorStreamCaptureUnsupported, "waiting cannot be captured");
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
    static cuemu::Stream one = {perform}; // never the default stream
    *s = (cudaStream_t)&one;
    return cudaSuccess;
}
/* Everything runs at once here; which stream was told to wait for which is written down. */
__attribute__((visibility("default"))) const char* emulator_waits() {
    static std::string told;
    told.swap(g_waits);
    g_waits.clear();
    return told.c_str();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
    *e = (cudaEvent_t)(new cudaStream_t(nullptr));
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    *(cudaStream_t*)e = s;
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    g_waits += std::to_string((intptr_t)s) + " for " + std::to_string((intptr_t) * (cudaStream_t*)e) + "\n";
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete (cudaStream_t*)e;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    if (g_capture) return failed(cudaErrorStreamCaptureUnsupported, "waiting cannot be captured");
    g_waits += "the host for all\n";
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* n) {
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "emulated");
    p->major = 8;
    p->totalGlobalMem = (size_t)1 << 34;
    p->multiProcessorCount = 1;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute a, int v) {
    if (a == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (v > 227 << 10) return failed(cudaErrorInvalidValue, "too much shared memory");
        limits()[f] = v;
    }
    return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : e ? "cudaError" : "cudaSuccess";
}
const char* cudaGetErrorString(cudaError_t) { return g_text.c_str(); }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    g_capture = new Steps;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* g) {
    *g = (cudaGraph_t)g_capture;
    g_capture = nullptr;
    if (g_last != cudaSuccess) {
        delete (Steps*)*g;
        *g = nullptr;
        return g_last;
    }
    return cudaSuccess;
}
#undef cudaGraphInstantiate
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long) {
    *e = (cudaGraphExec_t)(new Steps(*(Steps*)g));
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    delete (Steps*)g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) {
    delete (Steps*)e;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t) {
    for (auto& s : *(Steps*)e) s();
    return cudaSuccess;
}
}

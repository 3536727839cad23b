/* ptx.cpp - an interpreter of PTX: runs what nvcc emitted, one thread at a time, without a GPU.

   The emulator hands it launches (emulator_interpret), so that whole tests run on the PTX: the second witness, and the
   only one that sees the inline assembly.  A thread runs until bar.sync or a warp's collective; a collective runs when
   every lane of its mask has come to the same instruction.  Every access is checked for bounds and alignment;
   asynchronous copies land at their wait; an unknown instruction is an error.  Not modelled: ptxas and what it makes of
   this, the memory model, rounding inside tensor cores, the approximations' last bits. */
#include "execute.h"

/* ---- what the tests call ---- */
static vector<std::unique_ptr<Module>> g_modules;
static std::unordered_map<string, Module*> g_where;
static int (*g_blocks)(void**, size_t*, int);
static std::set<string> g_ran;
extern "C" {
/* One file of PTX.  0, or -1: ptx_error says why. */
int ptx_load(const char* source) {
    try {
        auto m = std::make_unique<Module>();
        Parser{*m}.run(source);
        for (auto& k : m->k) g_where[k.first] = m.get();
        g_modules.push_back(std::move(m));
        return 0;
    } catch (std::exception& e) {
        g_err = e.what();
        return -1;
    }
}
void ptx_forget() {
    g_where.clear();
    g_modules.clear();
    g_ran.clear();
}
const char* ptx_error() { return g_err.c_str(); }
/* The names of the kernels that ran, a line each. */
const char* ptx_ran() {
    static string s;
    s.clear();
    for (auto& n : g_ran) s += n + "\n";
    return s.c_str();
}
const char* ptx_kernels() {
    static string s;
    s.clear();
    for (auto& k : g_where) s += k.first + "\n";
    return s.c_str();
}
unsigned long long ptx_count() { return g_icount; }
/* Who knows the blocks of device memory: emulator_blocks. */
void ptx_blocks(int (*blocks)(void**, size_t*, int)) { g_blocks = blocks; }
/* The emulator's runner. */
const char* ptx_run(const char* name, const u32* grid, const u32* block, size_t dynamic, void** args, int n_args) {
    try {
        auto at = g_where.find(name);
        if (at == g_where.end()) die(string("no kernel ") + name);
        Kernel& K = at->second->k[name];
        if ((size_t)n_args != K.params.size()) die("another number of arguments: " + string(name));
        static vector<void*> where(1 << 16);
        static vector<size_t> bytes(1 << 16);
        int n = g_blocks ? g_blocks(where.data(), bytes.data(), 1 << 16) : 0;
        g_ranges.clear();
        for (int i = 0; i < n; i++) g_ranges.push_back({(u64)where[i], bytes[i]});
        std::sort(g_ranges.begin(), g_ranges.end(), [](const Range& a, const Range& b) { return a.a < b.a; });
        auto e = std::make_unique<Exec>(Exec{K});
        memcpy(e->grid, grid, 12);
        memcpy(e->block, block, 12);
        e->seed = 0;
        e->shared.assign((K.shared + 127) / 128 * 128 + dynamic, 0xFF);
        e->param.assign(K.psize + 16, 0);
        for (int i = 0; i < n_args; i++) memcpy(e->param.data() + K.params[i].off, args[i], K.params[i].size);
        g_ran.insert(name);
        e->launch();
        return nullptr;
    } catch (std::exception& x) {
        g_err = x.what();
        return g_err.c_str();
    }
}
}

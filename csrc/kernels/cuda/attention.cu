/* attention: streaming softmax in float32; cpu/attention.c has the formula and the laws.

   A warp a query:   for each 32 keys that it sees:  a lane a key: score = q k;  the warp's maximum and sum;
                                                     a lane a column: out += p_j v_j, key by key
   Backward likewise: a warp a query for dq, a warp a key for dk and dv.  Keys are taken in 32s counted from key 0, so that a row's
   bits do not depend on where its mask begins, nor on where a cache keeps a key. */
#include "attention.cuh"
#include "gemm.cuh"

namespace wm_cuda {
namespace attention {

enum { WARPS = 4 };

/* Where the rows of one problem's keys lie: in order, or in a ring with sinks. */
struct key_rows {
    const float *k, *v;
    int64_t k_row, v_row, start;
    const float *cos, *sin;
    bool ring;
    const int32_t *pages;       /* the frame of memory that each slot is; null: in order */
    int64_t pages_all;
};
__device__ inline int64_t place_of(const key_rows &rows, const wm_attention &a, int64_t j) {
    if (!rows.ring) return j;
    const int key = (int)j, tokens = (int)a.frame, sinks = (int)a.sinks, frame = key / tokens;
    const int slot = frame < sinks ? frame : sinks + ((int)rows.start + frame - sinks) % (int)a.ring;
    if (!rows.pages) return (int64_t)slot * tokens + key % tokens;
    return (int64_t)((uint32_t)rows.pages[slot] % (uint32_t)rows.pages_all) * tokens + key % tokens;   /* not read to be checked: wraps */
}
/* q k_j over D columns, in order; q is in shared memory, turned already */
__device__ inline float score_of(const float *q, const key_rows &rows, const wm_attention &a, int64_t j) {
    const float *k = rows.k + place_of(rows, a, j) * rows.k_row;
    const int64_t age = rows.cos ? (int64_t)((int)j / (int)a.frame) * a.pairs : 0;
    float s = 0.0f;
    for (int64_t d = 0; d < a.D; d++)
        s = __fmaf_rn(q[d], rows.cos ? turned_at(k, d, rows.cos + age, rows.sin + age, a.pairs, a.interleaved) : k[d], s);
    return s;
}

/* One query: out (D) and its lse in log2.  acc: NV columns a lane. */
template <int NV> __device__ inline void attend(float *out, float *lse, const float *q, const key_rows &rows, sees see, const wm_attention &a) {
    const int lane = threadIdx.x % 32;
    const float c = a.scale * LOG2E;
    float acc[NV], top = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < NV; i++) acc[i] = 0.0f;
    for (int64_t j0 = see.low / 32 * 32; j0 < see.high; j0 += 32) {
        const int64_t j = j0 + lane;
        const bool visible = j >= see.low && j < see.high;
        const float s = visible ? score_of(q, rows, a, j) * c : -INFINITY;
        float m = s;
        for (int o = 16; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, o));
        const float raised = fmaxf(top, m), shift = raised == -INFINITY ? 0.0f : raised;
        const float shrink = exp2f(top - shift), p = visible ? exp2f(s - shift) : 0.0f;
        sum = __fmaf_rn(sum, shrink, warp_sum(p)), top = raised;
#pragma unroll
        for (int i = 0; i < NV; i++) acc[i] *= shrink;
        const int first = (int)(see.low > j0 ? see.low - j0 : 0), end = (int)(see.high - j0 < 32 ? see.high - j0 : 32);
        for (int k = first; k < end; k++) {       /* only what is seen is read: NaN behind a mask stays there */
            const float pk = __shfl_sync(0xffffffffu, p, k);
            const float *v = rows.v + place_of(rows, a, j0 + k) * rows.v_row;
#pragma unroll
            for (int i = 0; i < NV; i++)
                if (lane + 32 * i < a.D) acc[i] = __fmaf_rn(pk, v[lane + 32 * i], acc[i]);
        }
    }
    const float over = sum > 0.0f || sum != sum ? 1.0f / sum : 0.0f;
#pragma unroll
    for (int i = 0; i < NV; i++)
        if (lane + 32 * i < a.D) out[lane + 32 * i] = acc[i] * over;
    if (lse && lane == 0) *lse = top + log2f(sum);
}

/* Query u of all: its problem, head and row. */
struct where { int64_t outer, inner, h, i, q_at; };
__device__ inline where where_of(const wm_attention &a, int64_t u) {
    where w;
    const unsigned at = (unsigned)u, Nq = (unsigned)a.Nq, H = (unsigned)a.H, inner = (unsigned)a.inner;
    w.i = at % Nq, w.h = at / Nq % H, w.inner = at / (Nq * H) % inner, w.outer = at / (Nq * H * inner);
    w.q_at = (w.outer * a.Nq + w.i) * a.inner + w.inner;
    return w;
}

template <int NV>
__global__ void forward_kernel(float *out, float *lse, const float *q, const float *k, const float *v,
                                                      const int32_t *lengths, wm_attention a) {
    WM_SHARED_DYN(float, room);
    const int warp = threadIdx.x / 32;
    for (int64_t u = (int64_t)blockIdx.x * WARPS + warp; u < a.outer * a.inner * a.H * a.Nq; u += (int64_t)gridDim.x * WARPS) {
        const where w = where_of(a, u);
        const int64_t k_at = w.outer * a.Nk * a.inner + w.inner, column = (int)w.h / (int)a.G * a.D;
        const key_rows rows = {k + k_at * a.k_width + column, v + k_at * a.v_width + column, a.inner * a.k_width, a.inner * a.v_width,
                               0, nullptr, nullptr, false, nullptr, 0};
        float *mine = room + warp * a.D;
        __syncwarp();
        FOR_LANE(d, a.D) mine[d] = q[w.q_at * a.q_width + w.h * a.D + d];
        __syncwarp();
        attend<NV>(out + (w.q_at * a.H + w.h) * a.D, lse ? lse + ((w.outer * a.inner + w.inner) * a.H + w.h) * a.Nq + w.i : nullptr, mine,
                   rows, seen_by(a, w.i, a.Nk - a.Nq, length_of(lengths, a, w.outer)), a);
    }
}

/* The latest frames of a ring that has just been given frame `position`; q and k turned as they are read, by their place among the
   cached frames. */
template <int NV>
__global__ void cached_kernel(float *out, const float *q, const float *k, const float *v, const int32_t *position,
                                                     const float *cos, const float *sin, const int32_t *pages, wm_attention a) {
    WM_SHARED_DYN(float, room);
    const int warp = threadIdx.x / 32;
    const int64_t frames = a.sinks + a.ring, keys = frames * a.frame * a.inner;
    for (int64_t u = (int64_t)blockIdx.x * WARPS + warp; u < a.outer * a.inner * a.H * a.Nq; u += (int64_t)gridDim.x * WARPS) {
        const where w = where_of(a, u);
        const int64_t seen = (int64_t)position[w.outer] + 1, held = seen < 0 ? 0 : seen < frames ? seen : frames;
        const int64_t offset = held * a.frame - a.Nq, at = (pages ? 0 : w.outer * keys) + w.inner, column = (int)w.h / (int)a.G * a.D;
        const key_rows rows = {k + at * a.k_width + column, v + at * a.v_width + column, a.inner * a.k_width, a.inner * a.v_width,
                               seen > frames ? (int)(seen - a.sinks) % (int)a.ring : 0, cos, sin, true,
                               pages ? pages + w.outer * frames : nullptr, a.outer * frames};
        const int64_t age = w.i + offset < 0 ? 0 : (int)(w.i + offset) / (int)a.frame;
        const float *x = q + w.q_at * a.q_width + w.h * a.D;
        float *mine = room + warp * a.D;
        __syncwarp();
        FOR_LANE(d, a.D)
            mine[d] = turned_at(x, d, cos ? cos + age * a.pairs : nullptr, cos ? sin + age * a.pairs : nullptr, a.pairs, a.interleaved);
        __syncwarp();
        attend<NV>(out + (w.q_at * a.H + w.h) * a.D, nullptr, mine, rows, seen_by(a, w.i, offset, held * a.frame), a);
    }
}

/* Rows, keys and frames are counted in 32 bits: long division is a call, and what lives across it would be spilled. */
static bool countable(const wm_attention *a) {
    const int64_t most = a->Nq > a->Nk ? a->Nq : a->Nk;
    if (a->outer * a->inner * a->H * most < INT32_MAX) return true;
    note("%s", "attention: more than 2^31 rows of queries or keys");
    return false;
}
static unsigned blocks(const wm_attention *a, int64_t rows) { return blocks_for(a->outer * a->inner * rows, WARPS); }
static size_t bytes(const wm_attention *a, int each) { return (size_t)(each * WARPS * a->D) * sizeof(float); }

/* NV: columns a lane holds, for heads of up to 32 NV */
#define BY_WIDTH(kernel, rows, each, ...)                                                                         \
    do {                                                                                                          \
        if (a->D <= 32) WM_LAUNCH(kernel<1>, blocks(a, rows), WARPS * 32, bytes(a, each), __VA_ARGS__);           \
        else if (a->D <= 64) WM_LAUNCH(kernel<2>, blocks(a, rows), WARPS * 32, bytes(a, each), __VA_ARGS__);      \
        else if (a->D <= 128) WM_LAUNCH(kernel<4>, blocks(a, rows), WARPS * 32, bytes(a, each), __VA_ARGS__);     \
        else WM_LAUNCH(kernel<16>, blocks(a, rows), WARPS * 32, bytes(a, each), __VA_ARGS__);                     \
    } while (0)

static void attention_forward(float *out, float *lse, const float *q, const float *k, const float *v, const int32_t *lengths,
                              const wm_attention *a) {
    if (!countable(a) || (matmul_way == BY_BF16 && attend_bf16(out, lse, q, k, v, lengths, a))) return;
    BY_WIDTH(forward_kernel, a->H * a->Nq, 1, out, lse, q, k, v, lengths, *a);
}
static void attention_cached(float *out, const float *q, const float *k, const float *v, const int32_t *position, const float *cos,
                             const float *sin, const int32_t *pages, const wm_attention *a) {
    if (!countable(a)) return;
    BY_WIDTH(cached_kernel, a->H * a->Nq, 1, out, q, k, v, position, cos, sin, pages, *a);
}

/* Frame `position`, and those before it, to their slots; frames before 0 are padding. */
__global__ void cache_write_kernel(float *cache, const float *frames, const int32_t *position, const int32_t *pages, int64_t sinks,
                                   int64_t ring, int64_t F, int64_t n, int64_t all) {
    FOR_EACH(i, all) {
        const int64_t b = i / (F * n), f = i / n % F;
        int64_t at = (int64_t)position[b] - F + 1 + f;
        if (at < 0) continue;
        at = b * (sinks + ring) + (at < sinks ? at : sinks + (at - sinks) % ring);
        if (pages) at = (uint32_t)pages[at] % (uint32_t)(all / (F * n) * (sinks + ring));
        cache[at * n + i % n] = frames[i];
    }
}
static void cache_write(float *cache, const float *frames, const int32_t *position, const int32_t *pages, int64_t sinks, int64_t ring,
                        int64_t B, int64_t F, int64_t n) {
    EACH(cache_write_kernel, B * F * n, cache, frames, position, pages, sinks, ring, F, n, B * F * n);
}

/* ---- backward: P = 2^(c S - lse), dS = P (dP - delta) scale ------------------------------------------------------------- */

/* delta_i = sum_d dout out */
__global__ void delta_kernel(float *delta, const float *dout, const float *out, wm_attention a) {
    FOR_ROW(u, a.outer * a.inner * a.H * a.Nq) {
        const where w = where_of(a, u);
        const int64_t at = (w.q_at * a.H + w.h) * a.D;
        float s = 0.0f;
        FOR_LANE(d, a.D) s += dout[at + d] * out[at + d];
        s = warp_sum(s);
        if (threadIdx.x % 32 == 0) delta[u] = s;
    }
}
__device__ inline float dot(const float *x, const float *y, int64_t D) {
    float s = 0.0f;
    for (int64_t d = 0; d < D; d++) s = fmaf(x[d], y[d], s);
    return s;
}

/* dq_i += sum_j dS_ij k_j: a warp a query, its q and dout in shared memory */
template <int NV>
__global__ void dq_kernel(float *dq, const float *dout, const float *lse, const float *delta, const float *q,
                                                 const float *k, const float *v, const int32_t *lengths, wm_attention a) {
    WM_SHARED_DYN(float, room);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *mine = room + 2 * warp * a.D, *g = mine + a.D;
    for (int64_t u = (int64_t)blockIdx.x * WARPS + warp; u < a.outer * a.inner * a.H * a.Nq; u += (int64_t)gridDim.x * WARPS) {
        const where w = where_of(a, u);
        const sees see = seen_by(a, w.i, a.Nk - a.Nq, length_of(lengths, a, w.outer));
        const int64_t k_at = w.outer * a.Nk * a.inner + w.inner, column = (int)w.h / (int)a.G * a.D;
        const float *keys = k + k_at * a.k_width + column, *values = v + k_at * a.v_width + column;
        const int64_t k_row = a.inner * a.k_width, v_row = a.inner * a.v_width;
        __syncwarp();
        FOR_LANE(d, a.D) mine[d] = q[w.q_at * a.q_width + w.h * a.D + d], g[d] = dout[(w.q_at * a.H + w.h) * a.D + d];
        __syncwarp();
        float acc[NV];
#pragma unroll
        for (int i = 0; i < NV; i++) acc[i] = 0.0f;
        for (int64_t j0 = see.low / 32 * 32; j0 < see.high; j0 += 32) {
            const int64_t j = j0 + lane;
            float ds = 0.0f;
            if (j >= see.low && j < see.high) {
                const float p = exp2f(dot(mine, keys + j * k_row, a.D) * (a.scale * LOG2E) - lse[u]);
                ds = p * (dot(g, values + j * v_row, a.D) - delta[u]) * a.scale;
            }
            const int first = (int)(see.low > j0 ? see.low - j0 : 0), end = (int)(see.high - j0 < 32 ? see.high - j0 : 32);
            for (int n = first; n < end; n++) {
                const float s = __shfl_sync(0xffffffffu, ds, n);
#pragma unroll
                for (int i = 0; i < NV; i++)
                    if (lane + 32 * i < a.D) acc[i] = fmaf(s, keys[(j0 + n) * k_row + lane + 32 * i], acc[i]);
            }
        }
        float *to = dq + w.q_at * a.q_width + w.h * a.D;
#pragma unroll
        for (int i = 0; i < NV; i++)
            if (lane + 32 * i < a.D) to[lane + 32 * i] += acc[i];
    }
}

/* dk_j += sum_i dS_ij q_i, dv_j += sum_i P_ij dout_i, over the heads that share the key: a warp a key */
template <int NV>
__global__ void dkv_kernel(float *dk, float *dv, const float *dout, const float *lse, const float *delta,
                                                  const float *q, const float *k, const float *v, const int32_t *lengths, wm_attention a) {
    WM_SHARED_DYN(float, room);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t groups = a.H / a.G;
    float *mine = room + 2 * warp * a.D, *value = mine + a.D;
    for (int64_t u = (int64_t)blockIdx.x * WARPS + warp; u < a.outer * a.inner * groups * a.Nk; u += (int64_t)gridDim.x * WARPS) {
        const unsigned at = (unsigned)u, Nk = (unsigned)a.Nk, G = (unsigned)groups, I = (unsigned)a.inner;
        const int64_t j = at % Nk, group = at / Nk % G, inner = at / (Nk * G) % I, outer = at / (Nk * G * I);
        const int64_t k_at = (outer * a.Nk + j) * a.inner + inner, length = length_of(lengths, a, outer);
        __syncwarp();
        FOR_LANE(d, a.D) mine[d] = k[k_at * a.k_width + group * a.D + d], value[d] = v[k_at * a.v_width + group * a.D + d];
        __syncwarp();
        float to_k[NV], to_v[NV];
#pragma unroll
        for (int i = 0; i < NV; i++) to_k[i] = to_v[i] = 0.0f;
        for (int64_t h = group * a.G; h < (group + 1) * a.G; h++)
            for (int64_t i0 = 0; i0 < a.Nq; i0 += 32) {
                const int64_t i = i0 + lane, at = ((outer * a.inner + inner) * a.H + h) * a.Nq + i;
                const int64_t q_at = (outer * a.Nq + i) * a.inner + inner;
                const sees see = seen_by(a, i, a.Nk - a.Nq, length);
                const bool visible = i < a.Nq && j >= see.low && j < see.high;
                float p = 0.0f, ds = 0.0f;
                if (visible) {
                    p = exp2f(dot(q + q_at * a.q_width + h * a.D, mine, a.D) * (a.scale * LOG2E) - lse[at]);
                    ds = p * (dot(dout + (q_at * a.H + h) * a.D, value, a.D) - delta[at]) * a.scale;
                }
                unsigned all = __ballot_sync(0xffffffffu, visible);
                for (int n = 0; n < 32; n++) {
                    if (!(all >> n & 1)) continue;
                    const float pn = __shfl_sync(0xffffffffu, p, n), dsn = __shfl_sync(0xffffffffu, ds, n);
                    const int64_t row = (outer * a.Nq + i0 + n) * a.inner + inner;
                    const float *qn = q + row * a.q_width + h * a.D, *gn = dout + (row * a.H + h) * a.D;
#pragma unroll
                    for (int c = 0; c < NV; c++)
                        if (lane + 32 * c < a.D) {
                            to_k[c] = fmaf(dsn, qn[lane + 32 * c], to_k[c]);
                            to_v[c] = fmaf(pn, gn[lane + 32 * c], to_v[c]);
                        }
                }
            }
#pragma unroll
        for (int i = 0; i < NV; i++)
            if (lane + 32 * i < a.D) {
                if (dk) dk[k_at * a.k_width + group * a.D + lane + 32 * i] += to_k[i];
                if (dv) dv[k_at * a.v_width + group * a.D + lane + 32 * i] += to_v[i];
            }
    }
}

static void attention_backward(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse, const float *q,
                               const float *k, const float *v, const int32_t *lengths, const wm_attention *a) {
    const int64_t queries = a->outer * a->inner * a->H * a->Nq;
    float *delta = (float *)workspace((size_t)queries * sizeof *delta);
    if (!delta || !countable(a)) return;
    ROWS(delta_kernel, queries, delta, dout, out, *a);
    if (matmul_way == BY_BF16 && attend_backward_bf16(dq, dk, dv, dout, lse, delta, q, k, v, lengths, a)) return;
    if (dq) BY_WIDTH(dq_kernel, a->H * a->Nq, 2, dq, dout, lse, delta, q, k, v, lengths, *a);
    if (dk || dv) BY_WIDTH(dkv_kernel, a->H / a->G * a->Nk, 2, dk, dv, dout, lse, delta, q, k, v, lengths, *a);
}

}  // namespace attention

void attention_table(wm_kernels *k) {
    using namespace attention;
    k->attention_forward = attention_forward, k->attention_backward = attention_backward;
    k->attention_cached = attention_cached, k->cache_write = cache_write;
}
}  // namespace wm_cuda

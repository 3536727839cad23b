/* attention_mma: attention.cu on tensor cores, for heads of 32 or 64 columns, where set_matmul chose 'bf16': what is multiplied is
   rounded to bf16, sums and the softmax are float32 (Dao et al. 2022, Dao 2023).

   Forward: a block of 4 warps takes 64 queries, a warp 16 of them, against 64 keys at a time:
       floats of the next keys and values to shared memory by copies that do not wait;  wait for these;  barrier
       they become bf16;  barrier;  s = q k^T by mma;  hidden scores are -inf;  new maximum, weights p, sums;  out += p v by mma
   Backward, one kernel seen from two sides; a block takes 64 rows (of 4 warps) against 32 columns at a time:
       rows are queries, columns keys:  s = q k^T,  dp = dout v^T,  p = 2^(c s - lse),  ds = p (dp - delta) scale;  dq += ds k
       rows are keys, columns queries:  s = k q^T,  dp = v dout^T,  p and ds as before;                dk += ds q,  dv += p dout
   What a warp holds of p and ds (the layout of an mma's result) is what the next mma wants as its first factor.
   NaN behind a mask is not kept out of a block of keys that is partly seen, unlike in attention.cu. */
#include "attention.cuh"
#include "mma.cuh"

namespace wm_cuda {
namespace attention_mma {

enum { TILE = 64, COLUMNS = 32, THREADS = 128 };

/* N rows of D from row j0 on; zeros from row `end` on. */
template <int N, int D> __device__ inline void fetch(float *to, const float *from, int64_t row, int64_t j0, int64_t end) {
    for (int i = threadIdx.x; i < N * D / 4; i += THREADS) {
        const int r = i / (D / 4), c = i % (D / 4) * 4;
        const bool inside = j0 + r < end;
        copy_soon(to + r * D + c, from + (inside ? (j0 + r) * row + c : 0), inside);
    }
}
template <int N, int D> __device__ inline void convert(wm_bf16 *to, const float *from) {
    for (int i = threadIdx.x; i < N * D / 2; i += THREADS) {
        const int r = 2 * i / D, c = 2 * i % D;
        *(uint32_t *)(to + r * (D + 8) + c) = pair_of_bf16(from[2 * i], from[2 * i + 1]);
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS) forward_kernel(float *out, float *lse, const float *q, const float *k, const float *v,
                                                          const int32_t *lengths, wm_attention a, unsigned blocks) {
    WM_SHARED_DYN(float, room);           /* floats: 2 steps of keys and values; then bf16 of queries, keys, values */
    constexpr int W = D + 8;
    wm_bf16 *qs = (wm_bf16 *)(room + 4 * TILE * D), *ks = qs + TILE * W, *vs = ks + TILE * W;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t2 = lane % 4 * 2;
    const unsigned u = blockIdx.x, H = (unsigned)a.H, I = (unsigned)a.inner;
    const int64_t i0 = (int64_t)(u % blocks) * TILE, h = u / blocks % H, inner = u / (blocks * H) % I, outer = u / (blocks * H * I);
    const int64_t k_at = outer * a.Nk * a.inner + inner, column = (int)h / (int)a.G * a.D, length = length_of(lengths, a, outer);
    const float *keys = k + k_at * a.k_width + column, *values = v + k_at * a.v_width + column;
    const int64_t k_row = a.inner * a.k_width, v_row = a.inner * a.v_width, offset = a.Nk - a.Nq;

    for (int i = threadIdx.x; i < TILE * D; i += THREADS) {
        const int64_t row = i0 + i / D;
        qs[i / D * W + i % D] = to_bf16(row < a.Nq ? q[((outer * a.Nq + row) * a.inner + inner) * a.q_width + h * a.D + i % D] : 0.0f);
    }
    sees see[2];                          /* of this lane's two rows; and of all rows of the block */
    int64_t low = INT64_MAX, high = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t row = i0 + warp * 16 + g + 8 * r;
        see[r] = seen_by(a, row, offset, length);
        if (row >= a.Nq) see[r].low = see[r].high = 0;
    }
    for (int r = 0; r < TILE && i0 + r < a.Nq; r++) {
        const sees s = seen_by(a, i0 + r, offset, length);
        if (s.low < s.high) low = s.low < low ? s.low : low, high = s.high > high ? s.high : high;
    }
    low = low / TILE * TILE;

    const float c = a.scale * LOG2E;
    float acc[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    uint32_t fq[D / 16][4];
    if (low < high) fetch<TILE, D>(room, keys, k_row, low, high), fetch<TILE, D>(room + TILE * D, values, v_row, low, high);
    copies_end();
    int step = 0;
    for (int64_t j0 = low; j0 < high; j0 += TILE, step ^= 1) {
        float *now = room + step * 2 * TILE * D, *next = room + (step ^ 1) * 2 * TILE * D;
        if (j0 + TILE < high) fetch<TILE, D>(next, keys, k_row, j0 + TILE, high), fetch<TILE, D>(next + TILE * D, values, v_row, j0 + TILE, high);
        copies_end();
        copies_wait<1>();
        __syncthreads();
        convert<TILE, D>(ks, now), convert<TILE, D>(vs, now + TILE * D);
        __syncthreads();
        if (j0 == low) {
#pragma unroll
            for (int d = 0; d < D / 16; d++) load_matrices<false>(fq[d], qs + (warp * 16 + (lane & 15)) * W + d * 16 + (lane >> 4) * 8);
        }
        float s[8][4] = {};
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int d = 0; d < D / 16; d += 2) {
                uint32_t b[4];
                load_matrices<false>(b, ks + (n * 8 + (lane & 7)) * W + d * 16 + (lane >> 3) * 8);
                mma(s[n], fq[d], b[0], b[1]);
                mma(s[n], fq[d + 1], b[2], b[3]);
            }
        float best[2] = {top[0], top[1]};
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int64_t j = j0 + n * 8 + t2 + e % 2;
#ifdef WM_PLANT_BAD_MASK
                const bool hidden = j < see[e / 2].low || j > see[e / 2].high;
#else
                const bool hidden = j < see[e / 2].low || j >= see[e / 2].high;
#endif
                s[n][e] = hidden ? -INFINITY : s[n][e] * c;
                best[e / 2] = fmaxf(best[e / 2], s[n][e]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            for (int o = 1; o < 4; o *= 2) best[r] = fmaxf(best[r], __shfl_xor_sync(0xffffffffu, best[r], o));
            const float shift = best[r] == -INFINITY ? 0.0f : best[r], shrink = exp2f(top[r] - shift);
            float more = 0.0f;
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) s[n][2 * r + e] = exp2f(s[n][2 * r + e] - shift), more += s[n][2 * r + e];
            for (int o = 1; o < 4; o *= 2) more += __shfl_xor_sync(0xffffffffu, more, o);
            sum[r] = sum[r] * shrink + more, top[r] = best[r];
#pragma unroll
            for (int n = 0; n < D / 8; n++) acc[n][2 * r] *= shrink, acc[n][2 * r + 1] *= shrink;
        }
#pragma unroll
        for (int m = 0; m < 4; m++) {
            const uint32_t p[4] = {pair_of_bf16(s[2 * m][0], s[2 * m][1]), pair_of_bf16(s[2 * m][2], s[2 * m][3]),
                                   pair_of_bf16(s[2 * m + 1][0], s[2 * m + 1][1]), pair_of_bf16(s[2 * m + 1][2], s[2 * m + 1][3])};
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                uint32_t b[4];
                load_matrices<true>(b, vs + (m * 16 + (lane & 15)) * W + n * 8 + (lane >> 4) * 8);
                mma(acc[n], p, b[0], b[1]);
                mma(acc[n + 1], p, b[2], b[3]);
            }
        }
    }
    copies_wait<0>();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t row = i0 + warp * 16 + g + 8 * r;
        if (row >= a.Nq) continue;
        const float over = sum[r] > 0.0f || sum[r] != sum[r] ? 1.0f / sum[r] : 0.0f;
        float *to = out + ((outer * a.Nq + row) * a.inner + inner) * a.H * a.D + h * a.D;
#pragma unroll
        for (int n = 0; n < D / 8; n++) to[n * 8 + t2] = acc[n][2 * r] * over, to[n * 8 + t2 + 1] = acc[n][2 * r + 1] * over;
        if (lse && lane % 4 == 0) lse[((outer * a.inner + inner) * a.H + h) * a.Nq + row] = top[r] + log2f(sum[r]);
    }
}

template <int D>
static void run(float *out, float *lse, const float *q, const float *k, const float *v, const int32_t *lengths, const wm_attention *a) {
    const size_t bytes = 4 * TILE * D * sizeof(float) + (size_t)3 * TILE * (D + 8) * sizeof(wm_bf16);
    const unsigned blocks = (unsigned)((a->Nq + TILE - 1) / TILE);
    cudaFuncSetAttribute((const void *)forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    WM_LAUNCH(forward_kernel<D>, (unsigned)(a->outer * a->inner * a->H) * blocks, THREADS, bytes, out, lse, q, k, v, lengths, *a, blocks);
}

/* ---- backward ------------------------------------------------------------------------------------------------------------ */

/* 64 rows of D as bf16, zeros from row `end` on. */
template <int D> __device__ inline void load_rows(wm_bf16 *to, const float *from, int64_t row, int64_t i0, int64_t end) {
    for (int i = threadIdx.x; i < TILE * D; i += THREADS)
        to[i / D * (D + 8) + i % D] = to_bf16(i0 + i / D < end ? from[(i0 + i / D) * row + i % D] : 0.0f);
}
/* c (16,32) = a (16,D) b (32,D) transposed, a in registers. */
template <int D> __device__ inline void scores(float (&c)[COLUMNS / 8][4], const uint32_t (&a)[D / 16][4], const wm_bf16 *b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
        for (int d = 0; d < D / 16; d += 2) {
            uint32_t f[4];
            load_matrices<false>(f, b + (n * 8 + (lane & 7)) * (D + 8) + d * 16 + (lane >> 3) * 8);
            mma(c[n], a[d], f[0], f[1]);
            mma(c[n], a[d + 1], f[2], f[3]);
        }
}
/* acc (16,D) += a (16,32) b (32,D), a as an mma left it. */
template <int D> __device__ inline void accumulate(float (&acc)[D / 8][4], const float (&a)[COLUMNS / 8][4], const wm_bf16 *b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < COLUMNS / 16; m++) {
        const uint32_t p[4] = {pair_of_bf16(a[2 * m][0], a[2 * m][1]), pair_of_bf16(a[2 * m][2], a[2 * m][3]),
                               pair_of_bf16(a[2 * m + 1][0], a[2 * m + 1][1]), pair_of_bf16(a[2 * m + 1][2], a[2 * m + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t f[4];
            load_matrices<true>(f, b + (m * 16 + (lane & 15)) * (D + 8) + n * 8 + (lane >> 4) * 8);
            mma(acc[n], p, f[0], f[1]);
            mma(acc[n + 1], p, f[2], f[3]);
        }
    }
}

/* The first query for which `low` (of its keys), or `high`, is beyond key j: both grow with the query. */
__device__ inline int first_beyond(const wm_attention &a, int64_t length, int64_t j, bool low) {
    int first = 0, end = (int)a.Nq;
    while (first < end) {
        const int middle = (first + end) / 2;
        const sees s = seen_by(a, middle, a.Nk - a.Nq, length);
        if ((low ? s.low : s.high) > j) end = middle;
        else first = middle + 1;
    }
    return first;
}

/* What must be known of a query: the keys [low, high) that it sees, and its sums. */
struct query { int low, high; float lse, delta; };
__device__ inline query query_of(const float *lse, const float *delta, const wm_attention &a, int i, int64_t length) {
    query o = {0, 0, 0.0f, 0.0f};
    if (i >= a.Nq) return o;
    const sees s = seen_by(a, i, a.Nk - a.Nq, length);
    o.low = (int)s.low, o.high = (int)s.high, o.lse = lse[i], o.delta = delta[i];
    return o;
}

template <int D, bool KEYS>
__global__ void backward_kernel(float *first, float *second, const float *dout, const float *lse, const float *delta, const float *q,
                                const float *k, const float *v, const int32_t *lengths, wm_attention a, unsigned blocks) {
    WM_SHARED_DYN(float, room);           /* floats: 2 steps of both columns' matrices; then bf16 of rows, rows, columns, columns */
    WM_SHARED(query, columns, [COLUMNS]); /* of a step, where columns are queries */
    constexpr int W = D + 8, STEP = 2 * COLUMNS * D;
    wm_bf16 *xs = (wm_bf16 *)(room + 2 * STEP), *us = xs + TILE * W, *ys = us + TILE * W, *vs = ys + COLUMNS * W;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t2 = lane % 4 * 2;
    const unsigned u = blockIdx.x, I = (unsigned)a.inner, heads = (unsigned)(KEYS ? a.H / a.G : a.H);
    const int i0 = (int)(u % blocks) * TILE;
    const int64_t head = u / blocks % heads, inner = u / (blocks * heads) % I;
    const int64_t outer = u / (blocks * heads * I), group = KEYS ? head : (int)head / (int)a.G, length = length_of(lengths, a, outer);
    const int64_t q_row = a.inner * a.q_width, g_row = a.inner * a.H * a.D, k_row = a.inner * a.k_width, v_row = a.inner * a.v_width;
    const int64_t q_at = outer * a.Nq * a.inner + inner, k_at = outer * a.Nk * a.inner + inner;
    const float *queries = q + q_at * a.q_width, *given = dout + q_at * a.H * a.D;        /* of head 0 */
    const float *keys = k + k_at * a.k_width + group * a.D, *values = v + k_at * a.v_width + group * a.D;
    const int64_t sums_at = (outer * a.inner + inner) * a.H * a.Nq;

    if (KEYS) load_rows<D>(xs, keys, k_row, i0, length), load_rows<D>(us, values, v_row, i0, length);
    else load_rows<D>(xs, queries + head * a.D, q_row, i0, a.Nq), load_rows<D>(us, given + head * a.D, g_row, i0, a.Nq);

    /* Columns [low, high) matter to the block, from a multiple of COLUMNS on. */
    int low, high;
    if (KEYS) {
        low = first_beyond(a, length, i0, false), high = first_beyond(a, length, i0 + TILE - 1, true);
    } else {
        const int64_t last = i0 + TILE < a.Nq ? i0 + TILE - 1 : a.Nq - 1;
        low = (int)seen_by(a, i0, a.Nk - a.Nq, length).low, high = (int)seen_by(a, last, a.Nk - a.Nq, length).high;
    }
    low = low / COLUMNS * COLUMNS;
    const int each = low < high ? (high - low + COLUMNS - 1) / COLUMNS : 0, steps = KEYS ? each * (int)a.G : each;
    query rows[2];                        /* this lane's, where they are queries */
#pragma unroll
    for (int r = 0; r < 2 && !KEYS; r++)
        rows[r] = query_of(lse + sums_at + head * a.Nq, delta + sums_at + head * a.Nq, a, i0 + warp * 16 + g + 8 * r, length);

    const auto fetch_step = [&](int step, float *to) {
        const int j0 = low + step % each * COLUMNS;
        const int64_t h = KEYS ? group * a.G + step / each : head;
        if (KEYS) {
            fetch<COLUMNS, D>(to, queries + h * a.D, q_row, j0, a.Nq);
            fetch<COLUMNS, D>(to + COLUMNS * D, given + h * a.D, g_row, j0, a.Nq);
        } else {
            fetch<COLUMNS, D>(to, keys, k_row, j0, high);
            fetch<COLUMNS, D>(to + COLUMNS * D, values, v_row, j0, high);
        }
    };
    const float c = a.scale * LOG2E;
    float acc[D / 8][4] = {}, more[KEYS ? D / 8 : 1][4] = {};
    uint32_t fx[D / 16][4], fu[D / 16][4];
    if (steps) fetch_step(0, room);
    copies_end();
    for (int step = 0; step < steps; step++) {
        float *now = room + (step & 1) * STEP;
        const int j0 = low + step % each * COLUMNS;
        if (step + 1 < steps) fetch_step(step + 1, room + (~step & 1) * STEP);
        copies_end();
        copies_wait<1>();
        __syncthreads();
        convert<COLUMNS, D>(ys, now), convert<COLUMNS, D>(vs, now + COLUMNS * D);
        if (KEYS && threadIdx.x < COLUMNS) {
            const int64_t at = sums_at + (group * a.G + step / each) * a.Nq;
            columns[threadIdx.x] = query_of(lse + at, delta + at, a, j0 + (int)threadIdx.x, length);
        }
        __syncthreads();
        if (step == 0) {
#pragma unroll
            for (int d = 0; d < D / 16; d++) {
                load_matrices<false>(fx[d], xs + (warp * 16 + (lane & 15)) * W + d * 16 + (lane >> 4) * 8);
                load_matrices<false>(fu[d], us + (warp * 16 + (lane & 15)) * W + d * 16 + (lane >> 4) * 8);
            }
        }
        float p[COLUMNS / 8][4] = {}, ds[COLUMNS / 8][4] = {};
        scores<D>(p, fx, ys), scores<D>(ds, fu, vs);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int column = n * 8 + t2 + e % 2, key = KEYS ? i0 + warp * 16 + g + e / 2 * 8 : j0 + column;
                const query &o = KEYS ? columns[column] : rows[e / 2];
#ifdef WM_PLANT_BAD_MASK_BACKWARD
                const bool visible = key >= o.low && key < o.high + KEYS;
#else
                const bool visible = key >= o.low && key < o.high;
#endif
                p[n][e] = visible ? exp2f(p[n][e] * c - o.lse) : 0.0f;
                ds[n][e] = visible ? p[n][e] * (ds[n][e] - o.delta) * a.scale : 0.0f;
            }
        accumulate<D>(acc, ds, ys);
        if constexpr (KEYS) accumulate<D>(more, p, vs);
    }
    copies_wait<0>();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t row = i0 + warp * 16 + g + 8 * r;
        if (row >= (KEYS ? a.Nk : a.Nq)) continue;
        float *to = first + (KEYS ? (k_at + row * a.inner) * a.k_width + group * a.D : (q_at + row * a.inner) * a.q_width + head * a.D);
        float *beside = second + (k_at + row * a.inner) * a.v_width + group * a.D;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            const int at = n * 8 + t2;
            if (first) to[at] += acc[n][2 * r], to[at + 1] += acc[n][2 * r + 1];
            if constexpr (KEYS)
                if (second) beside[at] += more[n][2 * r], beside[at + 1] += more[n][2 * r + 1];
        }
    }
}

template <int D, bool KEYS>
static void run_backward(float *first, float *second, const float *dout, const float *lse, const float *delta, const float *q,
                         const float *k, const float *v, const int32_t *lengths, const wm_attention *a) {
    const size_t bytes = 4 * COLUMNS * D * sizeof(float) + (size_t)2 * (TILE + COLUMNS) * (D + 8) * sizeof(wm_bf16);
    const unsigned blocks = (unsigned)(((KEYS ? a->Nk : a->Nq) + TILE - 1) / TILE), heads = (unsigned)(KEYS ? a->H / a->G : a->H);
    cudaFuncSetAttribute((const void *)backward_kernel<D, KEYS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    WM_LAUNCH((backward_kernel<D, KEYS>), (unsigned)(a->outer * a->inner) * heads * blocks, THREADS, bytes, first, second, dout, lse, delta,
              q, k, v, lengths, *a, blocks);
}
template <int D>
static void run_backward(float *dq, float *dk, float *dv, const float *dout, const float *lse, const float *delta, const float *q,
                         const float *k, const float *v, const int32_t *lengths, const wm_attention *a) {
    if (dq) run_backward<D, false>(dq, NULL, dout, lse, delta, q, k, v, lengths, a);
    if (dk || dv) run_backward<D, true>(dk, dv, dout, lse, delta, q, k, v, lengths, a);
}

}  // namespace attention_mma

/* Does it fit?  Copies of 16 bytes want rows on 16 bytes. */
static bool fits(const float *x, int64_t width) { return width % 4 == 0 && !((uintptr_t)x & 15); }
bool attend_bf16(float *out, float *lse, const float *q, const float *k, const float *v, const int32_t *lengths, const wm_attention *a) {
    if ((a->D != 32 && a->D != 64) || !fits(k, a->k_width) || !fits(v, a->v_width)) return false;
    if (a->D == 32) attention_mma::run<32>(out, lse, q, k, v, lengths, a);
    else attention_mma::run<64>(out, lse, q, k, v, lengths, a);
    return true;
}

bool attend_backward_bf16(float *dq, float *dk, float *dv, const float *dout, const float *lse, const float *delta, const float *q,
                          const float *k, const float *v, const int32_t *lengths, const wm_attention *a) {
    if ((a->D != 32 && a->D != 64) || !fits(q, a->q_width) || !fits(k, a->k_width) || !fits(v, a->v_width) || !fits(dout, 0)) return false;
    if (a->D == 32) attention_mma::run_backward<32>(dq, dk, dv, dout, lse, delta, q, k, v, lengths, a);
    else attention_mma::run_backward<64>(dq, dk, dv, dout, lse, delta, q, k, v, lengths, a);
    return true;
}

}  // namespace wm_cuda

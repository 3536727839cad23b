/* reduce: sums, extremes, variances and scans along the middle axis of x (A,R,B).
   Long sums go in pieces of fixed size, the pieces' sums again: the order depends on R alone, and errors grow with log R. */
#include "device.cuh"

namespace wm_cuda {
namespace reduce {

enum { SUM_PIECE = 4096, SUM_ROWS = 64 };      /* numbers of a row, rows of a column, that one block or thread adds */

__device__ inline float term(float x, bool squares, float mean) { return squares ? (x - mean) * (x - mean) : x; }

/* part (A, pieces) = sums over pieces of the rows of x (A,R); mean (A) or NULL: of squared distances from it */
__global__ void pieces_kernel(float *part, const float *x, const float *mean, int64_t A, int64_t R, int64_t pieces) {
    WM_SHARED(float, room, [32]);
    for (int64_t i = blockIdx.x; i < A * pieces; i += gridDim.x) {
        const int64_t a = i / pieces, first = i % pieces * SUM_PIECE, end = first + SUM_PIECE < R ? first + SUM_PIECE : R;
        const float m = mean ? mean[a] : 0.0f;
        float s = 0.0f;
        for (int64_t r = first + threadIdx.x; r < end; r += blockDim.x) s += term(x[a * R + r], mean != nullptr, m);
        s = block_sum(s, room);
        if (threadIdx.x == 0) part[i] = s;
    }
}

/* out (A) = scale sum over the row (+ out) */
__global__ void row_sum_kernel(float *out, const float *x, const float *mean, double scale, bool keep, int64_t A, int64_t R) {
    FOR_ROW(a, A) {
        const float m = mean ? mean[a] : 0.0f;
        float s = 0.0f;
        FOR_LANE(r, R) s += term(x[a * R + r], mean != nullptr, m);
        s = warp_sum(s);
        if (threadIdx.x % 32 == 0) out[a] = (keep ? out[a] : 0.0f) + (float)(scale * (double)s);
    }
}

/* out (A, chunks, B): sums over SUM_ROWS rows each of x (A,R,B); with one chunk, scaled and perhaps added */
__global__ void columns_kernel(float *out, const float *x, const float *mean, double scale, bool keep, int64_t A, int64_t R,
                               int64_t B, int64_t chunks) {
    FOR_EACH(i, A * chunks * B) {
        const int64_t b = i % B, k = i / B % chunks, a = i / (B * chunks), first = k * SUM_ROWS;
        const int64_t end = first + SUM_ROWS < R ? first + SUM_ROWS : R;
        const float m = mean ? mean[a * B + b] : 0.0f;
        float s[2] = {0.0f, 0.0f};
        int64_t r = first;
        for (; r + 2 <= end; r += 2) {
            s[0] += term(x[(a * R + r) * B + b], mean != nullptr, m);
            s[1] += term(x[(a * R + r + 1) * B + b], mean != nullptr, m);
        }
        if (r < end) s[0] += term(x[(a * R + r) * B + b], mean != nullptr, m);
        const float sum = s[0] + s[1];
        out[i] = chunks > 1 ? sum : (keep ? out[i] : 0.0f) + (float)(scale * (double)sum);
    }
}

static void sum_any(float *out, const float *x, const float *mean, double scale, bool keep, int64_t A, int64_t R, int64_t B) {
    float *part = NULL, *room = NULL;
    if (B == 1) {
        if (R > SUM_PIECE) {
            const int64_t pieces = (R + SUM_PIECE - 1) / SUM_PIECE;
            if (!(part = (float *)workspace((size_t)(A * pieces) * sizeof *part))) return;
            WM_LAUNCH(pieces_kernel, blocks_for(A * pieces, 1), 256, 0, part, x, mean, A, R, pieces);
            ROWS(row_sum_kernel, A, out, (const float *)part, (const float *)NULL, scale, keep, A, pieces);
        } else {
            ROWS(row_sum_kernel, A, out, x, mean, scale, keep, A, R);
        }
        return;
    }
    int64_t chunks = (R + SUM_ROWS - 1) / SUM_ROWS, numbers = 0;
    for (int64_t c = chunks; c > 1; c = (c + SUM_ROWS - 1) / SUM_ROWS) numbers += A * c * B;
    if (numbers && !(room = (float *)workspace((size_t)numbers * sizeof *room))) return;
    while (chunks > 1) {
        EACH(columns_kernel, A * chunks * B, room, x, mean, 1.0, false, A, R, B, chunks);
        x = room, mean = NULL, R = chunks, room += A * chunks * B, chunks = (R + SUM_ROWS - 1) / SUM_ROWS;
    }
    EACH(columns_kernel, A * B, out, x, mean, scale, keep, A, R, B, chunks);
}

static void sum_forward(float *out, const float *x, double scale, int64_t A, int64_t R, int64_t B) {
    sum_any(out, x, NULL, scale, false, A, R, B);
}
static void sum_into(float *out, const float *x, double scale, int64_t A, int64_t R, int64_t B) {
    sum_any(out, x, NULL, scale, true, A, R, B);
}

/* dx += scale dout */
__global__ void sum_backward_kernel(float *dx, const float *dout, float scale, int64_t R, int64_t B, int64_t n) {
    FOR_EACH(i, n) dx[i] += scale * dout[i / (R * B) * B + i % B];
}
static void sum_backward(float *dx, const float *dout, double scale, int64_t A, int64_t R, int64_t B) {
    EACH(sum_backward_kernel, A * R * B, dx, dout, (float)scale, R, B, A * R * B);
}

static void var_forward(float *out, float *mean, const float *x, float correction, int64_t A, int64_t R, int64_t B) {
    sum_any(mean, x, NULL, 1.0 / (double)R, false, A, R, B);
    sum_any(out, x, mean, 1.0 / ((double)R - (double)correction), false, A, R, B);
}

/* dx += dout 2 (x - mean) / (R - correction) */
__global__ void var_backward_kernel(float *dx, const float *dout, const float *mean, const float *x, float scale, int64_t R,
                                    int64_t B, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t at = i / (R * B) * B + i % B;
        dx[i] += scale * dout[at] * (x[i] - mean[at]);
    }
}
static void var_backward(float *dx, const float *dout, const float *mean, const float *x, float correction, int64_t A, int64_t R,
                         int64_t B) {
    EACH(var_backward_kernel, A * R * B, dx, dout, mean, x, 2.0f / ((float)R - correction), R, B, A * R * B);
}

/* ---- extremes: NaN before all, then the larger, then the earlier ------------------------------------ */

__device__ inline bool before(float v, int64_t i, float w, int64_t j) {
    const bool nan = v != v, other = w != w;
    if (nan != other) return nan;
    return v > w || ((v == w || nan) && i < j);
}
/* A warp an output: its lanes take every 32nd row. */
__global__ void top_kernel(float *out, int32_t *index, const float *x, float sign, int64_t A, int64_t R, int64_t B) {
    FOR_ROW(o, A * B) {
        const int64_t a = o / B, b = o % B, none = R;
        float best = -INFINITY;
        int64_t at = none;
        FOR_LANE(r, R) {
            const float v = sign * x[(a * R + r) * B + b];
            if (at == none || before(v, r, best, at)) best = v, at = r;
        }
        for (int step = 16; step; step >>= 1) {
            const float v = __shfl_xor_sync(0xffffffffu, best, step);
            const int64_t i = __shfl_xor_sync(0xffffffffu, at, step);
            if (i != none && (at == none || before(v, i, best, at))) best = v, at = i;
        }
        if (threadIdx.x % 32 == 0) {
            if (out) out[o] = sign * best;
            if (index) index[o] = (int32_t)at;
        }
    }
}
static void top_forward(float *out, int32_t *index, const float *x, float sign, int64_t A, int64_t R, int64_t B) {
    ROWS(top_kernel, A * B, out, index, x, sign, A, R, B);
}
__global__ void top_backward_kernel(float *dx, const float *dout, const int32_t *index, int64_t R, int64_t B, int64_t n) {
    FOR_EACH(i, n) dx[(i / B * R + index[i]) * B + i % B] += dout[i];
}
static void top_backward(float *dx, const float *dout, const int32_t *index, int64_t A, int64_t R, int64_t B) {
    EACH(top_backward_kernel, A * B, dx, dout, index, R, B, A * B);
}

/* ---- scans: one thread a column, sums in double ------------------------------------------------------- */

__global__ void cumsum_kernel(float *out, const float *x, bool backward, int64_t R, int64_t B, int64_t n) {
    FOR_EACH(i, n) {
        double s = 0;
        for (int64_t k = 0; k < R; k++) {
            const int64_t at = (i / B * R + (backward ? R - 1 - k : k)) * B + i % B;
            s += (double)x[at];
            out[at] = backward ? out[at] + (float)s : (float)s;
        }
    }
}
static void cumsum_forward(float *out, const float *x, int64_t A, int64_t R, int64_t B) {
    EACH(cumsum_kernel, A * B, out, x, false, R, B, A * B);
}
static void cumsum_backward(float *dx, const float *dout, int64_t A, int64_t R, int64_t B) {
    EACH(cumsum_kernel, A * B, dx, dout, true, R, B, A * B);
}

/* out_t = a_t + b_t out_{t+1} */
__global__ void reverse_scan_kernel(float *out, const float *a, const float *b, const float *last, int64_t T, int64_t B, int64_t n) {
    FOR_EACH(i, n) {
        float next = last ? last[i] : 0.0f;
        for (int64_t t = T; t-- > 0;) {
            const int64_t at = (i / B * T + t) * B + i % B;
            next = t + 1 < T || last ? a[at] + b[at] * next : a[at];
            out[at] = next;
        }
    }
}
static void reverse_scan_forward(float *out, const float *a, const float *b, const float *last, int64_t A, int64_t T, int64_t B) {
    EACH(reverse_scan_kernel, A * B, out, a, b, last, T, B, A * B);
}
/* h_t = dout_t + b_{t-1} h_{t-1};  da += h, db_t += h_t out_{t+1}, dlast += b_{T-1} h_{T-1} */
__global__ void reverse_scan_backward_kernel(float *da, float *db, float *dlast, const float *dout, const float *out,
                                             const float *b, const float *last, int64_t T, int64_t B, int64_t n) {
    FOR_EACH(i, n) {
        float h = 0.0f;
        for (int64_t t = 0; t < T; t++) {
            const int64_t at = (i / B * T + t) * B + i % B;
            h = dout[at] + (t ? b[at - B] * h : 0.0f);
            const float next = t + 1 < T ? out[at + B] : last ? last[i] : 0.0f;
            if (da) da[at] += h;
            if (db) db[at] += h * next;
        }
        if (dlast) dlast[i] += b[(i / B * T + T - 1) * B + i % B] * h;
    }
}
static void reverse_scan_backward(float *da, float *db, float *dlast, const float *dout, const float *out, const float *b,
                                  const float *last, int64_t A, int64_t T, int64_t B) {
    EACH(reverse_scan_backward_kernel, A * B, da, db, dlast, dout, out, b, last, T, B, A * B);
}

}  // namespace reduce

void reduce_table(wm_kernels *k) {
    using namespace reduce;
    k->sum_forward = sum_forward, k->sum_into = sum_into, k->sum_backward = sum_backward;
    k->var_forward = var_forward, k->var_backward = var_backward;
    k->top_forward = top_forward, k->top_backward = top_backward;
    k->cumsum_forward = cumsum_forward, k->cumsum_backward = cumsum_backward;
    k->reverse_scan_forward = reverse_scan_forward, k->reverse_scan_backward = reverse_scan_backward;
}
}  // namespace wm_cuda

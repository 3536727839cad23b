/* loss: a term of every number, weighted and summed.  O cells of n numbers, one result a cell; a weight covers m numbers.
   Cells go in pieces of fixed size, the pieces' sums in double. */
#include "device.cuh"

namespace wm_cuda {
namespace loss {

enum { PIECE = 2048 };
enum { HUBER, BCE, ROW };

struct terms {
    const float *pred, *target, *weight;
    float delta;
    int kind;
    int64_t m;
};

/* huber: d^2 / 2 up to delta, then delta (|d| - delta / 2);  bce: max(x, 0) - x t + log1p(e^-|x|);  row: the number itself */
__device__ inline float term_at(const terms &t, int64_t i) {
    const float x = t.pred[i];
    float v = x;
    if (t.kind == HUBER) {
        const float d = x - t.target[i], a = fabsf(d);
        v = a > t.delta ? t.delta * (a - 0.5f * t.delta) : 0.5f * d * d;
    } else if (t.kind == BCE) {
        v = fmaxf(x, 0.0f) - x * t.target[i] + log1pf(expf(-fabsf(x)));
    }
    return t.weight ? v * t.weight[i / t.m] : v;
}
__global__ void pieces_kernel(float *part, terms t, int64_t O, int64_t n, int64_t pieces) {
    WM_SHARED(float, room, [32]);
    for (int64_t i = blockIdx.x; i < O * pieces; i += gridDim.x) {
        const int64_t o = i / pieces, first = i % pieces * PIECE, end = first + PIECE < n ? first + PIECE : n;
        float s = 0.0f;
        for (int64_t k = first + threadIdx.x; k < end; k += blockDim.x) s += term_at(t, o * n + k);
        s = block_sum(s, room);
        if (threadIdx.x == 0) part[i] = s;
    }
}
__global__ void cells_kernel(float *out, const float *part, double scale, int64_t O, int64_t pieces) {
    FOR_ROW(o, O) {
        double s = 0;
        FOR_LANE(k, pieces) s += (double)part[o * pieces + k];
        s = warp_sum(s);
        if (threadIdx.x % 32 == 0) out[o] = (float)(scale * s);
    }
}
static void sum_terms(float *out, const terms &t, double scale, int64_t O, int64_t n) {
    const int64_t pieces = (n + PIECE - 1) / PIECE;
    float *part = (float *)workspace((size_t)(O * pieces) * sizeof *part);
    if (!part) return;
    WM_LAUNCH(pieces_kernel, blocks_for(O * pieces, 1), 128, 0, part, t, O, n, pieces);
    ROWS(cells_kernel, O, out, part, scale, O, pieces);
}

/* what number i receives of its cell's gradient */
__device__ inline float slope_at(const float *dout, const float *weight, float scale, int64_t n, int64_t m, int64_t i) {
    return scale * dout[i / n] * (weight ? weight[i / m] : 1.0f);
}

static void huber_forward(float *out, const float *pred, const float *target, const float *weight, float delta, double scale, int64_t O,
                          int64_t n, int64_t m) {
    sum_terms(out, terms{pred, target, weight, delta, HUBER, m}, scale, O, n);
}
__global__ void huber_backward_kernel(float *dpred, float *dtarget, const float *dout, const float *pred, const float *target,
                                      const float *weight, float delta, float scale, int64_t n, int64_t m, int64_t all) {
    FOR_EACH(i, all) {
        float d = pred[i] - target[i];
        d = (d > delta ? delta : d < -delta ? -delta : d) * slope_at(dout, weight, scale, n, m, i);
        if (dpred) dpred[i] += d;
        if (dtarget) dtarget[i] -= d;
    }
}
static void huber_backward(float *dpred, float *dtarget, const float *dout, const float *pred, const float *target, const float *weight,
                           float delta, double scale, int64_t O, int64_t n, int64_t m) {
    EACH(huber_backward_kernel, O * n, dpred, dtarget, dout, pred, target, weight, delta, (float)scale, n, m, O * n);
}

static void bce_forward(float *out, const float *logits, const float *target, const float *weight, double scale, int64_t O, int64_t n,
                        int64_t m) {
    sum_terms(out, terms{logits, target, weight, 0.0f, BCE, m}, scale, O, n);
}
__global__ void bce_backward_kernel(float *dlogits, const float *dout, const float *logits, const float *target, const float *weight,
                                    float scale, int64_t n, int64_t m, int64_t all) {
    FOR_EACH(i, all) dlogits[i] += (vec_sigmoid(logits[i]) - target[i]) * slope_at(dout, weight, scale, n, m, i);
}
static void bce_backward(float *dlogits, const float *dout, const float *logits, const float *target, const float *weight, double scale,
                         int64_t O, int64_t n, int64_t m) {
    EACH(bce_backward_kernel, O * n, dlogits, dout, logits, target, weight, (float)scale, n, m, O * n);
}

static void row_loss_forward(float *out, const float *loss, const float *weight, double scale, int64_t O, int64_t n, int64_t m) {
    sum_terms(out, terms{loss, NULL, weight, 0.0f, ROW, m}, scale, O, n);
}
__global__ void row_loss_backward_kernel(float *drow, const float *dout, const float *weight, float scale, int64_t n, int64_t m,
                                         int64_t all) {
    FOR_EACH(i, all) drow[i] = slope_at(dout, weight, scale, n, m, i);
}
static void row_loss_backward(float *drow, const float *dout, const float *weight, double scale, int64_t O, int64_t n, int64_t m) {
    EACH(row_loss_backward_kernel, O * n, drow, dout, weight, (float)scale, n, m, O * n);
}

}  // namespace loss

void loss_table(wm_kernels *k) {
    using namespace loss;
    k->huber_forward = huber_forward, k->huber_backward = huber_backward;
    k->bce_forward = bce_forward, k->bce_backward = bce_backward;
    k->row_loss_forward = row_loss_forward, k->row_loss_backward = row_loss_backward;
}
}  // namespace wm_cuda

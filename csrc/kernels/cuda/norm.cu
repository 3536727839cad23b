/* norm: layer and RMS norm, AdaLN, gated residuals (a warp a row), group norm (a block a group); cpu/norm.c and
   cpu/group_norm.c have the formulas.  Sums over rows go in chunks of 64 rows of one group, the chunks' sums in order. */
#include "device.cuh"

namespace wm_cuda {
namespace norm {

enum { CHUNK = 64 };        /* as ops/norm.c counts its scratch */

/* ---- layer and RMS -------------------------------------------------------------------------------------- */

__global__ void forward_kernel(float *out, float *mean, float *rstd, const float *x, wm_modulation m, bool rms, float eps, int64_t R,
                               int64_t C) {
    FOR_ROW(r, R) {
        const float *row = x + r * C;
        float mu = 0.0f, q = 0.0f;
        if (!rms) {
            FOR_LANE(c, C) mu += row[c];
            mu = warp_sum(mu) / (float)C;
        }
        FOR_LANE(c, C) q += (row[c] - mu) * (row[c] - mu);
        const float scale = 1.0f / sqrtf(warp_sum(q) / (float)C + eps);
        const int64_t g = r / m.rows;
        FOR_LANE(c, C) {
            const float h = (row[c] - mu) * scale * (m.plus + (m.factor ? m.factor[g * m.step_factor + c] : 0.0f));
            out[r * C + c] = m.term ? h + m.term[g * m.step_term + c] : h;
        }
        if (threadIdx.x % 32 == 0) {
            if (mean && !rms) mean[r] = mu;
            if (rstd) rstd[r] = scale;
        }
    }
}
/* The same for rows of whole float4 on 16 bytes: a warp reads 512 bytes at once. */
__global__ void forward_wide_kernel(float *out, float *mean, float *rstd, const float *x, wm_modulation m, bool rms, float eps,
                                    int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const float4 *row = (const float4 *)(x + r * C);
        float mu = 0.0f, q = 0.0f;
        if (!rms) {
            FOR_LANE(c, C / 4) {
                const float4 v = row[c];
                mu += (v.x + v.y) + (v.z + v.w);
            }
            mu = warp_sum(mu) / (float)C;
        }
        FOR_LANE(c, C / 4) {
            const float4 v = row[c];
            q += ((v.x - mu) * (v.x - mu) + (v.y - mu) * (v.y - mu)) + ((v.z - mu) * (v.z - mu) + (v.w - mu) * (v.w - mu));
        }
        const float scale = 1.0f / sqrtf(warp_sum(q) / (float)C + eps);
        const int64_t g = r / m.rows;
        FOR_LANE(c, C / 4) {
            float4 v = row[c], f = {0.0f, 0.0f, 0.0f, 0.0f}, t = f;
            if (m.factor) f = ((const float4 *)(m.factor + g * m.step_factor))[c];
            if (m.term) t = ((const float4 *)(m.term + g * m.step_term))[c];
            v.x = (v.x - mu) * scale * (m.plus + f.x) + t.x, v.y = (v.y - mu) * scale * (m.plus + f.y) + t.y;
            v.z = (v.z - mu) * scale * (m.plus + f.z) + t.z, v.w = (v.w - mu) * scale * (m.plus + f.w) + t.w;
            ((float4 *)(out + r * C))[c] = v;
        }
        if (threadIdx.x % 32 == 0) {
            if (mean && !rms) mean[r] = mu;
            if (rstd) rstd[r] = scale;
        }
    }
}
static bool wide(const void *p) { return !((uintptr_t)p & 15); }
static void norm_forward(float *out, float *mean, float *rstd, const float *x, const wm_modulation *m, bool rms, float eps, int64_t R,
                         int64_t C) {
    const bool fours = C % 4 == 0 && wide(x) && wide(out) && wide(m->factor) && wide(m->term) && m->step_factor % 4 == 0 &&
                       m->step_term % 4 == 0;
    if (fours) ROWS(forward_wide_kernel, R, out, mean, rstd, x, *m, rms, eps, R, C);
    else ROWS(forward_kernel, R, out, mean, rstd, x, *m, rms, eps, R, C);
}

/* dx += rstd (g - mean(g) - h mean(g h)), g = dout (plus + factor) */
__global__ void backward_kernel(float *dx, const float *dout, const float *x, const float *mean, const float *rstd, wm_modulation m,
                                bool rms, int64_t R, int64_t C) {
    FOR_ROW(r, R) {
        const float mu = rms ? 0.0f : mean[r], scale = rstd[r];
        const float *factor = m.factor ? m.factor + r / m.rows * m.step_factor : nullptr;
        float s = 0.0f, q = 0.0f;
        FOR_LANE(c, C) {
            const float g = dout[r * C + c] * (m.plus + (factor ? factor[c] : 0.0f));
            s += g, q += g * ((x[r * C + c] - mu) * scale);
        }
        s = rms ? 0.0f : warp_sum(s) / (float)C;
        q = warp_sum(q) / (float)C;
        FOR_LANE(c, C) {
            const float g = dout[r * C + c] * (m.plus + (factor ? factor[c] : 0.0f)), h = (x[r * C + c] - mu) * scale;
            dx[r * C + c] += scale * (g - s - h * q);
        }
    }
}

/* One chunk's sums of dout h and dout by column, to scratch (2C a chunk) or straight to the gradients if a group is one chunk. */
__global__ void columns_kernel(float *dfactor, float *dterm, float *scratch, const float *dout, const float *x, const float *mean,
                               const float *rstd, wm_modulation m, bool rms, int64_t groups, int64_t chunks, int64_t C) {
    FOR_EACH(i, groups * chunks * C) {
        const int64_t c = i % C, k = i / C % chunks, g = i / (C * chunks);
        const int64_t first = k * CHUNK, last = first + CHUNK < m.rows ? first + CHUNK : m.rows;
        float s = 0.0f, q = 0.0f;
        for (int64_t r = g * m.rows + first; r < g * m.rows + last; r++) {
            const float d = dout[r * C + c];
            s += d, q += d * ((x[r * C + c] - (rms ? 0.0f : mean[r])) * rstd[r]);
        }
        if (chunks > 1) {
            float *part = scratch + 2 * (g * chunks + k) * C;
            part[c] = q, part[C + c] = s;
        } else {
            if (dfactor) dfactor[g * m.step_factor + c] += q;
            if (dterm) dterm[g * m.step_term + c] += s;
        }
    }
}
/* to[g step + c] += sum over chunks of from[(g chunks + k) wide + c] */
__global__ void chunks_kernel(float *to, int64_t step, const float *from, int64_t wide, int64_t groups, int64_t chunks, int64_t C) {
    FOR_EACH(i, groups * C) {
        const int64_t g = i / C, c = i % C;
        float s = 0.0f;
        for (int64_t k = 0; k < chunks; k++) s += from[(g * chunks + k) * wide + c];
        to[g * step + c] += s;
    }
}
static void norm_backward(float *dx, float *dfactor, float *dterm, const float *dout, const float *x, const float *mean,
                          const float *rstd, const wm_modulation *m, bool rms, float *scratch, int64_t R, int64_t C) {
    const int64_t groups = R / m->rows, chunks = (m->rows + CHUNK - 1) / CHUNK;
    if (dx) ROWS(backward_kernel, R, dx, dout, x, mean, rstd, *m, rms, R, C);
    if (!dfactor && !dterm) return;
    EACH(columns_kernel, groups * chunks * C, dfactor, dterm, scratch, dout, x, mean, rstd, *m, rms, groups, chunks, C);
    if (chunks == 1) return;
    if (dfactor) EACH(chunks_kernel, groups * C, dfactor, m->step_factor, scratch, 2 * C, groups, chunks, C);
    if (dterm) EACH(chunks_kernel, groups * C, dterm, m->step_term, scratch + C, 2 * C, groups, chunks, C);
}

/* ---- gated residual: out = residual + gate x --------------------------------------------------------------- */

__global__ void gate_kernel(float *out, const float *residual, const float *x, wm_modulation m, int64_t C, int64_t n) {
    FOR_EACH(i, n) out[i] = residual[i] + m.factor[i / C / m.rows * m.step_factor + i % C] * x[i];
}
static void gate_forward(float *out, const float *residual, const float *x, const wm_modulation *m, int64_t R, int64_t C) {
    EACH(gate_kernel, R * C, out, residual, x, *m, C, R * C);
}
__global__ void gate_backward_kernel(float *dresidual, float *dx, const float *dout, wm_modulation m, int64_t C, int64_t n) {
    FOR_EACH(i, n) {
        if (dresidual) dresidual[i] += dout[i];
        if (dx) dx[i] += dout[i] * m.factor[i / C / m.rows * m.step_factor + i % C];
    }
}
__global__ void gate_columns_kernel(float *dgate, float *scratch, const float *dout, const float *x, wm_modulation m, int64_t groups,
                                    int64_t chunks, int64_t C) {
    FOR_EACH(i, groups * chunks * C) {
        const int64_t c = i % C, k = i / C % chunks, g = i / (C * chunks);
        const int64_t first = k * CHUNK, last = first + CHUNK < m.rows ? first + CHUNK : m.rows;
        float s = 0.0f;
        for (int64_t r = g * m.rows + first; r < g * m.rows + last; r++) s += dout[r * C + c] * x[r * C + c];
        if (chunks > 1) scratch[(g * chunks + k) * C + c] = s;
        else dgate[g * m.step_factor + c] += s;
    }
}
static void gate_backward(float *dresidual, float *dx, float *dgate, const float *dout, const float *x, const wm_modulation *m,
                          float *scratch, int64_t R, int64_t C) {
    const int64_t groups = R / m->rows, chunks = (m->rows + CHUNK - 1) / CHUNK;
    if (dresidual || dx) EACH(gate_backward_kernel, R * C, dresidual, dx, dout, *m, C, R * C);
    if (!dgate) return;
    EACH(gate_columns_kernel, groups * chunks * C, dgate, scratch, dout, x, *m, groups, chunks, C);
    if (chunks > 1) EACH(chunks_kernel, groups * C, dgate, m->step_factor, scratch, C, groups, chunks, C);
}

/* ---- group norm ------------------------------------------------------------------------------------------------ */

/* Of a sample: chunks of (2,C) partial sums, (2,C) sums, (2,C) means. */
static int64_t group_chunks(int64_t S) { return (S + CHUNK - 1) / CHUNK; }
static int64_t group_norm_scratch(int64_t S, int64_t C) { return (2 * group_chunks(S) + 4) * C; }

struct group_task {
    const float *dout, *x, *mean, *rstd;
    wm_modulation m;
    bool silu;
    int64_t S, C, width, groups;
};

__global__ void group_statistics_kernel(float *mean, float *rstd, const float *x, float eps, int64_t B, int64_t S, int64_t C,
                                        int64_t groups) {
    WM_SHARED(double, room, [32]);
    const int64_t width = C / groups, n = S * width;
    for (int64_t i = blockIdx.x; i < B * groups; i += gridDim.x) {
        const float *from = x + i / groups * S * C + i % groups * width;
        double s = 0, q = 0;
        for (int64_t k = threadIdx.x; k < n; k += blockDim.x) s += (double)from[k / width * C + k % width];
        const double mu = block_sum(s, room) / (double)n;
        for (int64_t k = threadIdx.x; k < n; k += blockDim.x) {
            const double d = (double)from[k / width * C + k % width] - mu;
            q += d * d;
        }
        q = block_sum(q, room);
        if (threadIdx.x == 0) mean[i] = (float)mu, rstd[i] = (float)(1.0 / sqrt(q / (double)n + (double)eps));
    }
}

struct group_at { float h, factor, z; };       /* of one number: normed, its factor, before act */
__device__ inline group_at group_number(const group_task &t, int64_t b, int64_t c, float x) {
    const int64_t g = b * t.groups + c / t.width;
    group_at a;
    a.h = (x - t.mean[g]) * t.rstd[g];
    a.factor = t.m.plus + (t.m.factor ? t.m.factor[b * t.m.step_factor + c] : 0.0f);
    a.z = a.h * a.factor + (t.m.term ? t.m.term[b * t.m.step_term + c] : 0.0f);
    return a;
}
__device__ inline float group_slope(const group_task &t, float dout, float z) {
    if (!t.silu) return dout;
    const float s = vec_sigmoid(z);
    return dout * s * (1.0f + z * (1.0f - s));
}

__global__ void group_forward_kernel(float *out, group_task t, int64_t n) {
    FOR_EACH(i, n) {
        const group_at a = group_number(t, i / (t.S * t.C), i % t.C, t.x[i]);
        out[i] = t.silu ? a.z * vec_sigmoid(a.z) : a.z;
    }
}
static void group_norm_forward(float *out, float *mean, float *rstd, const float *x, const wm_modulation *m, bool silu, float eps,
                               float *scratch, int64_t B, int64_t S, int64_t C, int64_t groups) {
    (void)scratch;
    const group_task t = {NULL, x, mean, rstd, *m, silu, S, C, C / groups, groups};
    WM_LAUNCH(group_statistics_kernel, blocks_for(B * groups, 1), 256, 0, mean, rstd, x, eps, B, S, C, groups);
    EACH(group_forward_kernel, B * S * C, out, t, B * S * C);
}

/* Sums of d and d h over CHUNK pixels of a channel. */
__global__ void group_chunk_kernel(float *scratch, int64_t room, group_task t, int64_t B, int64_t chunks) {
    FOR_EACH(i, B * chunks * t.C) {
        const int64_t c = i % t.C, k = i / t.C % chunks, b = i / (t.C * chunks);
        const int64_t first = k * CHUNK, last = first + CHUNK < t.S ? first + CHUNK : t.S;
        float s = 0.0f, q = 0.0f;
        for (int64_t p = first; p < last; p++) {
            const int64_t at = (b * t.S + p) * t.C + c;
            const group_at a = group_number(t, b, c, t.x[at]);
            const float d = group_slope(t, t.dout[at], a.z);
            s += d, q += d * a.h;
        }
        float *part = scratch + b * room + 2 * k * t.C;
        part[c] = s, part[t.C + c] = q;
    }
}
__global__ void group_sums_kernel(float *scratch, int64_t room, int64_t B, int64_t chunks, int64_t C) {
    FOR_EACH(i, B * 2 * C) {
        float *at = scratch + i / (2 * C) * room, s = 0.0f;
        for (int64_t k = 0; k < chunks; k++) s += at[2 * k * C + i % (2 * C)];
        at[2 * chunks * C + i % (2 * C)] = s;
    }
}
/* The means of g and g h of a group, one each for its channels to read. */
__global__ void group_means_kernel(float *scratch, int64_t room, group_task t, int64_t B, int64_t chunks) {
    FOR_EACH(i, B * t.groups) {
        const int64_t b = i / t.groups, first = i % t.groups * t.width;
        float *sums = scratch + b * room + 2 * chunks * t.C, *means = sums + 2 * t.C;
        double g = 0, gh = 0;
        for (int64_t c = first; c < first + t.width; c++) {
            const double factor = (double)(t.m.plus + (t.m.factor ? t.m.factor[b * t.m.step_factor + c] : 0.0f));
            g += factor * (double)sums[c], gh += factor * (double)sums[t.C + c];
        }
        means[first] = (float)(g / ((double)t.S * (double)t.width)), means[t.C + first] = (float)(gh / ((double)t.S * (double)t.width));
    }
}
__global__ void group_backward_kernel(float *dx, const float *scratch, int64_t room, group_task t, int64_t chunks, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t b = i / (t.S * t.C), c = i % t.C, first = c / t.width * t.width;
        const float *means = scratch + b * room + (2 * chunks + 2) * t.C;
        const group_at a = group_number(t, b, c, t.x[i]);
        const float g = group_slope(t, t.dout[i], a.z) * a.factor;
        dx[i] += t.rstd[b * t.groups + c / t.width] * (g - means[first] - a.h * means[t.C + first]);
    }
}
/* to[b step + c] += sums of sample b, in order: all samples may share one row */
__global__ void group_to_kernel(float *to, int64_t step, const float *sums, int64_t room, int64_t B, int64_t C) {
    FOR_EACH(c, C)
        for (int64_t b = 0; b < B; b++) to[b * step + c] += sums[b * room + c];
}
static void group_norm_backward(float *dx, float *dfactor, float *dterm, const float *dout, const float *x, const float *mean,
                                const float *rstd, const wm_modulation *m, bool silu, float *scratch, int64_t B, int64_t S, int64_t C,
                                int64_t groups) {
    const int64_t room = group_norm_scratch(S, C), chunks = group_chunks(S);
    const group_task t = {dout, x, mean, rstd, *m, silu, S, C, C / groups, groups};
    EACH(group_chunk_kernel, B * chunks * C, scratch, room, t, B, chunks);
    EACH(group_sums_kernel, B * 2 * C, scratch, room, B, chunks, C);
    EACH(group_means_kernel, B * groups, scratch, room, t, B, chunks);
    if (dx) EACH(group_backward_kernel, B * S * C, dx, scratch, room, t, chunks, B * S * C);
    const float *sums = scratch + 2 * chunks * C;
    if (dterm) EACH(group_to_kernel, C, dterm, m->step_term, sums, room, B, C);
    if (dfactor) EACH(group_to_kernel, C, dfactor, m->step_factor, sums + C, room, B, C);
}

}  // namespace norm

void norm_table(wm_kernels *k) {
    using namespace norm;
    k->norm_forward = norm_forward, k->norm_backward = norm_backward;
    k->gate_forward = gate_forward, k->gate_backward = gate_backward;
    k->group_norm_scratch = group_norm_scratch;
    k->group_norm_forward = group_norm_forward, k->group_norm_backward = group_norm_backward;
}
}  // namespace wm_cuda

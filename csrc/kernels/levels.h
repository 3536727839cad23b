/* levels.h - what depends on a row's noise level alone: one formula for the processor (cpu/diffuse.c) and for CUDA
   (cuda/diffuse.cu), in what C and C++ have in common.  cpu/diffuse.c has the kinds of levels. */
#ifndef WM_LEVELS_H
#define WM_LEVELS_H
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#ifdef __CUDACC__
#define WM_LEVEL static __device__ inline
#else
#define WM_LEVEL static inline __attribute__((unused))
#endif

/* CUDA's own sin, cos, tan and pow of doubles would live in local memory (cuda/device.cuh, 5).  Angles here are in [0, pi/2). */
#if defined(__CUDACC__) || defined(WM_EMULATED)
WM_LEVEL double level_pow(double x, double a) { return x > 0 ? exp(a * log(x)) : 0; }
WM_LEVEL double level_sin(double x) {
    double z = x * x, s = 1;
    for (int k = 12; k > 0; k--) s = 1 - z / (double)(2 * k * (2 * k + 1)) * s;
    return x * s;
}
WM_LEVEL double level_cos(double x) {
    double z = x * x, c = 1;
    for (int k = 12; k > 0; k--) c = 1 - z / (double)((2 * k - 1) * 2 * k) * c;
    return c;
}
WM_LEVEL double level_tan(double x) { return level_sin(x) / level_cos(x); }
#else
#define level_pow pow
#define level_cos cos
#define level_tan tan
#endif

enum { NOISE_FLOW, NOISE_EDM, NOISE_DDPM };     /* kind */
enum { IS_X, IS_EPS, IS_V };                    /* what a network says */
enum { LEVEL_STEP = 6, LEVEL_HEUN = 4 };        /* coefficients a row */

#define LEVEL_LEAST 1e-5                        /* denominators stay above: 1 / (1 - tau) at tau = 1 */

typedef struct { double a, s; } level_parts;    /* signal, noise */
typedef struct { double of, y; } level_pair;    /* out = of * tensor + y * noisy */
WM_LEVEL level_parts level_of(double a, double s) { level_parts p = {a, s}; return p; }
WM_LEVEL level_pair pair_of(double of, double y) { level_pair p = {of, y}; return p; }

WM_LEVEL level_parts parts_of(int kind, double level) {
    if (kind == NOISE_FLOW) return level_of(level, 1 - level);
    if (kind == NOISE_EDM) return level_of(1, level);
    double abar = level < 0 ? 0 : level > 1 ? 1 : level;
    return level_of(sqrt(abar), sqrt(1 - abar));
}

WM_LEVEL double at_least(double x) { return x > LEVEL_LEAST ? x : LEVEL_LEAST; }

/* EDM preconditioning with offset noise (DIAMOND, Alonso et al., arXiv 2405.12399): s^2 = sigma^2 + offset^2 */
typedef struct { double in, skip, out, noise; } edm_parts;
WM_LEVEL edm_parts edm_of(double sigma, double data, double offset) {
    double s2 = sigma * sigma + offset * offset, all = s2 + data * data;
    edm_parts e = {1 / sqrt(all), data * data / all, sqrt(s2) * data / sqrt(all), log(at_least(sqrt(s2))) / 4};
    return e;
}

/* target = of * source + y * noisy */
WM_LEVEL level_pair convert_pair(int kind, int from, int to, double level, double data, double offset) {
    level_parts p = parts_of(kind, level);
    double a = p.a, s = p.s, over_a = 1 / at_least(a), over_s = 1 / at_least(s);
    if (from == to) return pair_of(1, 0);
    if (from == IS_X && to == IS_EPS) return pair_of(-a * over_s, over_s);
    if (from == IS_EPS && to == IS_X) return pair_of(-s * over_a, over_a);
    if (kind == NOISE_FLOW) {
        if (from == IS_X) return pair_of(over_s, -over_s);
        if (from == IS_EPS) return pair_of(-over_a, over_a);
        return to == IS_X ? pair_of(s, 1) : pair_of(-a, 1);
    }
    if (kind == NOISE_DDPM) {
        if (from == IS_X) return pair_of(-over_s, a * over_s);
        if (from == IS_EPS) return pair_of(over_a, -s * over_a);
        return to == IS_X ? pair_of(-s, a) : pair_of(a, s);
    }
    edm_parts e = edm_of(level, data, offset);
    double over_out = 1 / at_least(e.out);
    if (from == IS_X) return pair_of(over_out, -e.skip * over_out);
    if (from == IS_EPS) return pair_of(-s * over_out, (1 - e.skip) * over_out);
    return to == IS_X ? pair_of(e.out, e.skip) : pair_of(-e.out * over_s, (1 - e.skip) * over_s);
}

/* ---- coefficients of a row -------------------------------------------------------------------------- */

/* c: x^ = c0 pred + c1 y;  out = c2 x^ + c3 prev + c4 y + c5 n, from level A to B:
       n's weight  u = eta s_B sqrt(1 - q^2), q = s_B a_A / (a_B s_A);  d = sqrt(s_B^2 - u^2) / s_A
       out = (a_B - a_A d) x^ + d y + u n
   which is Euler (flow and EDM) and DDIM for eta = 0, DDIM(eta), and the ancestral Euler step for eta = 1.  With last (the
   level of the step before) and prev, the x^ there: DPM-Solver++(2M), Lu et al., arXiv 2211.01095: x^ + (x^ - prev) / (2 r),
   r = (l_A - l_last) / (l_B - l_A), l = ln(a / s).  A row whose level does not change, or is clean, is copied.
   as_size: next is how far to go (shortcut models), not where. */
WM_LEVEL void step_row(float *c, double level, double next, const float *last, int kind, int target, int as_size, double eta,
                       double data, double offset) {
    double to = as_size ? level + next : next;
    if (as_size && to > 1 - 1e-6) to = 1;
    level_parts A = parts_of(kind, level), B = parts_of(kind, to);
    level_pair p = convert_pair(kind, target, IS_X, level, data, offset);
    double q = B.s * A.a / (at_least(B.a) * at_least(A.s)), u = 0, d = 0, extra = 0;
    c[0] = (float)p.of, c[1] = (float)p.y;
    c[2] = 0, c[3] = 0, c[4] = 1, c[5] = 0;
    if (level == to || A.s <= 0) return;
    if (eta > 0 && q < 1) u = eta * B.s * sqrt(1 - q * q);
    if (u > B.s) u = B.s;
    d = sqrt(B.s * B.s - u * u) / A.s;
    if (last && B.s > 0 && A.a > 0) {
        level_parts Z = parts_of(kind, (double)*last);
        double h = log(B.a / B.s) - log(A.a / A.s), before = log(A.a / A.s) - log(Z.a / Z.s);
        if (h > 0 && before > 0) extra = h / (2 * before);
    }
    c[2] = (float)((B.a - A.a * d) * (1 + extra));
    c[3] = (float)(-(B.a - A.a * d) * extra);
    c[4] = (float)d;
    c[5] = (float)u;
}

/* c: out = c0 y + c1 pred + c2 y' + c3 pred', with y' = the Euler step and pred' said at (y', next).
   mode 0, Heun: y' - y is replaced by the mean of both slopes (flow: v; EDM: e; DDPM: e in y / a against s / a); a row that ends
   clean keeps y', where the slope is not defined.  mode 1, the shortcut bootstrap (Frans et al., arXiv 2410.12557): the target
   in x of a step from level to twice as far as next: y + (1 - tau) (v + v') / 2. */
WM_LEVEL void heun_row(float *c, double level, double next, int kind, int target, int mode, double data, double offset) {
    int slope = kind == NOISE_FLOW ? IS_V : IS_EPS;
    level_parts A = parts_of(kind, level), B = parts_of(kind, next);
    level_pair p = convert_pair(kind, target, slope, level, data, offset);
    level_pair q = convert_pair(kind, target, slope, next, data, offset);
    bool undefined = mode == 0 && (level == next || (B.s <= 0 && !(target == slope && kind == NOISE_FLOW)));
    double scale = 1, half = (1 - level) / 2;
    if (mode == 0) {
        scale = kind == NOISE_DDPM ? B.a / at_least(A.a) : 1;
        half = kind == NOISE_FLOW ? (B.a - A.a) / 2 : (B.s - (kind == NOISE_DDPM ? A.s * scale : A.s)) / 2;
    }
    c[0] = undefined ? 0 : (float)(scale + half * p.y);
    c[1] = undefined ? 0 : (float)(half * p.of);
    c[2] = undefined ? 1 : (float)(half * q.y);
    c[3] = undefined ? 0 : (float)(half * q.of);
}

/* ---- weights and schedules ------------------------------------------------------------------------------ */

enum { WEIGHT_RAMP, WEIGHT_INVERSE, WEIGHT_SQUARE, WEIGHT_EDM, WEIGHT_SIGMOID, WEIGHT_SNR };

/* min-SNR (Hang et al., arXiv 2303.09556): min(SNR, clip) for x, over SNR for eps, over SNR + 1 for v */
WM_LEVEL double snr_weight(double f, double r, int target) {
    return target == IS_X ? f : target == IS_V ? f / (r + 1) : r > 0 ? f / r : 1;
}

WM_LEVEL double snr_of(int kind, double level) {
    level_parts p = parts_of(kind, level);
    return p.s > 0 ? p.a * p.a / (p.s * p.s) : INFINITY;
}

/* One weight a level, with tau = a / (a + s):
   ramp 0.9 tau + 0.1;  inverse 1 / (1 - tau)^2;  square (1 - tau)^2;  edm 1 / c_out^2;  sigmoid 1 / (1 + SNR e^-value), for eps;
   snr min-SNR with clip = value. */
WM_LEVEL float level_weight(double level, int kind, int law, int target, double value, double data, double offset) {
    level_parts p = parts_of(kind, level);
    double tau = p.a / (p.a + p.s), snr = snr_of(kind, level), out = edm_of(level, data, offset).out;
    double choice = law == WEIGHT_RAMP      ? 0.9 * tau + 0.1
                    : law == WEIGHT_INVERSE ? 1 / (at_least(1 - tau) * at_least(1 - tau))
                    : law == WEIGHT_SQUARE  ? (1 - tau) * (1 - tau)
                    : law == WEIGHT_EDM     ? 1 / (at_least(out) * at_least(out))
                    : law == WEIGHT_SIGMOID ? 1 / (1 + snr * exp(-value))
                                            : snr_weight(snr < value ? snr : value, snr, target);
    return (float)choice;
}

/* Fused SNR (Diffusion Forcing, Chen et al., arXiv 2407.01392): what the frames before tell raises a frame's SNR.
   b = min(SNR, clip) / clip, a = SNR / clip; m_0 = b_0, m_t = g m_t-1 + (1 - g) b_t; M_0 = 0, M_t = m_t-1;
   F = clip (1 - (1 - g M)(1 - b)), R = clip (1 - (1 - g M)(1 - a)): x F, eps F / R, v F / (R + 1).  T levels. */
WM_LEVEL void fused_snr_row(float *w, const float *level, int kind, int target, double clip, double g, int64_t T) {
    double m = 0, M = 0;
    for (int64_t t = 0; t < T; t++) {
        double snr = snr_of(kind, (double)level[t]), a = snr / clip, b = (snr < clip ? snr : clip) / clip;
        double F = clip * (1 - (1 - g * M) * (1 - b)), raw = clip * (1 - (1 - g * M) * (1 - a));
        w[t] = (float)snr_weight(F, raw, target);
        m = t ? g * m + (1 - g) * b : b;
        M = m;
    }
}

enum { SCHEDULE_SIGMOID, SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_SHIFTED };

WM_LEVEL double logistic(double x) { return 1 / (1 + exp(-x)); }

/* Shifted cosine (Hoogeboom et al., simple diffusion, arXiv 2301.11093): l(t) = -2 ln tan(t0 + t (t1 - t0)) + 2 ln shift, where
   t0, t1 put l in [-15, 15] for shift 1; abar = 1 / (1 + e^-l). */
WM_LEVEL double shifted_cosine(double t, double shift) {
    double t0 = atan(exp(-7.5)), t1 = atan(exp(7.5)), l = -2 * log(level_tan(t0 + t * (t1 - t0))) + 2 * log(shift);
    return logistic(l > 15 ? 15 : l < -15 ? -15 : l);
}

/* abar(t), t in [0, 1] from clean to noise; step i of N is t = (i + 1) / N.  sigmoid from -3 to 3, normalised (Jabri et al.,
   arXiv 2212.11972); cosine with 0.008 (Nichol and Dhariwal, arXiv 2102.09672); linear: the product of 1 - beta over the first
   t steps of `steps`, beta from 0.1 / steps to 20 / steps (Ho et al., arXiv 2006.11239); shifted cosine. */
WM_LEVEL float alpha_bar_at(double t, int law, int64_t steps, double shift) {
    const double half_pi = 1.57079632679489661923;
    double x = t < 0 ? 0 : t > 1 ? 1 : t, a = 1;
    if (law == SCHEDULE_SIGMOID) a = (logistic(3) - logistic(6 * x - 3)) / (logistic(3) - logistic(-3));
    if (law == SCHEDULE_SHIFTED) a = shifted_cosine(x, shift);
    if (law == SCHEDULE_COSINE) {
        double c = level_cos((x + 0.008) / 1.008 * half_pi), c0 = level_cos(0.008 / 1.008 * half_pi);
        a = c * c / (c0 * c0);
    }
    if (law == SCHEDULE_LINEAR)
        for (int64_t k = 0; k < (int64_t)rint(x * (double)steps); k++)
            a *= 1 - (0.1 + 19.9 * (double)k / (double)(steps > 1 ? steps - 1 : 1)) / (double)steps;
    return (float)(a > 0 ? a : 0);
}

/* sigma_i = (high^1/rho + i / (n - 1) (low^1/rho - high^1/rho))^rho, i < n; sigma_n = 0 (Karras et al.) */
WM_LEVEL float karras_at(int64_t i, double low, double high, double rho, int64_t n) {
    double top = level_pow(high, 1 / rho), bottom = level_pow(low, 1 / rho);
    return i == n ? 0 : (float)level_pow(top + (n > 1 ? (double)i / (double)(n - 1) : 0) * (bottom - top), rho);
}
#endif

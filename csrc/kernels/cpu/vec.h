/* vec.h - a vector of WM_LANES floats in the compiler's portable vector type.  The including file chose WM_LANES
   and the instruction set; nothing below names one.  Polynomials after Cephes (S. Moshier); worst errors against
   float64, in units in the last place: exp 1.5, tanh 2, log 1.5 (tests/kernels/test_vec.py). */
#include <math.h>
#include <string.h>

typedef float vec __attribute__((vector_size(4 * WM_LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * WM_LANES)));
typedef float uvec __attribute__((vector_size(4 * WM_LANES), aligned(4), may_alias));   /* the same, at any address */
typedef int32_t uivec __attribute__((vector_size(4 * WM_LANES), aligned(4), may_alias));
#define UNROLL _Pragma("GCC unroll 32")

static inline vec vec_load(const float *p) { return *(const uvec *)p; }
static inline void vec_store(float *p, vec v) { *(uvec *)p = v; }
static inline vec vec_set(float s) { return s - (vec){0}; }   /* s - 0 is s, which the compiler knows; 0 + s is not if s is -0 */

/* The first n < WM_LANES numbers; the rest are 0, and nothing behind them is touched. */
static inline vec vec_load_part(const float *p, int64_t n) {
    float lane[WM_LANES] = {0};
    for (int64_t i = 0; i < n; i++) lane[i] = p[i];
    return vec_load(lane);
}
static inline void vec_store_part(float *p, vec v, int64_t n) {
    float lane[WM_LANES];
    vec_store(lane, v);
    for (int64_t i = 0; i < n; i++) p[i] = lane[i];
}

/* mask lanes are all ones or all zeros, as comparisons make them. */
static inline vec vec_select(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }
static inline vec vec_max(vec a, vec b) { return vec_select(a > b, a, b); }
static inline vec vec_min(vec a, vec b) { return vec_select(a < b, a, b); }
static inline vec vec_abs(vec a) { return (vec)((ivec)a & 0x7fffffff); }
static inline vec vec_sqrt(vec a) {
    UNROLL for (int i = 0; i < WM_LANES; i++) a[i] = sqrtf(a[i]);
    return a;
}

/* Sums and maxima over the lanes, always in the same order: halves, quarters, ... */
static inline float vec_sum(vec v) {
    float lane[WM_LANES];
    vec_store(lane, v);
    UNROLL for (int half = WM_LANES / 2; half; half /= 2)
        UNROLL for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}
static inline float vec_top(vec v) {
    float lane[WM_LANES];
    vec_store(lane, v);
    UNROLL for (int half = WM_LANES / 2; half; half /= 2)
        UNROLL for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

/* e^x: x = n ln2 + r, |r| <= ln2/2; a polynomial in r; 2^n in two factors, so that 0 and inf are reached.  NaN stays NaN. */
static inline vec vec_exp(vec x) {
    const vec top = vec_set(89.0f), bottom = vec_set(-104.0f), magic = vec_set(12582912.0f);
    vec c = vec_select(x > top, top, vec_select(x < bottom, bottom, x));
    vec n = (c * 1.44269504088896341f + magic) - magic;
    vec r = c - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = vec_set(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    ivec k = __builtin_convertvector(n, ivec), k1 = k >> 1, k2 = k - k1;
    return p * (vec)((k1 + 127) << 23) * (vec)((k2 + 127) << 23);
}

static inline vec vec_sigmoid(vec x) { return 1.0f / (1.0f + vec_exp(-x)); }

/* tanh: an odd polynomial near 0, where 1 - 2/(e^2x + 1) would cancel. */
static inline vec vec_tanh(vec x) {
    vec a = vec_abs(x), z = x * x;
    vec p = vec_set(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    p = p * z * x + x;
    vec far = 1.0f - 2.0f / (vec_exp(a + a) + 1.0f);
    far = (vec)((ivec)far | ((ivec)x & (int32_t)0x80000000));
    return vec_select(a < 0.625f, p, far);
}

/* ln x: x = m 2^e with m in [sqrt(1/2), sqrt 2).  ln 0 = -inf, ln of a negative is NaN; subnormals count as 0. */
static inline vec vec_log(vec x) {
    ivec bits = (ivec)x, e = ((bits >> 23) & 255) - 126;
    vec m = (vec)((bits & 0x007fffff) | 0x3f000000);          /* [1/2, 1) */
    ivec low = m < 0.707106781186547524f;
    e += low;                                                  /* a true lane is -1 */
    m = m - 1.0f + vec_select(low, m, (vec){0});
    vec z = m * m, f = __builtin_convertvector(e, vec);
    vec p = vec_set(7.0376836292e-2f);
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z + f * -2.12194440e-4f - 0.5f * z;
    vec out = m + p + f * 0.693359375f;
    out = vec_select(x < 1.17549435e-38f, vec_set(-INFINITY), out);
    out = vec_select(x < 0.0f, vec_set(NAN), out);
    return vec_select((x == INFINITY) | (x != x), x, out);
}

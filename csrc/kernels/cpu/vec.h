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
#if WM_LANES == 16
#define FOLD_8(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define FOLD_4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define FOLD_2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#elif WM_LANES == 8
#define FOLD_4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3)
#define FOLD_2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5)
#else
#define FOLD_2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1)
#endif
static inline float vec_sum(vec v) {
#if WM_LANES == 16
    v += FOLD_8(v);
#endif
#if WM_LANES >= 8
    v += FOLD_4(v);
#endif
    v += FOLD_2(v);
    return v[0] + v[1];
}
static inline float vec_top(vec v) {
    float lane[WM_LANES];
    vec_store(lane, v);
    UNROLL for (int half = WM_LANES / 2; half; half /= 2)
        UNROLL for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

/* ---- bf16: the upper half of a float; to nearest even, NaN stays NaN ---- */

static inline uint16_t bf16_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static inline float float_of(uint16_t b) {
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
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

/* 1 / (1 + e^-x), with the n, r and polynomial of vec_exp.  Beyond e^+-88 nothing is left to see, so one factor 2^n is
   enough: its bits are those of n + magic, shifted to the exponent; at n = 128 they are infinity, and the result 0. */
static inline vec vec_sigmoid(vec x) {
    const vec top = vec_set(89.0f), bottom = vec_set(-87.0f), magic = vec_set(12582912.0f);
    vec c = vec_select(-x > top, top, vec_select(-x < bottom, bottom, -x));
    vec shifted = c * 1.44269504088896341f + magic, n = shifted - magic;
    vec r = c - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = vec_set(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    typedef uint32_t bits __attribute__((vector_size(4 * WM_LANES)));
    return 1.0f / (1.0f + p * (vec)(((bits)shifted << 23) + 0x3f800000u));
}

/* tanh: an odd polynomial (fitted, error 5e-9) up to 1; beyond, 1 - 2/(e^2x + 1), which would cancel near 0. */
static inline vec vec_tanh(vec x) {
    vec a = vec_abs(x), z = x * x;
    vec p = vec_set(-3.588445252e-4f);
    p = p * z + 2.302797511e-3f;
    p = p * z + -7.948177867e-3f;
    p = p * z + 2.148815803e-2f;
    p = p * z + -5.388036743e-2f;
    p = p * z + 1.333235502e-1f;
    p = p * z + -3.333329558e-1f;
    p = p * z * x + x;
    vec far = 1.0f - 2.0f / (vec_exp(a + a) + 1.0f);
    far = (vec)((ivec)far | ((ivec)x & (int32_t)0x80000000));
    return vec_select(a < 1.0f, p, far);
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

/* erf: x + x P(x^2) near 0; beyond, 1 - exp(-t (1 + Q(t))) with t = |x|, both fitted by weighted least squares (Lawson).
   erfc(t) = exp(-t (1 + Q(t))) needs no subtraction, so the normal tail keeps its relative accuracy. */
static inline vec vec_erf_near(vec x) {
    vec z = x * x, p = vec_set(-5.999404239e-4f);
    p = p * z + 4.994830117e-3f;
    p = p * z + -2.676771954e-2f;
    p = p * z + 1.128184572e-1f;
    p = p * z + -3.761249781e-1f;
    p = p * z + 1.283791512e-1f;
    return p * x + x;
}
static inline vec vec_erfc_far(vec t) {
    vec c = vec_select(t > 4.0f, vec_set(4.0f), t), q = vec_set(1.123147013e-5f);      /* fitted up to 4; beyond, on to 0 */
    q = q * c + -3.228054265e-4f;
    q = q * c + 3.642465221e-3f;
    q = q * c + -2.376207523e-2f;
    q = q * c + 1.062368900e-1f;
    q = q * c + 6.351513267e-1f;
    q = q * c + 1.286484897e-1f;
    return vec_exp(-(q * t + t));
}
static inline vec vec_sign_of(vec magnitude, vec x) {
    return (vec)(((ivec)magnitude & 0x7fffffff) | ((ivec)x & (int32_t)0x80000000));
}
static inline vec vec_erf(vec x) {
    vec t = vec_abs(x);
    return vec_select(t < 0.92f, vec_erf_near(x), vec_sign_of(1.0f - vec_erfc_far(t), x));
}

/* The normal distribution function, (1 + erf(x / sqrt 2)) / 2, without cancellation on the left. */
static inline vec vec_normal_cdf(vec x) {
    vec u = x * 0.707106781186547524f, t = vec_abs(u), far = 0.5f * vec_erfc_far(t);
    far = vec_select(u < 0.0f, far, 1.0f - far);
    return vec_select(t < 0.92f, 0.5f + 0.5f * vec_erf_near(u), far);
}

/* ln(1 + x): what 1 + x rounds away comes back as a first-order correction. */
static inline vec vec_log1p(vec x) {
    vec u = 1.0f + x, lost = x - (u - 1.0f);
    vec out = vec_log(u) + vec_select(lost == 0.0f, lost, lost / u);
    return vec_select((u == INFINITY) | (u == 0.0f), vec_log(u), out);
}

/* e^x - 1 = 2^n (e^r - 1) + (2^n - 1), with the n, r and polynomial of vec_exp. */
static inline vec vec_expm1(vec x) {
    const vec magic = vec_set(12582912.0f);
    ivec small = vec_abs(x) < 17.0f;
    vec n = (vec_select(small, x, (vec){0}) * 1.44269504088896341f + magic) - magic;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = vec_set(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r;
    vec scale = (vec)((__builtin_convertvector(n, ivec) + 127) << 23);
    return vec_select(small, p * scale + (scale - 1.0f), vec_exp(x) - 1.0f);
}

/* sin and cos: x = n pi/2 + r, |r| <= pi/4, pi/2 in three parts (Cephes).  Beyond 8192 the C library takes over. */
typedef struct { vec sin, cos; } vec_angle;
static inline vec_angle vec_sincos(vec x) {
    const vec magic = vec_set(12582912.0f);
    vec n = (x * 0.636619772367581343f + magic) - magic;
    vec r = x - n * 1.5703125f;
    r = r - n * 4.837512969970703125e-4f;
    r = r - n * 7.54978995489188216e-8f;
    vec z = r * r;
    vec s = vec_set(-1.9515295891e-4f), c = vec_set(2.443315711809948e-5f);
    s = s * z + 8.3321608736e-3f;
    s = s * z + -1.6666654611e-1f;
    s = s * z * r + r;
    c = c * z + -1.388731625493765e-3f;
    c = c * z + 4.166664568298827e-2f;
    c = (c * z - 0.5f) * z + 1.0f;
    ivec q = __builtin_convertvector(vec_select(vec_abs(x) < 8192.0f, n, (vec){0}), ivec);
    ivec odd = -(q & 1);
    vec_angle out = {(vec)((ivec)vec_select(odd, c, s) ^ ((q & 2) << 30)),
                     (vec)((ivec)vec_select(odd, s, c) ^ (((q + 1) & 2) << 30))};
    if (vec_top(vec_abs(x)) < 8192.0f) return out;
    for (int i = 0; i < WM_LANES; i++)
        if (!(fabsf(x[i]) < 8192.0f)) out.sin[i] = sinf(x[i]), out.cos[i] = cosf(x[i]);
    return out;
}
static inline vec vec_sin(vec x) { return vec_sincos(x).sin; }
static inline vec vec_cos(vec x) { return vec_sincos(x).cos; }

/* x^a, one a for all lanes: small whole powers by multiplication, the rest by the C library. */
static inline vec vec_pow(vec x, float a) {
    if (a == 2.0f) return x * x;
    if (a == 3.0f) return x * x * x;
    if (a == 4.0f) return (x * x) * (x * x);
    if (a == 1.0f) return x;
    if (a == 0.0f) return vec_set(1.0f);
    if (a == -1.0f) return 1.0f / x;
    if (a == 0.5f) return vec_sqrt(x);
    for (int i = 0; i < WM_LANES; i++) x[i] = powf(x[i], a);
    return x;
}

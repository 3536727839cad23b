/* random: counter-based numbers (base/random.h).  S streams; stream s fills the s-th of S equal parts of a tensor, number j
   of the part from number j of the stream.  A chunk of a stream is the unit of work: no result depends on the threads. */
#include "../../base/random.h"

enum { RANDOM_CHUNK = 1024 };   /* numbers; a multiple of 4 WM_LANES */

static int64_t random_chunks(int64_t n) { return (n + RANDOM_CHUNK - 1) / RANDOM_CHUNK; }

/* ---- Philox on WM_LANES counters at once --------------------------------------------------------- */

static inline void mul_wide(wvec *high, wvec *low, wvec a, uint32_t m) {
    const uint64_t lower = 0xffffffffu;
    dvec by = (dvec){0} + m, even = vec_mul_even((dvec)a, by), odd = vec_mul_even((dvec)a >> 32, by);
    *high = (wvec)((even >> 32) | (odd & ~lower));
    *low = (wvec)((even & lower) | (odd << 32));
}

/* The four words of blocks first, first + 1, ... of a stream, one block a lane. */
static inline void philox_lanes(wvec x[4], const int32_t *stream, uint32_t salt, int64_t first) {
    uint32_t k0 = (uint32_t)stream[0], k1 = (uint32_t)stream[1];
    wvec block = (wvec){0} + (uint32_t)first;
    UNROLL for (int i = 0; i < WM_LANES; i++) block[i] += (uint32_t)i;
    x[0] = block;
    x[1] = (wvec){0} + salt;
    x[2] = (wvec){0} + (uint32_t)stream[2];
    x[3] = (wvec){0} + (uint32_t)stream[3];
    for (int round = 0; round < 10; round++) {
        wvec h0, l0, h1, l1;
        mul_wide(&h0, &l0, x[0], 0xD2511F53u);
        mul_wide(&h1, &l1, x[2], 0xCD9E8D57u);
        x[0] = h1 ^ x[1] ^ k0;
        x[1] = l1;
        x[2] = h0 ^ x[3] ^ k1;
        x[3] = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* Word w of lane l is number 4 l + w. */
static inline void store_numbers(float *out, const vec v[4]) {
    float lane[4][WM_LANES];
    for (int w = 0; w < 4; w++) vec_store(lane[w], v[w]);
    for (int l = 0; l < WM_LANES; l++)
        for (int w = 0; w < 4; w++) out[4 * l + w] = lane[w][l];
}

/* ---- a chunk of uniforms, normals, bits: numbers first ... first + n - 1; out has room for RANDOM_CHUNK ---- */

static void fill_uniform(float *out, const int32_t *stream, uint32_t salt, int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; i += 4 * WM_LANES) {
        wvec x[4];
        vec v[4];
        philox_lanes(x, stream, salt, (first + i) / 4);
        for (int w = 0; w < 4; w++) v[w] = __builtin_convertvector((ivec)(x[w] >> 8), vec) * 0x1p-24f;
        store_numbers(out + i, v);
    }
}

static void fill_bits(uint32_t *out, const int32_t *stream, uint32_t salt, int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; i += 4 * WM_LANES) {
        wvec x[4];
        vec v[4];
        philox_lanes(x, stream, salt, (first + i) / 4);
        float raw[4 * WM_LANES];
        for (int w = 0; w < 4; w++) v[w] = (vec)x[w];
        store_numbers(raw, v);
        memcpy(out + i, raw, sizeof raw);
    }
}

/* Two normals from two words (Box and Muller): radius sqrt(-2 ln u), u = (a >> 8 + 1) 2^-24 in (0, 1]; angle q pi/2 + t,
   q the top two bits of b and t in [-pi/4, pi/4) its other thirty. */
static inline void box_muller(vec *first, vec *second, wvec a, wvec b) {
    vec u = (__builtin_convertvector((ivec)(a >> 8), vec) + 1.0f) * 0x1p-24f;
    vec radius = vec_sqrt(-2.0f * vec_log(u));
    vec t = __builtin_convertvector((ivec)(b << 2), vec) * (0.785398163397448310f * 0x1p-31f), z = t * t;
    ivec q = (ivec)(b >> 30), swap = -(q & 1);
    vec sine = vec_set(-1.9515295891e-4f);
    sine = sine * z + 8.3321608736e-3f;
    sine = sine * z - 1.6666654611e-1f;
    sine = sine * z * t + t;
    vec cosine = vec_set(2.443315711809948e-5f);
    cosine = cosine * z - 1.388731625493765e-3f;
    cosine = cosine * z + 4.166664568298827e-2f;
    cosine = cosine * (z * z) - 0.5f * z + 1.0f;
    vec c = vec_select(swap, sine, cosine), s = vec_select(swap, cosine, sine);
    c = (vec)((ivec)c ^ (((q + 1) & 2) << 30));
    s = (vec)((ivec)s ^ ((q & 2) << 30));
    *first = radius * c;
    *second = radius * s;
}

static void fill_normal(float *out, const int32_t *stream, uint32_t salt, int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; i += 4 * WM_LANES) {
        wvec x[4];
        vec v[4];
        philox_lanes(x, stream, salt, (first + i) / 4);
        box_muller(&v[0], &v[1], x[0], x[1]);
        box_muller(&v[2], &v[3], x[2], x[3]);
        store_numbers(out + i, v);
    }
}

/* ---- kernels: plain draws ------------------------------------------------------------------------- */

/* out = low + (high - low) u */
static void uniform(float *out, const int32_t *stream, float low, float high, uint32_t salt, int64_t S, int64_t n) {
    int64_t chunks = random_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 13)
    for (int64_t c = 0; c < S * chunks; c++) {
        int64_t s = c / chunks, first = c % chunks * RANDOM_CHUNK, part = n - first < RANDOM_CHUNK ? n - first : RANDOM_CHUNK;
        float u[RANDOM_CHUNK];
        fill_uniform(u, stream + WM_STREAM * s, salt, first, part);
        for (int64_t i = 0; i < part; i++) out[s * n + first + i] = low + (high - low) * u[i];
    }
}

/* out = mean + std e */
static void normal(float *out, const int32_t *stream, float mean, float std, uint32_t salt, int64_t S, int64_t n) {
    int64_t chunks = random_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 13)
    for (int64_t c = 0; c < S * chunks; c++) {
        int64_t s = c / chunks, first = c % chunks * RANDOM_CHUNK, part = n - first < RANDOM_CHUNK ? n - first : RANDOM_CHUNK;
        float e[RANDOM_CHUNK];
        fill_normal(e, stream + WM_STREAM * s, salt, first, part);
        for (int64_t i = 0; i < part; i++) out[s * n + first + i] = mean + std * e[i];
    }
}

/* out = low + floor(bits range / 2^32), range = high - low */
static void integers(int32_t *out, const int32_t *stream, int64_t low, int64_t high, uint32_t salt, int64_t S, int64_t n) {
    int64_t chunks = random_chunks(n);
    uint64_t range = (uint64_t)(high - low);
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 13)
    for (int64_t c = 0; c < S * chunks; c++) {
        int64_t s = c / chunks, first = c % chunks * RANDOM_CHUNK, part = n - first < RANDOM_CHUNK ? n - first : RANDOM_CHUNK;
        uint32_t bits[RANDOM_CHUNK];
        fill_bits(bits, stream + WM_STREAM * s, salt, first, part);
        for (int64_t i = 0; i < part; i++) out[s * n + first + i] = (int32_t)(low + (int64_t)(bits[i] * range >> 32));
    }
}

/* out = 1 where u < p, else 0 */
static void bernoulli(float *out, const float *p, const int32_t *stream, uint32_t salt, int64_t S, int64_t n) {
    int64_t chunks = random_chunks(n);
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 13)
    for (int64_t c = 0; c < S * chunks; c++) {
        int64_t s = c / chunks, first = c % chunks * RANDOM_CHUNK, part = n - first < RANDOM_CHUNK ? n - first : RANDOM_CHUNK;
        float u[RANDOM_CHUNK];
        fill_uniform(u, stream + WM_STREAM * s, salt, first, part);
        for (int64_t i = 0; i < part; i++) out[s * n + first + i] = u[i] < p[s * n + first + i] ? 1.0f : 0.0f;
    }
}

/* keep = u >= p; out = x keep / (1 - p) */
static void dropout_forward(float *out, uint8_t *keep, const float *x, const int32_t *stream, float p, uint32_t salt, int64_t S,
                            int64_t n) {
    int64_t chunks = random_chunks(n);
    float scale = p < 1.0f ? 1.0f / (1.0f - p) : 0.0f;
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 13)
    for (int64_t c = 0; c < S * chunks; c++) {
        int64_t s = c / chunks, first = c % chunks * RANDOM_CHUNK, part = n - first < RANDOM_CHUNK ? n - first : RANDOM_CHUNK;
        int64_t at = s * n + first;
        float u[RANDOM_CHUNK];
        fill_uniform(u, stream + WM_STREAM * s, salt, first, part);
        for (int64_t i = 0; i < part; i++) {
            keep[at + i] = u[i] >= p;
            out[at + i] = u[i] >= p ? x[at + i] * scale : 0.0f;
        }
    }
}

static void dropout_backward(float *dx, const float *dout, const uint8_t *keep, float p, int64_t n) {
    float scale = p < 1.0f ? 1.0f / (1.0f - p) : 0.0f;
    #pragma omp parallel for num_threads(wm_threads) if (n > 1 << 15)
    for (int64_t i = 0; i < n; i++) dx[i] += keep[i] ? dout[i] * scale : 0.0f;
}

/* step += by, the last number of each row */
static void stream_advance(int32_t *stream, int64_t by, int64_t S) {
    for (int64_t s = 0; s < S; s++) stream[WM_STREAM * s + 3] = (int32_t)((uint32_t)stream[WM_STREAM * s + 3] + (uint32_t)by);
}

/* ---- kernels: draws from a distribution that a network wrote -------------------------------------- */

static inline vec load_up_to(const float *p, int64_t n) { return n >= WM_LANES ? vec_load(p) : vec_load_part(p, n); }
static inline void store_up_to(float *p, vec v, int64_t n) {
    if (n >= WM_LANES) vec_store(p, v);
    else vec_store_part(p, v, n);
}
static inline int64_t at_most_lanes(int64_t n) { return n < WM_LANES ? n : WM_LANES; }

/* p = e^(x - max x) over C classes; the sum of p. */
static float exp_weights(float *p, const float *x, int64_t C) {
    float top = x[0], sum = 0;
    for (int64_t i = 1; i < C; i++) top = x[i] > top ? x[i] : top;
    for (int64_t i = 0; i < C; i += WM_LANES) store_up_to(p + i, vec_exp(load_up_to(x + i, C - i) - top), C - i);
    for (int64_t i = 0; i < C; i++) sum += p[i];
    return sum;
}

/* The first class at which the running sum of p passes u times its total; never one of weight 0. */
static int64_t inverse_cdf(const float *p, float u, int64_t C) {
    float total = 0, sum = 0;
    for (int64_t i = 0; i < C; i++) total += p[i];
    int64_t last = 0;
    for (int64_t i = 0; i < C; i++) {
        if (p[i] > 0) last = i;
        sum += p[i];
        if (sum > u * total && p[i] > 0) return i;
    }
    return last;
}

/* out (S R) = one class drawn from softmax(logits (S R, C)): row r of a stream takes its number r.  weights (S R, C): scratch. */
static void categorical(int32_t *out, float *weights, const float *logits, const int32_t *stream, uint32_t salt, int64_t S,
                        int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (S * R * (C + 16) > 1 << 13)
    for (int64_t row = 0; row < S * R; row++) {
        float *p = weights + row * C;
        exp_weights(p, logits + row * C, C);
        out[row] = (int32_t)inverse_cdf(p, wm_random_uniform(stream + WM_STREAM * (row / R), salt, row % R), C);
    }
}

/* p = softmax(logits); out = one-hot draw from (1 - mix) p + mix / C */
static void onehot_forward(float *out, float *p, const float *logits, const int32_t *stream, float mix, uint32_t salt, int64_t S,
                           int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (S * R * (C + 16) > 1 << 13)
    for (int64_t row = 0; row < S * R; row++) {
        float *o = out + row * C, *q = p + row * C, scale = 1.0f / exp_weights(q, logits + row * C, C);
        for (int64_t i = 0; i < C; i++) {
            q[i] *= scale;
            o[i] = (1.0f - mix) * q[i] + mix / (float)C;
        }
        int64_t chosen = inverse_cdf(o, wm_random_uniform(stream + WM_STREAM * (row / R), salt, row % R), C);
        for (int64_t i = 0; i < C; i++) o[i] = i == chosen ? 1.0f : 0.0f;
    }
}

/* Straight through: d out / d probabilities is taken as 1.  dlogits += (1 - mix) p (dout - sum(p dout)) */
static void onehot_backward(float *dlogits, const float *dout, const float *p, float mix, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > 1 << 14)
    for (int64_t row = 0; row < R; row++) {
        const float *g = dout + row * C, *q = p + row * C;
        float dot = 0;
        for (int64_t i = 0; i < C; i++) dot += q[i] * g[i];
        for (int64_t i = 0; i < C; i++) dlogits[row * C + i] += (1.0f - mix) * q[i] * (g[i] - dot);
    }
}

/* out = mean + e^log_std e; e is kept */
static void gaussian_forward(float *out, float *e, const float *mean, const float *log_std, const int32_t *stream, uint32_t salt,
                             int64_t S, int64_t n) {
    normal(e, stream, 0, 1, salt, S, n);
    #pragma omp parallel for num_threads(wm_threads) if (S * n > 1 << 14)
    for (int64_t i = 0; i < S * n; i += WM_LANES) {
        int64_t left = S * n - i;
        vec std = vec_exp(load_up_to(log_std + i, left));
        store_up_to(out + i, load_up_to(mean + i, left) + std * load_up_to(e + i, left), left);
    }
}

/* dmean += dout; dlog_std += dout e^log_std e */
static void gaussian_backward(float *dmean, float *dlog_std, const float *dout, const float *e, const float *log_std, int64_t n) {
    if (dmean)
        for (int64_t i = 0; i < n; i++) dmean[i] += dout[i];
    if (!dlog_std) return;
    for (int64_t i = 0; i < n; i += WM_LANES) {
        int64_t left = n - i;
        vec d = load_up_to(dout + i, left) * vec_exp(load_up_to(log_std + i, left)) * load_up_to(e + i, left);
        store_up_to(dlog_std + i, load_up_to(dlog_std + i, left) + d, left);
    }
}

/* ln(1 + e^x) without overflow; below -16 the plain e^x */
static inline vec soft_plus(vec x) {
    vec e = vec_exp(-vec_abs(x));
    vec l = vec_select(e < 1e-3f, e - 0.5f * e * e, vec_log(1.0f + e));
    return vec_max(x, (vec){0}) + l;
}

/* a = tanh(mean + e^log_std e), (S R, C); log_prob (S R) = sum over C of -e^2/2 - log_std - ln(2 pi)/2 - ln(1 - a^2),
   the last as 2 (ln 2 - u - softplus(-2 u)), which does not cancel */
static void tanh_gaussian_forward(float *a, float *log_prob, float *e, const float *mean, const float *log_std,
                                  const int32_t *stream, uint32_t salt, int64_t S, int64_t R, int64_t C) {
    normal(e, stream, 0, 1, salt, S, R * C);
    #pragma omp parallel for num_threads(wm_threads) if (S * R * C > 1 << 12)
    for (int64_t row = 0; row < S * R; row++) {
        vec sum = {0};
        for (int64_t i = row * C; i < (row + 1) * C; i += WM_LANES) {
            int64_t left = (row + 1) * C - i, part = at_most_lanes(left);
            vec s = load_up_to(log_std + i, left), z = load_up_to(e + i, left);
            vec u = load_up_to(mean + i, left) + vec_exp(s) * z;
            store_up_to(a + i, vec_tanh(u), left);
            vec l = -0.5f * z * z - s - 0.918938533204672742f - 2.0f * (0.693147180559945309f - u - soft_plus(-2.0f * u));
            float lane[WM_LANES] = {0};
            vec_store_part(lane, l, part);
            sum += vec_load(lane);
        }
        log_prob[row] = vec_sum(sum);
    }
}

/* du = da (1 - a^2) + 2 a dlog_prob;  dmean += du;  dlog_std += du e^log_std e - dlog_prob */
static void tanh_gaussian_backward(float *dmean, float *dlog_std, const float *da, const float *dlog_prob, const float *a,
                                   const float *e, const float *log_std, int64_t R, int64_t C) {
    #pragma omp parallel for num_threads(wm_threads) if (R * C > 1 << 12)
    for (int64_t row = 0; row < R; row++) {
        float dl = dlog_prob ? dlog_prob[row] : 0.0f;
        for (int64_t i = row * C; i < (row + 1) * C; i += WM_LANES) {
            int64_t left = (row + 1) * C - i;
            vec t = load_up_to(a + i, left), g = da ? load_up_to(da + i, left) : (vec){0};
            vec du = g * (1.0f - t * t) + 2.0f * t * dl;
            if (dmean) store_up_to(dmean + i, load_up_to(dmean + i, left) + du, left);
            if (!dlog_std) continue;
            vec d = du * vec_exp(load_up_to(log_std + i, left)) * load_up_to(e + i, left) - dl;
            store_up_to(dlog_std + i, load_up_to(dlog_std + i, left) + d, left);
        }
    }
}

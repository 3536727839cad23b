/* pointwise: the functions of pointwise.def over arrays.  A function's value and slope become two inline functions
   of vectors; map_... walks the numbers in vectors, the rest of an array as a vector filled with zeros. */
#include <stdbool.h>

enum {
    POINT_PIECE = 1 << 12,      /* numbers that one turn of a parallel loop takes */
    POINT_GRAIN = 1 << 15,      /* fewer numbers than this are not worth a second thread */
};

/* ---- words of pointwise.def that only it needs ---- */

/* How much of its gradient a keeps in max(a, b). */
static inline vec vec_share(vec a, vec b) {
    return vec_select(a > b, vec_set(1.0f), vec_select(a == b, vec_set(0.5f), vec_set(0.0f)));
}
static inline vec vec_silu_slope(vec x) {
    vec s = vec_sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
/* tanh(softplus(x)) = w / (w + 2), w = e (e + 2), e = e^x. */
static inline vec vec_mish_gate(vec x) {
    vec e = vec_exp(vec_min(x, vec_set(20.0f))), w = e * (e + 2.0f);
    return w / (w + 2.0f);
}
static inline vec vec_mish_slope(vec x) {
    vec gate = vec_mish_gate(x);
    return gate + x * (1.0f - gate * gate) * vec_sigmoid(x);
}
static inline vec vec_gelu_u(vec x) { return 1.59576912160573071f * (x + 0.044715f * x * x * x); }
static inline vec vec_gelu_tanh_slope(vec x) {
    vec s = vec_sigmoid(vec_gelu_u(x));
    return s + x * s * (1.0f - s) * 1.59576912160573071f * (1.0f + 0.134145f * x * x);
}

/* ---- one input ---- */

typedef vec value_of(vec x, vec a, vec b);
typedef vec slope_of(vec x, vec y, vec g, vec a, vec b);
#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE void map_value(float *out, const float *x, float a, float b, int64_t n, value_of f) {
    const vec va = vec_set(a), vb = vec_set(b);
    int64_t i = 0;
    for (; i + WM_LANES <= n; i += WM_LANES) vec_store(out + i, f(vec_load(x + i), va, vb));
    if (i < n) vec_store_part(out + i, f(vec_load_part(x + i, n - i), va, vb), n - i);
}

ALWAYS_INLINE void map_slope(float *dx, const float *dout, const float *x, const float *out, float a, float b, int64_t n,
                             slope_of f) {
    const vec va = vec_set(a), vb = vec_set(b);
    int64_t i = 0;
    for (; i + WM_LANES <= n; i += WM_LANES)
        vec_store(dx + i, vec_load(dx + i) + f(vec_load(x + i), vec_load(out + i), vec_load(dout + i), va, vb));
    if (i == n) return;
    const int64_t part = n - i;
    vec d = f(vec_load_part(x + i, part), vec_load_part(out + i, part), vec_load_part(dout + i, part), va, vb);
    vec_store_part(dx + i, vec_load_part(dx + i, part) + d, part);
}

static inline int64_t piece_size(int64_t at, int64_t n) { return n - at < POINT_PIECE ? n - at : POINT_PIECE; }

/* pow takes its exponent as a number: one test a vector, not one a lane. */
#define vec_pow(x, a) vec_pow(x, (a)[0])
#define WM_UNARY(name, spec, doc, value, slope)                                                                        \
    static inline vec name##_value(vec x, vec a, vec b) { (void)a, (void)b; return value; }                            \
    static inline vec name##_slope(vec x, vec y, vec g, vec a, vec b) {                                                \
        (void)x, (void)y, (void)g, (void)a, (void)b;                                                                          \
        return slope;                                                                                                  \
    }                                                                                                                  \
    static void name##_forward(float *out, const float *x, float a, float b, int64_t n) {                              \
        _Pragma("omp parallel for num_threads(wm_threads) if (n > POINT_GRAIN)")                                       \
        for (int64_t i = 0; i < n; i += POINT_PIECE) map_value(out + i, x + i, a, b, piece_size(i, n), name##_value);  \
    }                                                                                                                  \
    static void name##_backward(float *dx, const float *dout, const float *x, const float *out, float a, float b,      \
                                int64_t n) {                                                                           \
        _Pragma("omp parallel for num_threads(wm_threads) if (n > POINT_GRAIN)")                                       \
        for (int64_t i = 0; i < n; i += POINT_PIECE)                                                                   \
            map_slope(dx + i, dout + i, x + i, out + i, a, b, piece_size(i, n), name##_slope);                         \
    }
#include "../pointwise.def"
#undef WM_UNARY
#undef vec_pow

/* ---- inputs that broadcast ----
   The op merges axes until few are left; out is contiguous over shape[ndim], a stride of 0 repeats a number, and along
   the last axis strides are 0 or 1. */

static inline int64_t numbers_in(const int64_t *shape, int ndim) {
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) n *= shape[d];
    return n;
}

/* Walks all axes but the last: where its row begins, and at which indices. */
typedef struct { int64_t at, index[WM_DIMS]; } odometer;

static inline odometer odometer_at(int64_t row, const int64_t *shape, const int64_t *stride, int ndim) {
    odometer o = {0};
    for (int d = ndim - 2; d >= 0; row /= shape[d--]) {
        o.index[d] = row % shape[d];
        o.at += o.index[d] * stride[d];
    }
    return o;
}
static inline void odometer_step(odometer *o, const int64_t *shape, const int64_t *stride, int ndim) {
    for (int d = ndim - 2; d >= 0; d--) {
        o->at += stride[d];
        if (++o->index[d] < shape[d]) return;
        o->at -= shape[d] * stride[d], o->index[d] = 0;
    }
}

/* What one turn of a parallel loop takes: part of a row, or several rows where they are short. */
typedef struct { int64_t row, rows, column, n, out; } turn;
enum { SHORT_ROW = 64, SHORT_ROWS = 1024 };

static inline int64_t rows_a_turn(const int64_t *shape, int ndim) {
    return ndim > 1 && shape[ndim - 1] < SHORT_ROW ? SHORT_ROWS / shape[ndim - 1] : 1;
}
static inline int64_t turn_count(const int64_t *shape, int ndim) {
    const int64_t C = shape[ndim - 1], rows = numbers_in(shape, ndim - 1), many = rows_a_turn(shape, ndim);
    return many > 1 ? (rows + many - 1) / many : rows * ((C + POINT_PIECE - 1) / POINT_PIECE);
}
static inline turn turn_at(int64_t i, const int64_t *shape, int ndim) {
    const int64_t C = shape[ndim - 1], many = rows_a_turn(shape, ndim), pieces = (C + POINT_PIECE - 1) / POINT_PIECE;
    if (many > 1) {
        const int64_t row = i * many, left = numbers_in(shape, ndim - 1) - row, rows = left < many ? left : many;
        return (turn){row, rows, 0, rows * C, row * C};
    }
    const int64_t row = i / pieces, column = i % pieces * POINT_PIECE;
    return (turn){row, 1, column, piece_size(column, C), row * C + column};
}

/* An input of items of 1 or 4 bytes, spread over the rows of a turn in room, if it is not so already. */
static const void *spread(char *room, const char *x, int64_t item, const turn *t, const int64_t *shape,
                          const int64_t *stride, int ndim) {
    const int64_t C = shape[ndim - 1], row = C * item;
    bool dense = stride[ndim - 1] == 1, same = true;
    for (int d = ndim - 2; d >= 0; d--) {
        dense &= stride[d] == shape[d + 1] * stride[d + 1];
        same &= stride[d] == 0;
    }
    odometer o = odometer_at(t->row, shape, stride, ndim);
    if (dense) return x + o.at * item;
    for (int64_t r = 0; r < (same ? 1 : t->rows); r++, odometer_step(&o, shape, stride, ndim)) {
        const char *from = x + o.at * item;
        if (stride[ndim - 1]) memcpy(room + r * row, from, (size_t)row);
        else for (int64_t c = 0; c < C; c++) memcpy(room + r * row + c * item, from, (size_t)item);
    }
    for (int64_t r = 1; same && r < t->rows; r *= 2)        /* one row for all: copies of copies */
        memcpy(room + r * row, room, (size_t)((r < t->rows - r ? r : t->rows - r) * row));
    return room;
}

/* Where an input's numbers of a turn are, and whether they move along (1) or stand still (0). */
ALWAYS_INLINE const void *operand(void *room, const void *x, int64_t item, const turn *t, const int64_t *shape,
                                  const int64_t *stride, int ndim, int64_t *step) {
    *step = t->rows > 1 ? 1 : stride[ndim - 1];
    if (t->rows > 1) return spread(room, x, item, t, shape, stride, ndim);
    return (const char *)x + (odometer_at(t->row, shape, stride, ndim).at + t->column * *step) * item;
}

/* The next numbers of an input that either moves along or stands still. */
ALWAYS_INLINE vec vec_next(const float *p, int64_t i, int64_t stride, int64_t part) {
    if (!stride) return vec_set(*p);
    return part == WM_LANES ? vec_load(p + i) : vec_load_part(p + i, part);
}

typedef vec pair_value(vec a, vec b);
typedef vec pair_slope(vec a, vec b, vec g);

ALWAYS_INLINE void map_pair(float *out, const float *a, const float *b, int64_t sa, int64_t sb, int64_t n, pair_value f) {
    int64_t i = 0;
    for (; i + WM_LANES <= n; i += WM_LANES)
        vec_store(out + i, f(vec_next(a, i, sa, WM_LANES), vec_next(b, i, sb, WM_LANES)));
    if (i < n) vec_store_part(out + i, f(vec_next(a, i, sa, n - i), vec_next(b, i, sb, n - i)), n - i);
}
ALWAYS_INLINE void map_pair_slope(float *d, const float *g, const float *a, const float *b, int64_t sa, int64_t sb, int64_t n,
                                  pair_slope f) {
    int64_t i = 0;
    for (; i + WM_LANES <= n; i += WM_LANES) {
        vec v = f(vec_next(a, i, sa, WM_LANES), vec_next(b, i, sb, WM_LANES), vec_load(g + i));
        vec_store(d + i, vec_load(d + i) + v);
    }
    if (i == n) return;
    vec v = f(vec_next(a, i, sa, n - i), vec_next(b, i, sb, n - i), vec_load_part(g + i, n - i));
    vec_store_part(d + i, vec_load_part(d + i, n - i) + v, n - i);
}
typedef ivec pair_mask(vec a, vec b);
ALWAYS_INLINE void map_mask(uint8_t *out, const float *a, const float *b, int64_t sa, int64_t sb, int64_t n, pair_mask f) {
    for (int64_t i = 0; i < n; i += WM_LANES) {
        const int64_t part = n - i < WM_LANES ? n - i : WM_LANES;
        ivec mask = f(vec_next(a, i, sa, part), vec_next(b, i, sb, part));
        for (int64_t j = 0; j < part; j++) out[i + j] = mask[j] & 1;
    }
}

/* da, db have the shape of out; the op sums what was broadcast. */
#define WM_BINARY(name, doc, value, slope_a, slope_b)                                                                  \
    static inline vec name##_value(vec a, vec b) { return value; }                                                     \
    static inline vec name##_slope_a(vec a, vec b, vec g) { (void)a, (void)b, (void)g; return slope_a; }               \
    static inline vec name##_slope_b(vec a, vec b, vec g) { (void)a, (void)b, (void)g; return slope_b; }               \
    static void name##_forward(float *out, const float *a, const float *b, const int64_t *shape, const int64_t *sa,    \
                               const int64_t *sb, int ndim) {                                                          \
        const int64_t count = turn_count(shape, ndim);                                                                 \
        _Pragma("omp parallel for num_threads(wm_threads) if (numbers_in(shape, ndim) > POINT_GRAIN)")                 \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            const turn t = turn_at(i, shape, ndim);                                                                    \
            float room_a[SHORT_ROWS], room_b[SHORT_ROWS];                                                              \
            int64_t ea, eb;                                                                                            \
            const float *pa = operand(room_a, a, 4, &t, shape, sa, ndim, &ea);                                         \
            const float *pb = operand(room_b, b, 4, &t, shape, sb, ndim, &eb);                                         \
            map_pair(out + t.out, pa, pb, ea, eb, t.n, name##_value);                                                  \
        }                                                                                                              \
    }                                                                                                                  \
    static void name##_backward(float *da, float *db, const float *dout, const float *a, const float *b,               \
                                const int64_t *shape, const int64_t *sa, const int64_t *sb, int ndim) {                \
        const int64_t count = turn_count(shape, ndim);                                                                 \
        _Pragma("omp parallel for num_threads(wm_threads) if (numbers_in(shape, ndim) > POINT_GRAIN)")                 \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            const turn t = turn_at(i, shape, ndim);                                                                    \
            float room_a[SHORT_ROWS], room_b[SHORT_ROWS];                                                              \
            int64_t ea, eb;                                                                                            \
            const float *pa = operand(room_a, a, 4, &t, shape, sa, ndim, &ea);                                         \
            const float *pb = operand(room_b, b, 4, &t, shape, sb, ndim, &eb);                                         \
            if (da) map_pair_slope(da + t.out, dout + t.out, pa, pb, ea, eb, t.n, name##_slope_a);                     \
            if (db) map_pair_slope(db + t.out, dout + t.out, pa, pb, ea, eb, t.n, name##_slope_b);                     \
        }                                                                                                              \
    }
#define WM_COMPARE(name, doc, mask)                                                                                    \
    static inline ivec name##_mask(vec a, vec b) { return (ivec)(mask); }                                              \
    static void name##_forward(uint8_t *out, const float *a, const float *b, const int64_t *shape, const int64_t *sa,  \
                               const int64_t *sb, int ndim) {                                                          \
        const int64_t count = turn_count(shape, ndim);                                                                 \
        _Pragma("omp parallel for num_threads(wm_threads) if (numbers_in(shape, ndim) > POINT_GRAIN)")                 \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            const turn t = turn_at(i, shape, ndim);                                                                    \
            float room_a[SHORT_ROWS], room_b[SHORT_ROWS];                                                              \
            int64_t ea, eb;                                                                                            \
            const float *pa = operand(room_a, a, 4, &t, shape, sa, ndim, &ea);                                         \
            const float *pb = operand(room_b, b, 4, &t, shape, sb, ndim, &eb);                                         \
            map_mask(out + t.out, pa, pb, ea, eb, t.n, name##_mask);                                                   \
        }                                                                                                              \
    }
#include "../pointwise.def"
#undef WM_BINARY
#undef WM_COMPARE

/* ---- where: mask ? a : b ---- */

static void where_forward(float *out, const uint8_t *mask, const float *a, const float *b, const int64_t *shape,
                          const int64_t *sm, const int64_t *sa, const int64_t *sb, int ndim) {
    const int64_t count = turn_count(shape, ndim);
    #pragma omp parallel for num_threads(wm_threads) if (numbers_in(shape, ndim) > POINT_GRAIN)
    for (int64_t i = 0; i < count; i++) {
        const turn t = turn_at(i, shape, ndim);
        uint8_t room[SHORT_ROWS];
        float room_a[SHORT_ROWS], room_b[SHORT_ROWS];
        int64_t em, ea, eb;
        const uint8_t *m = operand(room, mask, 1, &t, shape, sm, ndim, &em);
        const float *pa = operand(room_a, a, 4, &t, shape, sa, ndim, &ea), *pb = operand(room_b, b, 4, &t, shape, sb, ndim, &eb);
        for (int64_t j = 0; j < t.n; j++) out[t.out + j] = m[j * em] ? pa[j * ea] : pb[j * eb];
    }
}

/* da, db have the shape of out. */
static void where_backward(float *da, float *db, const float *dout, const uint8_t *mask, const int64_t *shape,
                           const int64_t *sm, int ndim) {
    const int64_t count = turn_count(shape, ndim);
    #pragma omp parallel for num_threads(wm_threads) if (numbers_in(shape, ndim) > POINT_GRAIN)
    for (int64_t i = 0; i < count; i++) {
        const turn t = turn_at(i, shape, ndim);
        uint8_t room[SHORT_ROWS];
        int64_t em;
        const uint8_t *m = operand(room, mask, 1, &t, shape, sm, ndim, &em);
        const float *g = dout + t.out;
        for (int64_t j = 0; da && j < t.n; j++) da[t.out + j] += m[j * em] ? g[j] : 0.0f;
        for (int64_t j = 0; db && j < t.n; j++) db[t.out + j] += m[j * em] ? 0.0f : g[j];
    }
}

/* ---- cast: numbers of one kind as numbers of another ----
   float to bf16 rounds to nearest even (NaN stays NaN); to u8 and i32 it rounds to nearest even and saturates. */

static void cast_to_f32(float *out, const void *x, int kind, int64_t n) {
    const wm_bf16 *h = x;
    const uint8_t *u = x;
    const int32_t *i32 = x;
    switch (kind) {
    case WM_KIND_BF16: for (int64_t i = 0; i < n; i++) out[i] = float_of(h[i]); break;
    case WM_KIND_U8:   for (int64_t i = 0; i < n; i++) out[i] = u[i]; break;
    case WM_KIND_I32:  for (int64_t i = 0; i < n; i++) out[i] = (float)i32[i]; break;
    default: memcpy(out, x, (size_t)n * 4);
    }
}
static void cast_from_f32(void *out, const float *x, int kind, int64_t n) {
    wm_bf16 *h = out;
    uint8_t *u = out;
    int32_t *i32 = out;
    switch (kind) {
    case WM_KIND_BF16: for (int64_t i = 0; i < n; i++) h[i] = bf16_of(x[i]); break;
    case WM_KIND_U8:
        for (int64_t i = 0; i < n; i++) u[i] = (uint8_t)(x[i] > 0.0f ? x[i] < 255.0f ? nearbyintf(x[i]) : 255.0f : 0.0f);
        break;
    case WM_KIND_I32:
        for (int64_t i = 0; i < n; i++)
            i32[i] = x[i] >= 2147483648.0f ? INT32_MAX : x[i] > -2147483648.0f ? (int32_t)nearbyintf(x[i])
                     : x[i] == x[i] ? INT32_MIN : 0;
        break;
    default: memcpy(out, x, (size_t)n * 4);
    }
}

static void cast_forward(void *out, const void *x, int to, int from, int64_t n) {
    static const int size[] = {4, 2, 1, 4};
    #pragma omp parallel for num_threads(wm_threads) if (n > POINT_GRAIN)
    for (int64_t i = 0; i < n; i += POINT_PIECE) {
        const int64_t part = piece_size(i, n);
        const char *from_here = (const char *)x + i * size[from];
        char *to_here = (char *)out + i * size[to];
        float f[POINT_PIECE];
        if (to == WM_KIND_I32 && from == WM_KIND_U8)
            for (int64_t j = 0; j < part; j++) ((int32_t *)to_here)[j] = ((const uint8_t *)from_here)[j];
        else if (to == WM_KIND_U8 && from == WM_KIND_I32)
            for (int64_t j = 0; j < part; j++) {
                const int32_t v = ((const int32_t *)from_here)[j];
                ((uint8_t *)to_here)[j] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
            }
        else if (to == from) memcpy(to_here, from_here, (size_t)(part * size[to]));
        else if (to == WM_KIND_F32) cast_to_f32((float *)to_here, from_here, from, part);
        else {
            cast_to_f32(f, from_here, from, part);
            cast_from_f32(to_here, f, to, part);
        }
    }
}

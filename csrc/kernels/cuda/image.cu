/* image: bytes and floats, resizing; channels last.  cpu/image.c has the weights: taps of a row, then taps of a column. */
#include "device.cuh"

namespace wm_cuda {
namespace image {

enum { AREA, BILINEAR };
struct taps { int64_t first, last; float second; };
__device__ inline taps taps_of(int mode, int64_t o, int64_t from, int64_t to) {
    taps t;
    t.first = o * from / to, t.last = ((o + 1) * from - 1) / to, t.second = 0.0f;
    if (mode == AREA) return t;
    float at = __fsub_rn(__fmul_rn((float)o + 0.5f, (float)from / (float)to), 0.5f);      /* not fused: the same taps as the processor's */
    at = at < 0.0f ? 0.0f : at;
    const int64_t i = (int64_t)at;
    t.first = i, t.last = i + 1, t.second = at - (float)i;
    if (i >= from - 1) t.first = t.last = from - 1, t.second = 0.0f;
    return t;
}
__device__ inline float tap_weight(int mode, taps t, int64_t i, int64_t o, int64_t from, int64_t to) {
    if (mode == BILINEAR) return i == t.first ? 1.0f - t.second : t.second;
    const int64_t end = (o + 1) * from < (i + 1) * to ? (o + 1) * from : (i + 1) * to, start = o * from > i * to ? o * from : i * to;
    return (float)(end - start) / (float)from;
}

struct sizes { int64_t B, H, W, C, OH, OW; };

/* A number of the result: the taps of its row, summed for each tap of its column. */
template <typename T> __device__ inline float resized(const T *x, int mode, const sizes &s, int64_t i) {
    const int64_t c = i % s.C, ox = i / s.C % s.OW, oy = i / (s.C * s.OW) % s.OH, b = i / (s.C * s.OW * s.OH);
    const taps rows = taps_of(mode, oy, s.H, s.OH), columns = taps_of(mode, ox, s.W, s.OW);
    float sum = 0.0f;
    for (int64_t k = columns.first; k <= columns.last; k++) {
        float line = 0.0f;
        for (int64_t j = rows.first; j <= rows.last; j++)
            line += tap_weight(mode, rows, j, oy, s.H, s.OH) * (float)x[((b * s.H + j) * s.W + k) * s.C + c];
        sum += tap_weight(mode, columns, k, ox, s.W, s.OW) * line;
    }
    return sum;
}
__global__ void resize_kernel(float *out, const float *x, int mode, sizes s, int64_t n) { FOR_EACH(i, n) out[i] = resized(x, mode, s, i); }
__global__ void resize_bytes_kernel(uint8_t *out, const uint8_t *x, int mode, sizes s, int64_t n) {
    FOR_EACH(i, n) {
        const float v = resized(x, mode, s, i);
        out[i] = !(v > 0.0f) ? 0 : v >= 255.0f ? 255 : (uint8_t)rintf(v);
    }
}
static void resize_forward(float *out, float *rows, const float *x, int mode, int64_t B, int64_t H, int64_t W, int64_t C, int64_t OH,
                           int64_t OW) {
    (void)rows;
    EACH(resize_kernel, B * OH * OW * C, out, x, mode, (sizes{B, H, W, C, OH, OW}), B * OH * OW * C);
}
static void resize_bytes(uint8_t *out, float *rows, const uint8_t *x, int mode, int64_t B, int64_t H, int64_t W, int64_t C, int64_t OH,
                         int64_t OW) {
    (void)rows;
    EACH(resize_bytes_kernel, B * OH * OW * C, out, x, mode, (sizes{B, H, W, C, OH, OW}), B * OH * OW * C);
}
/* dx: a number of x looks for the outputs that took it; they lie side by side. */
__device__ inline int64_t first_taker(int mode, int64_t i, int64_t from, int64_t to) {
    int64_t low = 0, high = to;                /* the first o whose last tap is i or more */
    while (low < high) {
        const int64_t mid = (low + high) / 2;
        if (taps_of(mode, mid, from, to).last >= i) high = mid;
        else low = mid + 1;
    }
    return low;
}
__global__ void resize_backward_kernel(float *dx, const float *dout, int mode, sizes s, int64_t n) {
    FOR_EACH(i, n) {
        const int64_t c = i % s.C, x = i / s.C % s.W, y = i / (s.C * s.W) % s.H, b = i / (s.C * s.W * s.H);
        const int64_t x0 = first_taker(mode, x, s.W, s.OW);
        float sum = 0.0f;
        for (int64_t oy = first_taker(mode, y, s.H, s.OH); oy < s.OH; oy++) {
            const taps rows = taps_of(mode, oy, s.H, s.OH);
            if (rows.first > y) break;
            float line = 0.0f;
            for (int64_t ox = x0; ox < s.OW; ox++) {
                const taps columns = taps_of(mode, ox, s.W, s.OW);
                if (columns.first > x) break;
                line += tap_weight(mode, columns, x, ox, s.W, s.OW) * dout[((b * s.OH + oy) * s.OW + ox) * s.C + c];
            }
            sum += tap_weight(mode, rows, y, oy, s.H, s.OH) * line;
        }
        dx[i] += sum;
    }
}
static void resize_backward(float *dx, float *rows, const float *dout, int mode, int64_t B, int64_t H, int64_t W, int64_t C, int64_t OH,
                            int64_t OW) {
    (void)rows;
    EACH(resize_backward_kernel, B * H * W * C, dx, dout, mode, (sizes{B, H, W, C, OH, OW}), B * H * W * C);
}

__global__ void bytes_to_floats_kernel(float *out, const uint8_t *x, float low, float high, int64_t n) {
    FOR_EACH(i, n) out[i] = (float)x[i] / 255.0f * (high - low) + low;
}
static void bytes_to_floats(float *out, const uint8_t *x, float low, float high, int64_t n) {
    EACH(bytes_to_floats_kernel, n, out, x, low, high, n);
}
__global__ void floats_to_bytes_kernel(uint8_t *out, const float *x, float low, float high, int cut, int64_t n) {
    FOR_EACH(i, n) {
        float y = (x[i] - low) / (high - low) * 255.0f;
        y = y > 0.0f ? y : 0.0f;
        y = y < 255.0f ? y : 255.0f;
        out[i] = (uint8_t)(int32_t)(cut ? y : rintf(y));
    }
}
static void floats_to_bytes(uint8_t *out, const float *x, float low, float high, int cut, int64_t n) {
    EACH(floats_to_bytes_kernel, n, out, x, low, high, cut, n);
}

}  // namespace image

void image_table(wm_kernels *k) {
    using namespace image;
    k->resize_forward = resize_forward, k->resize_bytes = resize_bytes, k->resize_backward = resize_backward;
    k->bytes_to_floats = bytes_to_floats, k->floats_to_bytes = floats_to_bytes;
}
}  // namespace wm_cuda

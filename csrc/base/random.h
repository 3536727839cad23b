/* random.h - Philox 4x32-10, a random function of a counter: no state, so any thread may draw any number.
   J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

   A stream is a row of four int32: {key 0, key 1, stream id, step}.  Number j of a stream, drawn for a purpose `salt`,
   is word j % 4 of philox({j / 4, salt, stream id, step}, {key 0, key 1}): the same at any thread count, batch size and
   order.  Whoever owns the rows raises `step` to draw anew. */
#ifndef WM_RANDOM_H
#define WM_RANDOM_H
#include <stdint.h>

enum { WM_STREAM = 4 };   /* int32 in a row */

static inline void wm_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t x[4] = {counter[0], counter[1], counter[2], counter[3]}, k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p = (uint64_t)x[0] * 0xD2511F53u, q = (uint64_t)x[2] * 0xCD9E8D57u;
        uint32_t y[4] = {(uint32_t)(q >> 32) ^ x[1] ^ k0, (uint32_t)q, (uint32_t)(p >> 32) ^ x[3] ^ k1, (uint32_t)p};
        for (int i = 0; i < 4; i++) x[i] = y[i];
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++) out[i] = x[i];
}

/* Number j of the stream as 32 random bits. */
static inline uint32_t wm_random_bits(const int32_t *stream, uint32_t salt, int64_t j) {
    const uint32_t counter[4] = {(uint32_t)(j / 4), salt, (uint32_t)stream[2], (uint32_t)stream[3]};
    const uint32_t key[2] = {(uint32_t)stream[0], (uint32_t)stream[1]};
    uint32_t out[4];
    wm_philox(out, counter, key);
    return out[j % 4];
}

/* ... and as a float in [0, 1), a multiple of 2^-24. */
static inline float wm_random_uniform(const int32_t *stream, uint32_t salt, int64_t j) {
    return (float)(wm_random_bits(stream, salt, j) >> 8) * 0x1p-24f;
}
#endif

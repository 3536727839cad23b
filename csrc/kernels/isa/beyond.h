/* beyond.h - what portable vectors cannot say: each an instruction where there is one, else its meaning in C. */
typedef uint32_t wvec __attribute__((vector_size(4 * WM_LANES)));
typedef uint64_t dvec __attribute__((vector_size(4 * WM_LANES)));

#if defined(__x86_64__)
#include <immintrin.h>
#if WM_LANES == 16
#define X86(name) _mm512_##name
typedef __m512i x86_ints;
typedef __m512 x86_floats;
#elif WM_LANES == 8
#define X86(name) _mm256_##name
typedef __m256i x86_ints;
typedef __m256 x86_floats;
#else
#define X86(name) _mm_##name
typedef __m128i x86_ints;
typedef __m128 x86_floats;
#endif

/* 32 x 32 -> 64 bits of the even lanes; the compiler multiplies 64 x 64 bits instead */
static inline dvec vec_mul_even(dvec a, dvec b) { return (dvec)X86(mul_epu32)((x86_ints)a, (x86_ints)b); }

/* A store past the caches, p on a vector's boundary; vec_past_done before others may read it */
static inline void vec_store_past(float *p, vec v) { X86(stream_ps)(p, (x86_floats)v); }
static inline void vec_past_done(void) { _mm_sfence(); }
#else
static inline dvec vec_mul_even(dvec a, dvec b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
static inline void vec_store_past(float *p, vec v) { vec_store(p, v); }
static inline void vec_past_done(void) {}
#endif

/* mma.cuh - the only inline PTX: tensor cores (mma.sync m16n8k16), their loads (ldmatrix), copies that do not wait (cp.async).
   The emulator has the fragment tables of the PTX ISA in their place; tests/cuda/ptx runs the PTX itself. */
#pragma once
#include "device.cuh"

namespace wm_cuda {

/* d (16,8) += a (16,16) b (16,8): bf16 in, float32 sums.  Lane l holds rows l/4 and l/4 + 8, columns 2 (l%4) and the next. */
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(WM_EMULATED)
    struct fragment { uint32_t a[4], b[2]; } f = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const cuemu::Slots s = cuemu::warp_meet("mma.m16n8k16", 0, 0xffffffffu, &f, sizeof f);
    cuemu::count_mma();
    const unsigned l = cuemu::cur->lane, g = l >> 2, t = l & 3;
    const auto half = [](uint32_t r, int i) { return cuemu::bf16_bits_to_float((uint16_t)(i ? r >> 16 : r)); };
    float A[2][16], B[2][16];
    for (int q = 0; q < 4; q++) {
        const fragment row = s.get<fragment>(g * 4 + q);
        for (int r = 0; r < 2; r++)
            for (int i = 0; i < 2; i++) A[r][q * 2 + i] = half(row.a[r], i), A[r][q * 2 + 8 + i] = half(row.a[r + 2], i);
        for (int n = 0; n < 2; n++) {
            const fragment column = s.get<fragment>((2 * t + n) * 4 + q);
            for (int i = 0; i < 2; i++) B[n][q * 2 + i] = half(column.b[0], i), B[n][q * 2 + 8 + i] = half(column.b[1], i);
        }
    }
    for (int r = 0; r < 2; r++)
        for (int n = 0; n < 2; n++)
            for (int k = 0; k < 16; k++) d[r * 2 + n] += A[r][k] * B[n][k];
#else
#ifdef WM_PLANT_SWAPPED_FRAGMENTS
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[2]), "r"(a[1]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
#endif
}

/* Four 8 x 8 matrices of bf16 from shared memory; lane l passes where row l % 8 of matrix l / 8 lies, on 16 bytes. */
template <bool TRANSPOSED> __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void *row) {
#if defined(WM_EMULATED)
    if ((uintptr_t)row & 15) cuemu::fail("ldmatrix: a row that does not lie on 16 bytes");
    unsigned char v[16];
    memcpy(v, row, 16);                     /* read by the lane that owns the address: sanitizers see it */
    const cuemu::Slots s = cuemu::warp_meet("ldmatrix.x4", 0, 0xffffffffu, v, 16);
    struct line { uint16_t e[8]; };
    const unsigned l = cuemu::cur->lane;
    for (unsigned m = 0; m < 4; m++) {
        const line q = s.get<line>(m * 8 + l / 4), u = s.get<line>(m * 8 + 2 * (l % 4)), w = s.get<line>(m * 8 + 2 * (l % 4) + 1);
        const uint16_t low = TRANSPOSED ? u.e[l / 4] : q.e[2 * (l % 4)], high = TRANSPOSED ? w.e[l / 4] : q.e[2 * (l % 4) + 1];
        r[m] = low | (uint32_t)high << 16;
    }
#else
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#endif
}

/* 16 bytes from global to shared memory, without waiting; zeros if not valid. */
__device__ __forceinline__ void copy_soon(void *to, const void *from, bool valid) {
#if defined(WM_EMULATED)
    if (((uintptr_t)to | (uintptr_t)from) & 15) cuemu::fail("cp.async: an address that does not lie on 16 bytes");
    cuemu::cp_async_enqueue(to, from, 16, valid ? 16 : 0);
#else
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
#endif
}
__device__ __forceinline__ void copies_end() {      /* of one group */
#if defined(WM_EMULATED)
    cuemu::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/* Until at most N groups of this thread are on their way. */
template <int N> __device__ __forceinline__ void copies_wait() {
#if defined(WM_EMULATED)
    cuemu::cp_async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* Two floats as bf16, rounded to nearest even, the first one low. */
__device__ __forceinline__ uint32_t pair_of_bf16(float low, float high) { return to_bf16(low) | (uint32_t)to_bf16(high) << 16; }

/* x as a sum of bf16 numbers, the largest first: three of them hold all 24 bits of a float.  (Infinity times a term that is 0
   is NaN.) */
template <int TERMS> __device__ __forceinline__ void terms_of(wm_bf16 (&t)[TERMS], float x) {
#pragma unroll
    for (int i = 0; i < TERMS; i++) {
        t[i] = to_bf16(x);
        const float rest = x - from_bf16(t[i]);
        x = fabsf(rest) < INFINITY ? rest : 0.0f;        /* of infinity and NaN the first term says all */
    }
}

}  // namespace wm_cuda

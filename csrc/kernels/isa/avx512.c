/* avx512.c - sixteen lanes, thirty-two registers. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define WM_LANES 16
#define TILE_M 12  /* 12 x 2 accumulators + 2 loads, broadcasts folded into the multiply-add = 26 of 32 registers */
#define TILE_N 2
/* acc += four products of bytes, unsigned a, signed b.  As text: gcc 12 spills the accumulators of the intrinsic. */
#define DOT_ASM "vpdpbusd %2, %1, %0"
#define DOT_NEEDS "avx512vnni"
/* acc += two products of bf16; sixteen floats rounded to bf16 */
#define BF16_DOT_ASM "vdpbf16ps %2, %1, %0"
#define BF16_ROUND_ASM "vcvtneps2bf16 %1, %0"
#define BF16_NEEDS "avx512bf16"
#define WM_ISA "avx512"
#define WM_TABLE wm_kernels_avx512
#include "table.h"
#else
typedef int wm_avx512_is_for_x86_64;
#endif

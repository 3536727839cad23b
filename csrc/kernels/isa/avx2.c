/* avx2.c - eight lanes with fused multiply-add. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define WM_LANES 8
#define TILE_M 6   /* 6 x 2 accumulators + 2 loads + 1 broadcast = 15 of 16 registers */
#define TILE_N 2
#define DOT_ASM "%{vex%} vpdpbusd %2, %1, %0"     /* see avx512.c */
#define DOT_NEEDS "avxvnni"
#define WM_ISA "avx2"
#define WM_TABLE wm_kernels_avx2
#include "table.h"
#else
typedef int wm_avx2_is_for_x86_64;
#endif

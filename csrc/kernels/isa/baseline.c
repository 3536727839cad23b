/* baseline.c - four lanes: SSE2 on x86_64, NEON on aarch64; runs everywhere. */
#define WM_LANES 4
#if defined(__aarch64__)
#define TILE_M 8   /* 8 x 2 accumulators + 2 loads + broadcasts of 32 registers */
#else
#define TILE_M 6   /* 6 x 2 accumulators + 2 loads + 1 broadcast = 15 of 16 registers */
#endif
#define TILE_N 2
#define WM_ISA "baseline"
#define WM_TABLE wm_kernels_baseline
#include "table.h"

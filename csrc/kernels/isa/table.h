/* table.h - all CPU kernels, compiled once per instruction set by the files of this folder, which chose
   WM_LANES (floats in a vector), TILE_M rows x TILE_N vectors of the matrix tile, WM_ISA and WM_TABLE.
   Everything is static: a shared inline function could otherwise be linked from another instruction set's copy. */
#include "../kernels.h"
#include "../cpu/vec.h"
#include "beyond.h"
#include "../cpu/gemm.c"
#include "../cpu/linear.c"
#include "../cpu/int8.c"
#include "../cpu/bf16.c"
#include "../cpu/rotary.c"
#include "../cpu/attention_tile.c"
#include "../cpu/attention.c"
#include "../cpu/attention_cached.c"
#include "../cpu/conv.c"
#include "../cpu/winograd.c"
#include "../cpu/norm.c"
#include "../cpu/adaln.c"
#include "../cpu/group_norm.c"
#include "../cpu/pointwise.c"
#include "../cpu/reduce.c"
#include "../cpu/softmax.c"
#include "../cpu/shape.c"
#include "../cpu/embed.c"
#include "../cpu/random.c"
#include "../cpu/loss.c"
#include "../cpu/categorical.c"
#include "../cpu/gaussian.c"
#include "../cpu/scan.c"
#include "../cpu/diffuse.c"
#include "../cpu/image.c"
#include "../cpu/optimise.c"

const wm_kernels WM_TABLE = {
    .name = WM_ISA,
#define WM_KERNEL(name, ret, args) .name = name,
#include "../kernels.def"
#undef WM_KERNEL
};

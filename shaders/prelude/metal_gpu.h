// Metal spelling of what phones' GPUs have beyond a CPU: half arithmetic, images, sub-groups (Metal's SIMD-groups).
// opencl_gpu.h defines the same words. Vectors have 4 lanes.

// `real` is what products are multiplied in: half where the device computes in it, else float.
#if F16
typedef half4 od_stg4;
#else
typedef float4 od_stg4;
#endif
#if HALF
typedef half real;
typedef half4 real4;
#else
typedef float real;
typedef float4 real4;
#endif
#define TO_REAL4(v)     real4(v)
#define TO_VEC(r)       float4(r)
#define RSPLAT(s)       real4(s)
#define RFMA(a, b, c)   ((a) * (b) + (c))                   // compilers fuse it; a may be a scalar
#define LOADR4(p, i)    real4(*(device const od_stg4*)((p) + (i)))
#define EXP2(v)         od_exp2(v)                          // one instruction of a GPU, and a little
// Four neighbouring values of storage as a `vec`, from a multiple of 4 on: one access, which LOADV and STOREV are not.
#define LOAD4(p, i)     TO_VEC(LOADR4(p, i))
#define STORE4(p, i, v) *(device od_stg4*)((p) + (i)) = od_stg4(v)
// Four neighbouring values of a weight, from a multiple of 4 on: as `stg`, or in whole numbers of its scale.
#if W4
static inline real4 od_unpacked4(device const uchar* p) {
  return real4(p[0] & 15, p[0] >> 4, p[1] & 15, p[1] >> 4) - real4(8);
}
#define LOADWR4(p, i)   od_unpacked4(WGT_AT(p, i))
#elif W8
#define LOADWR4(p, i)   real4(*(device const char4*)((p) + (i)))
#else
#define LOADWR4(p, i)   LOADR4(p, i)
#endif

// An operand of storage that is read four values at a time: from a buffer, or with IMAGE_<operand> as a texture over
// the same bytes, FOLD_<operand> rows (a power of two) side by side. `row4` is how many fours a row has.
#define OD_JOIN_(a, b)  a##b
#define OD_JOIN(a, b)   OD_JOIN_(a, b)
#define OD_TEX_0(x)     device const stg* x
#define OD_TEX_1(x)     texture2d<stg, access::read> x
#define OD_LOADT_0(x, row, column, row4) LOADR4(x, ((row) * (row4) + (column)) * 4)
#define OD_TEXEL(x, row, column, row4) \
  uint2(((row) & (FOLD_##x - 1)) * (row4) + (column), uint(row) / FOLD_##x)
#define OD_LOADT_1(x, row, column, row4) real4(x.read(OD_TEXEL(x, row, column, row4)))
#define IN_TEX(x)       OD_JOIN(OD_TEX_, IMAGE_##x)(x)
#define LOADT(x, row, column, row4) OD_JOIN(OD_LOADT_, IMAGE_##x)(x, row, column, row4)

// The same of a weight in panels; as an image only where it is of `stg`.
#define OD_WTEX_0(x)    device const wgt* x
#define OD_WTEX_1(x)    OD_TEX_1(x)
#define OD_LOADWT_0(x, row, column, row4) LOADWR4(x, ((row) * (row4) + (column)) * 4)
#define OD_LOADWT_1(x, row, column, row4) OD_LOADT_1(x, row, column, row4)
#define IN_WTEX(x)      OD_JOIN(OD_WTEX_, IMAGE_##x)(x)
#define LOADWT(x, row, column, row4) OD_JOIN(OD_LOADWT_, IMAGE_##x)(x, row, column, row4)

// Blocks of 16 rows of a panel that all work-items of a group read alike: a group of X shares one in local memory.
#define WAVE_KERNEL
#define IN_BLOCKS(x)    device const wgt* x
#define IN_STAGE(x)     device const stg* x
#define STAGE(block, stage)
#define STAGE_BLOCK(block, stage, b, from, scales, columns) OD_STAGE_LOCAL(block, b, from, scales, columns)
#define STAGED4(block, i) (block)[i]

// Work-items that run side by side. Every one of a sub-group must come to a word that exchanges.
#if SUBGROUPS
#define SG_WIDTH        ((int)od_width)
#define SG_LANE         ((int)od_lane)
#define SG_INDEX        ((int)od_simd)
#define SG_COUNT        ((int)od_simds)
#define SG_SUM(x)       simd_sum(x)
#define SG_MAX(x)       simd_max(x)
#define SG_BROADCAST(x, lane) simd_broadcast(x, (ushort)(lane))
#define SG_SHUFFLE(x, lane) simd_shuffle(x, (ushort)(lane))
#define SG_SHUFFLE_XOR(x, mask) simd_shuffle_xor(x, (ushort)(mask))
#endif

// matrix.h for Apple's unit, whose SIMD-groups have 32 work-items.
#if MATRIX_UNIT && LANES == 32 && (HALF || !F16)
#define MAT_M           8
#define MAT_N           8
#define MAT_K           8
typedef simdgroup_matrix<real, 8, 8> mat_left;
typedef simdgroup_matrix<real, 8, 8> mat_right;
typedef simdgroup_matrix<float, 8, 8> mat_sum;
#define MAT_ZERO(sum)   sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
#define MAT_LEFT(tile, p, stride) simdgroup_load(tile, p, stride);
#define MAT_RIGHT(tile, p, stride) simdgroup_load(tile, p, stride);
#define MAT_LEFT_STG(tile, p, stride) simdgroup_load(tile, p, stride);
#define MAT_RIGHT_STG(tile, p, stride) simdgroup_load(tile, p, stride);
#define MAT_MULTIPLY(sum, left, right) simdgroup_multiply_accumulate(sum, left, right, sum);
#define MAT_LOAD(sum, p, stride) simdgroup_load(sum, p, stride);
#define MAT_STORE(sum, p, stride) simdgroup_store(sum, p, stride);
#endif

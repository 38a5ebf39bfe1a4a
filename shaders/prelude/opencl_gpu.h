// OpenCL spelling of what phones' GPUs have beyond a CPU: half arithmetic, images, sub-groups. metal_gpu.h defines the
// same words. A build without HALF, SUBGROUPS and IMAGE_<operand> needs nothing but OpenCL 1.2. Vectors have 4 lanes.

// `real` is what products are multiplied in: half where the device computes in it, else float.
#if HALF
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
typedef half real;
typedef half4 real4;
#define TO_REAL4(v)     convert_half4(v)
#define LOADR4(p, i)    vload4(0, (p) + (i))
#else
typedef float real;
typedef float4 real4;
#define TO_REAL4(v)     (v)
#if F16
#define LOADR4(p, i)    vload_half4(0, (p) + (i))
#else
#define LOADR4(p, i)    vload4(0, (p) + (i))
#endif
#endif
#define TO_VEC(r)       convert_float4(r)
#define RSPLAT(s)       ((real4)(s))
#define RFMA(a, b, c)   ((a) * (b) + (c))                   // compilers fuse it; a may be a scalar
#define EXP2(v)         exp2(v)                             // one instruction of a GPU, and a little
// Four neighbouring values of storage as a `vec`, from a multiple of 4 on.
#define LOAD4(p, i)     TO_VEC(LOADR4(p, i))
#define STORE4(p, i, v) STOREV(p, i, v)
// Four neighbouring values of a weight, from a multiple of 4 on: as `stg`, or in whole numbers of its scale.
#if W4
static inline char4 od_unpacked4(__global const uchar* p) {
  const uchar2 pairs = *(__global const uchar2*)p;
  uchar4 values;
  values.even = pairs & (uchar)15;
  values.odd = pairs >> (uchar)4;
  return as_char4(values) - (char)8;
}
#define OD_WHOLE4(p, i) od_unpacked4(WGT_AT(p, i))
#elif W8
#define OD_WHOLE4(p, i) (*(__global const char4*)((p) + (i)))
#endif
#if W4 || W8
#if HALF
#define LOADWR4(p, i)   convert_half4(OD_WHOLE4(p, i))
#else
#define LOADWR4(p, i)   convert_float4(OD_WHOLE4(p, i))
#endif
#else
#define LOADWR4(p, i)   LOADR4(p, i)
#endif

// An operand of storage that is read four values at a time: from a buffer, or with IMAGE_<operand> as an image over the
// same bytes, FOLD_<operand> rows (a power of two) side by side. `row4` is how many fours a row has.
#define OD_TEX_0(x)     __global const stg* restrict x
#define OD_TEX_1(x)     __read_only image2d_t x
#define OD_LOADT_0(x, row, column, row4) LOADR4(x, ((row) * (row4) + (column)) * 4)
#define OD_TEXEL(x, row, column, row4) \
  ((int2)(((row) & (FOLD_##x - 1)) * (row4) + (column), (int)((uint)(row) / FOLD_##x)))
#if HALF
#define OD_LOADT_1(x, row, column, row4) read_imageh(x, OD_TEXEL(x, row, column, row4))
#else
#define OD_LOADT_1(x, row, column, row4) read_imagef(x, OD_TEXEL(x, row, column, row4))
#endif
#define IN_TEX(x)       OD_JOIN(OD_TEX_, IMAGE_##x)(x)
#define LOADT(x, row, column, row4) OD_JOIN(OD_LOADT_, IMAGE_##x)(x, row, column, row4)

// The same of a weight in panels; as an image only where it is of `stg`.
#define OD_WTEX_0(x)    __global const wgt* restrict x
#define OD_WTEX_1(x)    OD_TEX_1(x)
#define OD_LOADWT_0(x, row, column, row4) LOADWR4(x, ((row) * (row4) + (column)) * 4)
#define OD_LOADWT_1(x, row, column, row4) OD_LOADT_1(x, row, column, row4)
#define IN_WTEX(x)      OD_JOIN(OD_WTEX_, IMAGE_##x)(x)
#define LOADWT(x, row, column, row4) OD_JOIN(OD_LOADWT_, IMAGE_##x)(x, row, column, row4)

// Blocks of 16 rows of a panel that all work-items of a group read alike. Qualcomm's constant loads bring one to where
// constants are, once per sub-group, of which 12 run at a time; elsewhere the group of X shares it in local memory.
#if WAVE_CONSTANTS && HALF && !W8 && !W4 && defined(cl_qcom_subgroup_constant_load)
#pragma OPENCL EXTENSION cl_qcom_subgroup_uniform_load : enable
#pragma OPENCL EXTENSION cl_qcom_subgroup_constant_load : enable
#define WAVE_KERNEL     __attribute__((qcom_max_concurrent_subgroups(12)))
#define IN_BLOCKS(x)    __constant half8* x __attribute__((sub_group_uniform))
#define IN_STAGE(x)     __constant half8* x __attribute__((max_constant_size(6144)))
#define STAGE(block, stage) \
  const int od_place = (int)(qcom_get_physical_sub_group_id() & 31) % 12 * 32; \
  __constant half4* od_staged = (__constant half4*)(stage + od_place);
#define STAGE_BLOCK(block, stage, b, from, scales, columns)                  \
  qcom_sub_group_constant_load8(stage, b, od_place, (from) / 8, 32);         \
  qcom_sub_group_sync(QCOM_CLK_CONST_LOAD_SYNC);
#define STAGED4(block, i) od_staged[i]
#else
#define WAVE_KERNEL
#define IN_BLOCKS(x)    __global const wgt* restrict x
#define IN_STAGE(x)     __global const stg* restrict x
#define STAGE(block, stage)
#define STAGE_BLOCK(block, stage, b, from, scales, columns) OD_STAGE_LOCAL(block, b, from, scales, columns)
#define STAGED4(block, i) (block)[i]
#endif

// Work-items that run side by side. Every one of a sub-group must come to a word that exchanges.
#if SUBGROUPS
#pragma OPENCL EXTENSION cl_khr_subgroups : enable
#define SG_WIDTH        ((int)get_max_sub_group_size())
#define SG_LANE         ((int)get_sub_group_local_id())
#define SG_INDEX        ((int)get_sub_group_id())
#define SG_COUNT        ((int)get_num_sub_groups())
#define SG_SUM(x)       sub_group_reduce_add(x)
#define SG_MAX(x)       sub_group_reduce_max(x)
#define SG_BROADCAST(x, lane) sub_group_broadcast(x, lane)
#ifdef cl_khr_subgroup_shuffle
#pragma OPENCL EXTENSION cl_khr_subgroup_shuffle : enable
#define SG_SHUFFLE(x, lane) sub_group_shuffle(x, lane)
#define SG_SHUFFLE_XOR(x, mask) sub_group_shuffle_xor(x, mask)
#else
#define SG_SHUFFLE(x, lane) intel_sub_group_shuffle(x, lane)
#define SG_SHUFFLE_XOR(x, mask) intel_sub_group_shuffle_xor(x, mask)
#endif
#endif

// matrix.h for Arm's unit, cl_arm_matrix_multiply: lane 4 y + x of 16 gives row y, column x of a left and a right side
// of 4 by 4 and has that of float sums, says Arm's Compute Library. Matrices here are several of these: work-items have
// neighbouring elements of theirs, which they give in turn.
#if MATRIX_UNIT && defined(cl_arm_matrix_multiply) && LANES == 16 && (HALF || !F16)
#define MAT_M           8
#define MAT_N           16
#define MAT_K           8
#define OD_MAT_ROWS     2
#define OD_MAT_COLS     4
#define OD_MAT_ROW      (LID(0) / 4 % 4 * 2)
#define OD_MAT_COL      (LID(0) % 4 * 4)
#define OD_MAT_OWN      2
#define OD_MAT_OF_LEFT  (LID(0) % 4 * 2)
#define OD_MAT_OF_RIGHT (LID(0) / 4 % 4 * 2)
#define OD_MAT_PRODUCT(a, b, sum) arm_matrix_multiply(a, b, sum)
#endif

// matrix.h for the matrix units of CPUs, in OpenCL C. OD_AMX and OD_DPBF16 are options of a build, which a device sets
// that has such a unit, and a compiler that takes these spellings; they are no defines of a plan.
#if (MATH_bf16 || MATH_bf16x3) && OD_AMX
// Tiles of 16 rows of 64 bytes. Inline assembly knows them by number, so a tile's name stands for one. Compilers take
// addresses as operands of it, and no tiles.
#define MAT_M           16
#define MAT_N           16
#define MAT_K           32
#define OD_TILE_sum0    "%%tmm0"
#define OD_TILE_sum1    "%%tmm1"
#define OD_TILE_sum2    "%%tmm2"
#define OD_TILE_sum3    "%%tmm3"
#define OD_TILE_left0   "%%tmm4"
#define OD_TILE_left1   "%%tmm5"
#define OD_TILE_right0  "%%tmm6"
#define OD_TILE_right1  "%%tmm7"
// Palette 1: bytes of a row at 16 + 2 i, rows at 48 + i, for tiles 0 to 7.
#define MAT_BEGIN                                                                     \
  uchar od_shape[64] __attribute__((aligned(64)));                                    \
  for (int od_i = 0; od_i < 64; od_i++)                                               \
    od_shape[od_i] = od_i == 0 ? 1 : od_i >= 48 && od_i < 56 ? 16 : od_i >= 16 && od_i < 32 && od_i % 2 == 0 ? 64 : 0; \
  __asm__ volatile("ldtilecfg (%0)" ::"r"(od_shape) : "memory");
#define MAT_END         __asm__ volatile("tilerelease" ::: "memory");
#define OD_TILE_MOVE(text, p, stride) __asm__ volatile(text ::"r"(p), "r"((long)(stride) * 4) : "memory");
#define MAT_ZERO(sum)   __asm__ volatile("tilezero " OD_TILE_##sum ::: "memory");
#define MAT_LOAD(sum, p, stride) OD_TILE_MOVE("tileloadd (%0,%1,1), " OD_TILE_##sum, p, stride)
#define MAT_LEFT(tile, p, stride) OD_TILE_MOVE("tileloadd (%0,%1,1), " OD_TILE_##tile, p, stride)
#define MAT_RIGHT(tile, p, stride) OD_TILE_MOVE("tileloadd (%0,%1,1), " OD_TILE_##tile, p, stride)
#define MAT_STORE(sum, p, stride) OD_TILE_MOVE("tilestored " OD_TILE_##sum ", (%0,%1,1)", p, stride)
#define MAT_MULTIPLY(sum, left, right) \
  __asm__ volatile("tdpbf16ps " OD_TILE_##right ", " OD_TILE_##left ", " OD_TILE_##sum ::: "memory");

#elif (MATH_bf16 || MATH_bf16x3) && OD_DPBF16
// vdpbf16ps adds the products of 16 pairs with 16 pairs to 16 floats. Sums of a block of two by two tiles, 24 of them,
// and what they are made of stay in registers. A device without the instruction must not build this.
#define MAT_M           6
#define MAT_N           16
#define MAT_K           2
typedef __bf16 od_terms __attribute__((ext_vector_type(32)));
float16 od_dot(float16 sum, od_terms left, od_terms right) __asm("llvm.x86.avx512bf16.dpbf16ps.512");
typedef struct { uint own[MAT_M]; } mat_left;
typedef uint16 mat_right;
typedef struct { float16 own[MAT_M]; } mat_sum;
#define OD_MAT_EACH(statement)             \
  UNROLL                                   \
  for (int od_i = 0; od_i < MAT_M; od_i++) \
    statement;
#define MAT_ZERO(sum)   OD_MAT_EACH((sum).own[od_i] = (float16)(0.0f))
#define MAT_LOAD(sum, p, stride) OD_MAT_EACH((sum).own[od_i] = vload16(0, (p) + od_i * (stride)))
#define MAT_LEFT(tile, p, stride) OD_MAT_EACH((tile).own[od_i] = (p)[od_i * (stride)])
#define MAT_RIGHT(tile, p, stride) tile = vload16(0, p);
#define MAT_STORE(sum, p, stride) OD_MAT_EACH(vstore16((sum).own[od_i], 0, (p) + od_i * (stride)))
#define OD_TERMS(pairs) __builtin_astype(pairs, od_terms)
#define MAT_MULTIPLY(sum, left, right) \
  OD_MAT_EACH((sum).own[od_i] = od_dot((sum).own[od_i], OD_TERMS((uint16)((left).own[od_i])), OD_TERMS(right)))
#endif

#if MATH_bf16 || MATH_bf16x3
// Rounding to bf16 a vector at a time, as od_rounded does.
typedef OD_JOIN(uint, V) od_bits;
static inline od_bits od_round(vec v) {
  const od_bits bits = OD_JOIN(as_uint, V)(v);
  return select(bits + 0x7fffu + (bits >> 16 & 1u), bits | 0x400000u, v != v);
}
static inline vec od_rests(vec v) {
  const vec rest = v - OD_JOIN(as_float, V)(od_round(v) & 0xffff0000u);
  return select((vec)(0.0f), rest, rest - rest == 0.0f);
}
#if V == 16 && (OD_AMX || OD_DPBF16)
// What has these units has instructions for this. They take subnormal numbers for 0, as the units do.
typedef __bf16 od_halves __attribute__((ext_vector_type(32)));
typedef ushort od_shorts __attribute__((ext_vector_type(32)));
od_halves od_narrow(float16 second, float16 first) __asm("llvm.x86.avx512bf16.cvtne2ps2bf16.512");
static inline uint16 od_paired(float16 v, float16 w) {
  const od_shorts both = __builtin_astype(od_narrow(w, v), od_shorts);
  return __builtin_astype(__builtin_shufflevector(both, both, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8,
                                                  24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                          uint16);
}
#define OD_STORE_PAIRS(p, i, v) vstore8(__builtin_astype(od_narrow((float16)(0.0f), v), uint16).lo, 0, (p) + (i));
#define OD_STORE_PAIRED(p, i, v, w) vstore16(od_paired(v, w), 0, (p) + (i));
#define STORE_PAIRS_ON(p, i, v, w) vstore16(__builtin_astype(od_narrow(w, v), uint16), 0, (p) + (i));
#else
#if V == 4
#define OD_PAIRS_STORE  vstore2
#elif V == 8
#define OD_PAIRS_STORE  vstore4
#else
#define OD_PAIRS_STORE  vstore8
#endif
#define OD_STORE_PAIRS(p, i, v)                                                              \
  {                                                                                          \
    const od_bits od_given = od_round(v);                                                    \
    OD_PAIRS_STORE(od_given.even >> 16 | (od_given.odd & 0xffff0000u), 0, (p) + (i));        \
  }
#define OD_STORE_PAIRED(p, i, v, w) \
  OD_JOIN(vstore, V)(od_round(v) >> 16 | (od_round(w) & 0xffff0000u), 0, (p) + (i));
#endif
#endif

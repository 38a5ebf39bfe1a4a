// OpenCL C 1.2 spelling of the kernel dialect. metal.h defines the same words; tests/kernels/test_dialects.py compares
// them. Storage may be half without cl_khr_fp16: vload_half and vstore_half are core. Arithmetic is always float.
#ifndef V
#define V               4                                   // lanes of a `vec`: a tunable of the kernels that use it
#endif
#define OD_JOIN_(a, b)  a##b
#define OD_JOIN(a, b)   OD_JOIN_(a, b)
typedef OD_JOIN(float, V) vec;

// Storage: LOAD/STORE one element, LOADV/STOREV V elements. `i` counts elements, so no alignment beyond an element's is
// needed. `bits` is storage that is only moved: every pattern survives.
#if F16
typedef half stg;
typedef ushort bits;
#define LOAD(p, i)      vload_half(0, (p) + (i))
#define STORE(p, i, v)  vstore_half(v, 0, (p) + (i))
#define LOADV(p, i)     OD_JOIN(vload_half, V)(0, (p) + (i))
#define STOREV(p, i, v) OD_JOIN(vstore_half, V)(v, 0, (p) + (i))
#else
typedef float stg;
typedef uint bits;
#define LOAD(p, i)      (p)[i]
#define STORE(p, i, v)  (p)[i] = (v)
#define LOADV(p, i)     OD_JOIN(vload, V)(0, (p) + (i))
#define STOREV(p, i, v) OD_JOIN(vstore, V)(v, 0, (p) + (i))
#endif
// A constant weight in panels: as `stg`, or in few bits, in units of its scales (`scl`). With W8 int8; with W4 two
// neighbouring columns per byte, the first one in the low bits, each 8 more than it means. `i` counts values. Vectors
// start at multiples of V, so one may be read through a pointer: vload of char becomes V loads.
#if W4
typedef uchar wgt;
typedef half scl;
#if V == 4
typedef uchar2 od_pairs;
#elif V == 8
typedef uchar4 od_pairs;
#else
typedef uchar8 od_pairs;
#endif
static inline vec od_unpacked(__global const uchar* p) {
  const od_pairs pairs = *(__global const od_pairs*)p;
  OD_JOIN(uchar, V) values;
  values.even = pairs & (uchar)15;
  values.odd = pairs >> (uchar)4;
  return OD_JOIN(convert_float, V)(values) - 8.0f;
}
#define WGT_AT(p, i)    ((p) + (i) / 2)
#define LOADW(p, i)     ((float)((p)[(i) / 2] >> 4 * ((i) & 1) & 15) - 8.0f)
#define LOADWV(p, i)    od_unpacked(WGT_AT(p, i))
#define LOADSV(p, i)    OD_JOIN(vload_half, V)(0, (p) + (i))
#else
typedef float scl;
#define WGT_AT(p, i)    ((p) + (i))
#define LOADSV(p, i)    LOADP(p, i)
#if W8
typedef char wgt;
#define LOADW(p, i)     ((float)(p)[i])
#define LOADWV(p, i)    OD_JOIN(convert_float, V)(*(__global const OD_JOIN(char, V)*)((p) + (i)))
#else
typedef stg wgt;
#define LOADW(p, i)     LOAD(p, i)
#define LOADWV(p, i)    LOADV(p, i)
#endif
#endif
#define COPYV(to, from) OD_JOIN(vstore, V)(OD_JOIN(vload, V)(0, from), 0, to)

// Casts have a second pair of storage types.
#if SRC_F16
typedef half src;
#define LOAD_SRC(p, i)      vload_half(0, (p) + (i))
#define LOADV_SRC(p, i)     OD_JOIN(vload_half, V)(0, (p) + (i))
#else
typedef float src;
#define LOAD_SRC(p, i)      (p)[i]
#define LOADV_SRC(p, i)     OD_JOIN(vload, V)(0, (p) + (i))
#endif
#if DST_F16
typedef half dst;
#define STORE_DST(p, i, v)  vstore_half(v, 0, (p) + (i))
#define STOREV_DST(p, i, v) OD_JOIN(vstore_half, V)(v, 0, (p) + (i))
#else
typedef float dst;
#define STORE_DST(p, i, v)  (p)[i] = (v)
#define STOREV_DST(p, i, v) OD_JOIN(vstore, V)(v, 0, (p) + (i))
#endif

// V floats of a work-item's own array.
#define LOADP(p, i)     OD_JOIN(vload, V)(0, (p) + (i))
#define STOREP(p, i, v) OD_JOIN(vstore, V)(v, 0, (p) + (i))

// Of n vectors at `v`. Each step is for all of them: one waits for the step before, and others are worked on meanwhile.
#define OD_EACH(n, step)                          \
  _Pragma("unroll")                               \
  for (int od_i = 0; od_i < (n); od_i++) step;
// p = 2^f of -1/2 <= f <= 1/2 as a polynomial, of relative error 1.2e-7.
#define OD_POWER(p, f, n)                                                                                 \
  {                                                                                                       \
    OD_EACH(n, p[od_i] = fma((vec)(0.0013276472454890609f), f[od_i], (vec)(0.009675541892647743f)))       \
    OD_EACH(n, p[od_i] = fma(p[od_i], f[od_i], (vec)(0.05550713092088699f)))                              \
    OD_EACH(n, p[od_i] = fma(p[od_i], f[od_i], (vec)(0.24022120237350464f)))                              \
    OD_EACH(n, p[od_i] = fma(p[od_i], f[od_i], (vec)(0.6931469440460205f)))                               \
    OD_EACH(n, p[od_i] = fma(p[od_i], f[od_i], (vec)(1.0000001192092896f)))                               \
  }
// Twice as fast as the library's: 2^n goes into the exponent, 2^f is a polynomial. What is under -127 counts as that,
// which leaves nothing but the last bit; a NaN stays one.
#define OD_EXP2_DOWN(v, n)                                                                                \
  {                                                                                                       \
    vec od_shifted[n], od_p[n]; /* 1.5 * 2^23: the sum's low bits are v rounded */                        \
    OD_EACH(n, v[od_i] = -127.0f > v[od_i] ? (vec)(-127.0f) : v[od_i])                                    \
    OD_EACH(n, od_shifted[od_i] = v[od_i] + 12582912.0f)                                                  \
    OD_EACH(n, v[od_i] = v[od_i] - (od_shifted[od_i] - 12582912.0f))                                      \
    OD_POWER(od_p, v, n)                                                                                  \
    OD_EACH(n, v[od_i] = OD_JOIN(as_float, V)(OD_JOIN(as_int, V)(od_p[od_i]) + (OD_JOIN(as_int, V)(od_shifted[od_i]) << 23))) \
  }
static inline vec od_exp2_down(vec given) {
  vec v[1] = {given};
  OD_EXP2_DOWN(v, 1)
  return v[0];
}

// SILU of them: v / (1 + p 2^n), where -v log2 e is n + f, p is 2^f, and n + 127 are the low bits of a sum with
// 1.5 * 2^23. Under -88 it is next to nothing: v counts as that, so that no power overflows; above 87 a power is nothing
// beside 1. A NaN stays one. Beside the rounding of half storage a polynomial of relative error 2.7e-6 is as good.
#if F16
#define OD_SILU_POWER(p, f, n)                                                                            \
  {                                                                                                       \
    OD_EACH(n, p[od_i] = fma((vec)(0.009570102207362652f), f[od_i], (vec)(0.05591785907745361f)))         \
    OD_EACH(n, p[od_i] = fma(p[od_i], f[od_i], (vec)(0.240247443318367f)))                                \
    OD_EACH(n, p[od_i] = fma(p[od_i], f[od_i], (vec)(0.6931217908859253f)))                               \
    OD_EACH(n, p[od_i] = fma(p[od_i], f[od_i], (vec)(0.9999992847442627f)))                               \
  }
#else
#define OD_SILU_POWER(p, f, n) OD_POWER(p, f, n)
#endif
#define SILU_EACH(v, n)                                                                                   \
  {                                                                                                       \
    vec od_f[n], od_p[n], od_n[n];                                                                        \
    OD_EACH(n, v[od_i] = -88.0f > v[od_i] ? (vec)(-88.0f) : v[od_i])                                      \
    OD_EACH(n, od_f[od_i] = v[od_i] > 87.0f ? (vec)(87.0f) : v[od_i])                                     \
    OD_EACH(n, od_n[od_i] = fma(od_f[od_i], (vec)(-1.4426950408889634f), (vec)(12583039.0f)))             \
    OD_EACH(n, od_f[od_i] = fma(od_f[od_i], (vec)(-1.4426950408889634f), 12583039.0f - od_n[od_i]))       \
    OD_SILU_POWER(od_p, od_f, n)                                                                          \
    OD_EACH(n, od_n[od_i] = OD_JOIN(as_float, V)(OD_JOIN(as_int, V)(od_n[od_i]) << 23)) /* 2^n */         \
    OD_EACH(n, v[od_i] = v[od_i] / fma(od_p[od_i], od_n[od_i], (vec)(1.0f)))                              \
  }

// The lanes of two vectors by turns: those of their first halves in `low`, of their second in `high`.
#define ZIP(low, high, a, b) \
  {                          \
    low.even = (a).lo;       \
    low.odd = (b).lo;        \
    high.even = (a).hi;      \
    high.odd = (b).hi;       \
  }

// The largest lane, by halves.
static inline float od_lanes_max(vec given) {
#if V == 16
  const float8 eight = max(given.lo, given.hi);
#elif V == 8
  const float8 eight = given;
#endif
#if V > 4
  const float4 four = max(eight.lo, eight.hi);
#else
  const float4 four = given;
#endif
  return max(max(four.x, four.y), max(four.z, four.w));
}

// Nine tenths of the time in which Intel's compiler builds a kernel it spreads work-items over lanes, which a group of
// one has no use for.
#if defined(__has_attribute) && X <= 1 && Y <= 1 && LANES <= 1
#if __has_attribute(intel_vec_len_hint)
#define OD_ALONE        __attribute__((intel_vec_len_hint(1)))
#endif
#endif
#ifndef OD_ALONE
#define OD_ALONE
#endif
#define KERNEL(name)    __kernel OD_ALONE void name
#define IN(T, x)        __global const T* restrict x
#define OUT(T, x)       __global T* restrict x
#define ARG(T, x)       const T x
#define GRID                                                // Metal passes thread ids as parameters; OpenCL does not
#define IN_PTR(T)       __global const T*
#define OUT_PTR(T)      __global T*
#define GID(d)          ((int)get_global_id(d))
#define LID(d)          ((int)get_local_id(d))
#define LOCAL(T, x, n)  __local T x[n]
#define LOCAL_PTR(T)    __local T*
#define UNROLL          _Pragma("unroll")                   // before a short loop: what it fills stays in registers
#define BARRIER()       barrier(CLK_LOCAL_MEM_FENCE)        // for what is in local memory
#define BARRIER_ALL()   barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)  // and for what is in buffers

#define LOWEST          (-3.402823466e+38f)                 // most negative finite float
// of clang, from which most OpenCL compilers for CPUs are made
#ifdef __has_builtin
#if __has_builtin(__builtin_prefetch)
#define PREFETCH(p)     __builtin_prefetch(p, 0, 2)         // a hint: p is read soon; not into the nearest cache
#define PREFETCH_NEAR(p) __builtin_prefetch(p, 0, 3)        // or into that one, too
#endif
#endif
#ifndef PREFETCH
#define PREFETCH(p)
#define PREFETCH_NEAR(p)
#endif
#define SPLAT(s)        ((vec)(s))
#define AS_UINT(s)      as_uint(s)                          // the bits of a float, and back
#define AS_FLOAT(s)     as_float(s)
#define MIN(a, b)       min(a, b)
#define MAX(a, b)       max(a, b)
#define FMAX(a, b)      ((b) > (a) ? (b) : (a))             // of a NaN and a number, a; fmax takes three instructions
#define ANY_ABOVE(v, s) any((v) > (vec)(s))                 // of a NaN no lane is
#define LANES_MAX(v)    od_lanes_max(v)                     // the largest lane
#define RELU(v)         (0.0f > (v) ? 0.0f : (v))           // a NaN stays one
#define FMA(a, b, c)    fma(a, b, c)
#define EXP(v)          exp(v)
#define EXP2_DOWN(v)    od_exp2_down(v)                     // 2^v, v <= 127, to 2 ulp; at most 2^-126 under -126
#define SIN(v)          sin(v)
#define COS(v)          cos(v)
#define TANH(v)         tanh(v)
#define ERF(v)          erf(v)
#define SQRT(v)         sqrt(v)
#define RSQRT(s)        (1.0f / sqrt(s))

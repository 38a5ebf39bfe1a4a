// Metal spelling of the kernel dialect. opencl.h defines the same words; tests/kernels/test_dialects.py compares
// them. Storage may be half; arithmetic is always float, with Metal's precise functions: the fast ones are loose
// about infinities.
#include <metal_stdlib>
using namespace metal;
#ifndef V
#define V               4                                   // lanes of a `vec`: a tunable of the kernels that use it
#endif

// Metal's widest float vector has 4 lanes. Other widths suit CPUs: here they are an array, correct and no faster.
#define vec             od_vec                              // metal has a `vec` of its own, a template
#if V == 4
typedef float4 od_vec;
static inline vec od_splat(float s) { return float4(s); }
#define OD_LANE(v, i)   (v)[i]
#define OD_MAP(f)       static inline vec od_##f(vec v) { return precise::f(v); }
static inline vec od_fma(vec a, vec b, vec c) { return fma(a, b, c); }
static inline vec od_fmax(vec a, vec b) { return fmax(a, b); }
static inline vec od_relu(vec v) { return select(v, vec(0.0f), v < vec(0.0f)); }
#else
struct od_vec { float s[V]; };
#define OD_LANE(v, i)   (v).s[i]
#define OD_EACH(e)      vec r; for (int i = 0; i < V; i++) r.s[i] = e; return r;
#define OD_MAP(f)       static inline vec od_##f(vec v) { OD_EACH(precise::f(v.s[i])) }
#define OD_OPERATOR(op) \
  static inline vec operator op(vec a, vec b) { OD_EACH(a.s[i] op b.s[i]) } \
  static inline vec operator op(vec a, float b) { OD_EACH(a.s[i] op b) } \
  static inline vec operator op(float a, vec b) { OD_EACH(a op b.s[i]) }
OD_OPERATOR(+)
OD_OPERATOR(-)
OD_OPERATOR(*)
OD_OPERATOR(/)
static inline vec operator-(vec a) { OD_EACH(-a.s[i]) }
static inline void operator+=(thread vec& a, vec b) { a = a + b; }
static inline vec od_splat(float s) { OD_EACH(s) }
static inline vec od_fma(vec a, vec b, vec c) { OD_EACH(fma(a.s[i], b.s[i], c.s[i])) }
static inline vec od_fmax(vec a, vec b) { OD_EACH(fmax(a.s[i], b.s[i])) }
static inline vec od_relu(vec v) { OD_EACH(0.0f > v.s[i] ? 0.0f : v.s[i]) }
#endif
static inline float od_fma(float a, float b, float c) { return fma(a, b, c); }
static inline float od_fmax(float a, float b) { return fmax(a, b); }
static inline float od_relu(float s) { return 0.0f > s ? 0.0f : s; }
#define OD_BOTH(f)      OD_MAP(f) static inline float od_##f(float s) { return precise::f(s); }
OD_BOTH(exp)
OD_BOTH(exp2)
OD_BOTH(sin)
OD_BOTH(cos)
OD_BOTH(tanh)
OD_BOTH(sqrt)

// Metal has no erf. Below 1 an even polynomial times x, above 1 - exp(-polynomial); Chebyshev fits, within
// 1.4 ulp of erf.
static inline float od_erf(float x) {
  const float a = fmin(fabs(x), 4.0f), u = a * a;
  float r = 7.882500358391553e-05f;
  r = fma(r, u, -0.0008018859080038965f);
  r = fma(r, u, 0.005189312621951103f);
  r = fma(r, u, -0.02685432881116867f);
  r = fma(r, u, 0.11283597350120544f);
  r = fma(r, u, -0.3761262595653534f);
  r = fma(r, u, 1.1283791065216064f);
  float q = 1.330940631305566e-05f;
  q = fma(q, a, -0.0003175727615598589f);
  q = fma(q, a, 0.0034368762280792f);
  q = fma(q, a, -0.022622033953666687f);
  q = fma(q, a, 0.10331912338733673f);
  q = fma(q, a, 0.6390931010246277f);
  q = fma(q, a, 1.12592613697052f);
  q = fma(q, a, 0.0007568983710370958f);
  return a < 1.0f ? r * x : copysign(1.0f - precise::exp(-q), x);
}
static inline vec od_erf(vec v) {
  vec r;
  for (int i = 0; i < V; i++) OD_LANE(r, i) = od_erf(OD_LANE(v, i));
  return r;
}

// V elements in a row, one by one: the compiler joins them where the address allows. P is a pointer in any
// address space.
template <typename P> static inline vec od_load(P p) {
  vec r;
  for (int i = 0; i < V; i++) OD_LANE(r, i) = float(p[i]);
  return r;
}
template <typename T> static inline void od_store(device T* p, vec v) {
  for (int i = 0; i < V; i++) p[i] = T(OD_LANE(v, i));
}
template <typename T> static inline void od_copy(device T* to, device const T* from) {
  for (int i = 0; i < V; i++) to[i] = from[i];
}

// Storage: LOAD/STORE one element, LOADV/STOREV V elements. `i` counts elements, so no alignment beyond an element's is
// needed. `bits` is storage that is only moved: every pattern survives.
#if F16
typedef half stg;
typedef ushort bits;
#else
typedef float stg;
typedef uint bits;
#endif
#define LOAD(p, i)      float((p)[i])
#define STORE(p, i, v)  (p)[i] = stg(v)
#define LOADV(p, i)     od_load((p) + (i))
#define STOREV(p, i, v) od_store((p) + (i), v)
// A constant weight in panels: as `stg`, or in few bits, in units of its scales (`scl`). With W8 int8; with W4 two
// neighbouring columns per byte, the first one in the low bits, each 8 more than it means. `i` counts values. Vectors
// start at multiples of V.
#if W4
typedef uchar wgt;
typedef half scl;
#define WGT_AT(p, i)    ((p) + (i) / 2)
#define LOADW(p, i)     float(((p)[(i) / 2] >> 4 * ((i) & 1) & 15) - 8)
static inline vec od_unpacked(device const uchar* p) {
  vec r;
  for (int i = 0; i < V; i++) OD_LANE(r, i) = LOADW(p, i);
  return r;
}
#define LOADWV(p, i)    od_unpacked(WGT_AT(p, i))
#else
#if W8
typedef char wgt;
#else
typedef stg wgt;
#endif
typedef float scl;
#define WGT_AT(p, i)    ((p) + (i))
#define LOADW(p, i)     LOAD(p, i)
#define LOADWV(p, i)    LOADV(p, i)
#endif
#define LOADSV(p, i)    od_load((p) + (i))
#define COPYV(to, from) od_copy(to, from)

// Casts have a second pair of storage types.
#if SRC_F16
typedef half src;
#else
typedef float src;
#endif
#if DST_F16
typedef half dst;
#else
typedef float dst;
#endif
#define LOAD_SRC(p, i)      float((p)[i])
#define LOADV_SRC(p, i)     od_load((p) + (i))
#define STORE_DST(p, i, v)  (p)[i] = dst(v)
#define STOREV_DST(p, i, v) od_store((p) + (i), v)

// V floats of a work-item's own array.
#define LOADP(p, i)     od_load((p) + (i))
#define STOREP(p, i, v) for (int od_i = 0; od_i < V; od_i++) (p)[(i) + od_i] = OD_LANE(v, od_i)

// The lanes of two vectors by turns: those of their first halves in `low`, of their second in `high`.
#define ZIP(low, high, a, b)                                  \
  for (int od_i = 0; od_i < V; od_i++) {                      \
    const thread vec& od_from = od_i % 2 ? (b) : (a);         \
    OD_LANE(low, od_i) = OD_LANE(od_from, od_i / 2);          \
    OD_LANE(high, od_i) = OD_LANE(od_from, (V + od_i) / 2);   \
  }
static inline float od_lanes_max(vec v) {
  float most = OD_LANE(v, 0);
  for (int i = 1; i < V; i++) most = fmax(most, OD_LANE(v, i));
  return most;
}

#define KERNEL(name)    kernel void name
#define IN(T, x)        device const T* x
#define OUT(T, x)       device T* x
#define ARG(T, x)       constant T& x
#define GRID                                                                                                     \
  , uint3 od_gid [[thread_position_in_grid]], uint3 od_lid [[thread_position_in_threadgroup]],                   \
    uint od_lane [[thread_index_in_simdgroup]], uint od_width [[threads_per_simdgroup]],                         \
    uint od_simd [[simdgroup_index_in_threadgroup]], uint od_simds [[simdgroups_per_threadgroup]]
#define IN_PTR(T)       device const T*
#define OUT_PTR(T)      device T*
#define GID(d)          ((int)od_gid[d])
#define LID(d)          ((int)od_lid[d])
#define LOCAL(T, x, n)  threadgroup T x[n]
#define LOCAL_PTR(T)    threadgroup T*
#define UNROLL          _Pragma("unroll")                   // before a short loop: what it fills stays in registers
#define BARRIER()       threadgroup_barrier(mem_flags::mem_threadgroup)  // for what is in local memory
#define BARRIER_ALL()   threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device)  // and in buffers

#define LOWEST          (-3.402823466e+38f)                 // most negative finite float
#define PREFETCH(p)                                         // GPUs hide latency with other work-items
#define PREFETCH_NEAR(p)
#define SPLAT(s)        od_splat(s)
#define AS_UINT(s)      as_type<uint>(s)                    // the bits of a float, and back
#define AS_FLOAT(s)     as_type<float>(s)
#define MIN(a, b)       min(a, b)
#define MAX(a, b)       max(a, b)
#define FMAX(a, b)      od_fmax(a, b)
#define ANY_ABOVE(v, s) (od_lanes_max(v) > (s))             // of a NaN no lane is
#define LANES_MAX(v)    od_lanes_max(v)                     // the largest lane
#define RELU(v)         od_relu(v)
#define FMA(a, b, c)    od_fma(a, b, c)
#define EXP(v)          od_exp(v)
#define EXP2_DOWN(v)    od_exp2(v)                          // 2^v, v <= 127, to 2 ulp; at most 2^-126 under -126
#define SILU_EACH(v, n) for (int od_i = 0; od_i < (n); od_i++) v[od_i] = SILU(v[od_i]);  // of n vectors
#define SIN(v)          od_sin(v)
#define COS(v)          od_cos(v)
#define TANH(v)         od_tanh(v)
#define ERF(v)          od_erf(v)
#define SQRT(v)         od_sqrt(v)
#define RSQRT(s)        (1.0f / od_sqrt(s))

// OpenCL C 1.2 spelling of the kernel dialect. metal.h defines the same words; tests/kernels/test_dialects.py compares them.
// Storage may be half without cl_khr_fp16: vload_half and vstore_half are core. Arithmetic is always float.
#ifndef V
#define V               4                                   // lanes of a `vec`: a tunable of the kernels that use it
#endif
#define OD_JOIN_(a, b)  a##b
#define OD_JOIN(a, b)   OD_JOIN_(a, b)
typedef OD_JOIN(float, V) vec;

// Storage: LOAD/STORE one element, LOADV/STOREV V elements. `i` counts elements, so no alignment beyond an element's is needed.
// `bits` is storage that is only moved: every pattern survives.
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

#define KERNEL(name)    __kernel void name
#define IN(T, x)        __global const T* restrict x
#define OUT(T, x)       __global T* restrict x
#define ARG(T, x)       const T x
#define GRID                                                // Metal passes thread ids as parameters; OpenCL does not
#define IN_PTR(T)       __global const T*
#define GID(d)          ((int)get_global_id(d))
#define LID(d)          ((int)get_local_id(d))
#define LOCAL(T, x, n)  __local T x[n]
#define UNROLL          _Pragma("unroll")                   // before a loop of a few steps, so that what it fills stays in registers
#define BARRIER()       barrier(CLK_LOCAL_MEM_FENCE)

#define LOWEST          (-3.402823466e+38f)                 // most negative finite float
#define SPLAT(s)        ((vec)(s))
#define MIN(a, b)       min(a, b)
#define MAX(a, b)       max(a, b)
#define FMAX(a, b)      fmax(a, b)
#define FMA(a, b, c)    fma(a, b, c)
#define EXP(v)          exp(v)
#define SIN(v)          sin(v)
#define COS(v)          cos(v)
#define TANH(v)         tanh(v)
#define ERF(v)          erf(v)
#define SQRT(v)         sqrt(v)
#define RSQRT(s)        (1.0f / sqrt(s))

// Activations, and the one that a kernel's epilogue is built with. GEGLU multiplies by it what stands beside the gate.
#define SILU(v)         ((v) / (1.0f + EXP(-(v))))
#define QUICK_GELU(v)   ((v) / (1.0f + EXP(-1.702f * (v))))
#define GELU(v)         (0.5f * (v) * (1.0f + ERF((v) * 0.70710678118654752f)))
#define GELU_TANH(v)    (0.5f * (v) * (1.0f + TANH((v) * (0.7978845608028654f + 0.035677408136300125f * (v) * (v)))))
#if ACT_Silu
#define ACTIVATE(v)     SILU(v)
#elif ACT_QuickGelu
#define ACTIVATE(v)     QUICK_GELU(v)
#elif ACT_GeluTanh
#define ACTIVATE(v)     GELU_TANH(v)
#elif ACT_Gelu || ACT_Geglu
#define ACTIVATE(v)     GELU(v)
#else
#define ACTIVATE(v)     (v)
#endif

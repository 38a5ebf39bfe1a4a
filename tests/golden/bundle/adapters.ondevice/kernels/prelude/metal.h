#include <metal_stdlib>
using namespace metal;
#define KERNEL(name) kernel void name
#define IN(T, x) device const T* x
#define OUT(T, x) device T* x
#define ARG(T, x) constant T& x
#define GRID , uint3 od_gid [[thread_position_in_grid]]
#define GID(d) ((int)od_gid[d])
#if F16
typedef half stg;
#else
typedef float stg;
#endif
#define LOAD(p, i) float((p)[i])

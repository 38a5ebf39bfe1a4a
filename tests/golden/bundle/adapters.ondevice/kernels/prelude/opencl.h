#define KERNEL(name) __kernel void name
#define IN(T, x) __global const T* restrict x
#define OUT(T, x) __global T* restrict x
#define ARG(T, x) const T x
#define GRID
#define GID(d) ((int)get_global_id(d))
#if F16
typedef half stg;
#define LOAD(p, i) vload_half(i, p)
#else
typedef float stg;
#define LOAD(p, i) (p)[i]
#endif

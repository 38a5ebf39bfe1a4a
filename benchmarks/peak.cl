// What the device can do at most: multiply-adds in registers, and a copy of a large buffer. For benchmarks only; no
// bundle has them. VEC: the widest vector the device likes. CHAINS: sums that do not wait for each other, enough to
// fill its pipelines.

__kernel void peak(__global float* out, const int steps) {
  VEC sums[CHAINS];
  const VEC factor = (VEC)(0.999f), term = (VEC)(1.0e-3f);
  for (int i = 0; i < CHAINS; i++) sums[i] = (VEC)(0.1f * (float)(i + (int)get_global_id(0)));
  for (int step = 0; step < steps; step++) {
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sums[i] = fma(sums[i], factor, term);
  }
  VEC total = sums[0];
  for (int i = 1; i < CHAINS; i++) total += sums[i];
  VSTORE(total, get_global_id(0), out);
}

// A work-item of a CPU copies neighbours; those of a GPU stand beside each other: item i takes vectors i * ACROSS, then
// STRIDE further.
__kernel void copy(__global const float* x, __global float* y, const int count, const int stride) {
  const size_t first = (size_t)get_global_id(0) * (stride == 1 ? count : 1);
  for (int i = 0; i < count; i++) {
    const size_t at = first + (size_t)i * stride;
    VSTORE(VLOAD(at, x), at, y);
  }
}

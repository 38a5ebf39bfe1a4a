//: op    = ["Transpose", "Slice", "Split", "Concat", "Expand", "Identity"]
//: class = "portable"
//: caps  = []
//: why   = "Every op that only moves elements: four dims, element strides and an offset on both sides."
//: in    = ["x: bits[*]"]
//: out   = ["y: bits[*]"]
//: args  = [
//:   "n0: int", "n1: int", "n2: int", "n3: int", "s0: int", "s1: int", "s2: int", "s3: int", "s_offset: int",
//:   "d0: int", "d1: int", "d2: int", "d3: int", "d_offset: int",
//: ]
//: grid  = ["ceil_div(n0, V * STEPS)", "ceil_div(n1, TILE)", "n2 * n3"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [4, 1, 16], TILE = [16, 1, 4], X = [1, 64]}
//: needs = {}
//: reach.x = "1 + s_offset + s0 * (n0 - 1) + s1 * (n1 - 1) + s2 * (n2 - 1) + s3 * (n3 - 1)"
//: reach.y = "1 + d_offset + d0 * (n0 - 1) + d1 * (n1 - 1) + d2 * (n2 - 1) + d3 * (n3 - 1)"
//: holds = ["n2 * n3 < 2147483648"]

KERNEL(strided_copy)(IN(bits, x), OUT(bits, y), ARG(int, n0), ARG(int, n1), ARG(int, n2), ARG(int, n3), ARG(int, s0),
                     ARG(int, s1), ARG(int, s2), ARG(int, s3), ARG(int, s_offset), ARG(int, d0), ARG(int, d1),
                     ARG(int, d2), ARG(int, d3), ARG(int, d_offset) GRID) {
  const int first = GID(0) * V * STEPS, top = GID(1) * TILE, i2 = GID(2) % n2, i3 = GID(2) / n2;
  if (first >= n0 || top >= n1 || i3 >= n3) return;
  const int last = MIN(first + V * STEPS, n0), bottom = MIN(top + TILE, n1);
  const int from = s_offset + s2 * i2 + s3 * i3, to = d_offset + d2 * i2 + d3 * i3;
  for (int i1 = top; i1 < bottom; i1++) {
    const int f = from + s1 * i1, t = to + d1 * i1;
    int i = first;
    if (s0 == 1 && d0 == 1)
      for (; i + V <= last; i += V) COPYV(y + t + i, x + f + i);
    for (; i < last; i++) y[t + d0 * i] = x[f + s0 * i];
  }
}

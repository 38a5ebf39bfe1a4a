//: op    = "Cast"
//: class = "portable"
//: caps  = []
//: why   = "Copies between f32 and f16 storage; the defines SRC_F16 and DST_F16 name the two sides."
//: in    = ["x: src[n]"]
//: out   = ["y: dst[n]"]
//: args  = ["n: int"]
//: grid  = ["ceil_div(n, V * STEPS)", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [16, 1, 4], X = [1, 64]}
//: needs = {}

KERNEL(cast)(IN(src, x), OUT(dst, y), ARG(int, n) GRID) {
  const int first = GID(0) * V * STEPS;
  const int last = MIN(first + V * STEPS, n);
  int i = first;
  for (; i + V <= last; i += V) STOREV_DST(y, i, LOADV_SRC(x, i));
  for (; i < last; i++) STORE_DST(y, i, LOAD_SRC(x, i));
}

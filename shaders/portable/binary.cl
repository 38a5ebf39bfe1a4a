//: op    = ["Add", "Sub", "Mul", "Div"]
//: class = "portable"
//: caps  = []
//: why   = """y = a op b over four dims with element strides; stride 0 broadcasts. A work-item does STEPS vectors of
//:         the innermost dim."""
//: in    = ["a: stg[*]", "b: stg[*]"]
//: out   = ["y: stg[n3, n2, n1, n0]"]
//: args  = [
//:   "n0: int", "n1: int", "n2: int", "n3: int", "a0: int", "a1: int", "a2: int", "a3: int", "b0: int", "b1: int",
//:   "b2: int", "b3: int",
//: ]
//: grid  = ["ceil_div(n0, V * STEPS)", "n1", "n2 * n3"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [16, 1, 4], X = [1, 64]}
//: needs = {}
//: reach.a = "1 + a0 * (n0 - 1) + a1 * (n1 - 1) + a2 * (n2 - 1) + a3 * (n3 - 1)"
//: reach.b = "1 + b0 * (n0 - 1) + b1 * (n1 - 1) + b2 * (n2 - 1) + b3 * (n3 - 1)"

#if OP_Add
#define APPLY(a, b) ((a) + (b))
#elif OP_Sub
#define APPLY(a, b) ((a) - (b))
#elif OP_Mul
#define APPLY(a, b) ((a) * (b))
#else
#define APPLY(a, b) ((a) / (b))
#endif

KERNEL(binary)(IN(stg, a), IN(stg, b), OUT(stg, y), ARG(int, n0), ARG(int, n1), ARG(int, n2), ARG(int, n3),
               ARG(int, a0), ARG(int, a1), ARG(int, a2), ARG(int, a3), ARG(int, b0), ARG(int, b1), ARG(int, b2),
               ARG(int, b3) GRID) {
  const int first = GID(0) * V * STEPS, i1 = GID(1), i2 = GID(2) % n2, i3 = GID(2) / n2;
  if (first >= n0 || i1 >= n1 || i3 >= n3) return;
  const int last = MIN(first + V * STEPS, n0);
  IN_PTR(stg) ra = a + (a1 * i1 + a2 * i2 + a3 * i3);
  IN_PTR(stg) rb = b + (b1 * i1 + b2 * i2 + b3 * i3);
  const int row = ((i3 * n2 + i2) * n1 + i1) * n0;

  // Vectors where each side is dense or one value; other strides, and the last few elements, go one by one.
  int i = first;
  if ((a0 == 0 || a0 == 1) && (b0 == 0 || b0 == 1)) {
    const vec sa = SPLAT(LOAD(ra, 0)), sb = SPLAT(LOAD(rb, 0));
    for (; i + V <= last; i += V) {
      const vec va = a0 ? LOADV(ra, i) : sa;
      const vec vb = b0 ? LOADV(rb, i) : sb;
      STOREV(y, row + i, APPLY(va, vb));
    }
  }
  for (; i < last; i++) STORE(y, row + i, APPLY(LOAD(ra, a0 * i), LOAD(rb, b0 * i)));
}

//: op    = ["SumRanks"]
//: class = "portable"
//: caps  = []
//: why   = "The sum over devices that share a network. A plan has none of the others' parts, and so copies; who runs all ranks gives them, in the order of the ranks."
//: in    = ["x: stg[n]", "others: stg[n]"]
//: out   = ["y: stg[n]"]
//: args  = ["n: int"]
//: grid  = ["ceil_div(n, V * STEPS)", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [16, 1, 4], X = [1, 64]}
//: needs = {}

#ifndef OTHERS  // parts in `others`, each of n; the first BEFORE are of ranks before this one
#define OTHERS 0
#define BEFORE 0
#endif
#define FROM(k) ((k) - ((k) > BEFORE)) * n

KERNEL(sum_ranks)(IN(stg, x), IN(stg, others), OUT(stg, y), ARG(int, n) GRID) {
  const int first = GID(0) * V * STEPS;
  const int last = MIN(first + V * STEPS, n);
  int i = first;
  for (; i + V <= last; i += V) {
    vec sum = BEFORE ? LOADV(others, i) : LOADV(x, i);
    for (int k = 1; k <= OTHERS; k++) sum += k == BEFORE ? LOADV(x, i) : LOADV(others, FROM(k) + i);
    STOREV(y, i, sum);
  }
  for (; i < last; i++) {
    float sum = BEFORE ? LOAD(others, i) : LOAD(x, i);
    for (int k = 1; k <= OTHERS; k++) sum += k == BEFORE ? LOAD(x, i) : LOAD(others, FROM(k) + i);
    STORE(y, i, sum);
  }
}

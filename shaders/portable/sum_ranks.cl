//: op    = ["SumRanks"]
//: class = "portable"
//: caps  = []
//: why   = "The sum over devices that share a network, where there are no others: a copy. With others, who runs the plan sums."
//: in    = ["x: stg[n]"]
//: out   = ["y: stg[n]"]
//: args  = ["n: int"]
//: grid  = ["ceil_div(n, V * STEPS)", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [16, 1, 4], X = [1, 64]}
//: needs = {}

KERNEL(sum_ranks)(IN(stg, x), OUT(stg, y), ARG(int, n) GRID) {
  const int first = GID(0) * V * STEPS;
  const int last = MIN(first + V * STEPS, n);
  int i = first;
  for (; i + V <= last; i += V) STOREV(y, i, LOADV(x, i));
  for (; i < last; i++) STORE(y, i, LOAD(x, i));
}

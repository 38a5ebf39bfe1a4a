//: op    = ["Sigmoid", "Erf", "Tanh", "Sin", "Cos", "Sqrt", "Exp", "Neg", "Relu", "Silu", "Gelu", "GeluTanh",
//:         "QuickGelu"]
//: class = "portable"
//: caps  = []
//: why   = "One function of every element. A work-item does STEPS vectors."
//: in    = ["x: stg[n]"]
//: out   = ["y: stg[n]"]
//: args  = ["n: int"]
//: grid  = ["ceil_div(n, V * STEPS)", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {V = [16, 4, 8], STEPS = [16, 1, 4], X = [1, 64]}
//: needs = {}

#if OP_Sigmoid
#define APPLY(x) (1.0f / (1.0f + EXP(-(x))))
#elif OP_Erf
#define APPLY(x) ERF(x)
#elif OP_Tanh
#define APPLY(x) TANH(x)
#elif OP_Sin
#define APPLY(x) SIN(x)
#elif OP_Cos
#define APPLY(x) COS(x)
#elif OP_Sqrt
#define APPLY(x) SQRT(x)
#elif OP_Exp
#define APPLY(x) EXP(x)
#elif OP_Relu
#define APPLY(x) RELU(x)
#elif OP_Silu
#define APPLY(x) SILU(x)
#elif OP_Gelu
#define APPLY(x) GELU(x)
#elif OP_GeluTanh
#define APPLY(x) GELU_TANH(x)
#elif OP_QuickGelu
#define APPLY(x) QUICK_GELU(x)
#else
#define APPLY(x) (-(x))
#endif

KERNEL(unary)(IN(stg, x), OUT(stg, y), ARG(int, n) GRID) {
  const int first = GID(0) * V * STEPS;
  const int last = MIN(first + V * STEPS, n);
  int i = first;
  for (; i + V <= last; i += V) STOREV(y, i, APPLY(LOADV(x, i)));
  for (; i < last; i++) STORE(y, i, APPLY(LOAD(x, i)));
}

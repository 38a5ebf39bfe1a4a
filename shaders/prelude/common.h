// Words that both dialects spell alike, in terms of their own. Stands after either of them.

// Activations, of one value or of a vector.
#define SILU(v)         ((v) / (1.0f + EXP(-(v))))
#define QUICK_GELU(v)   ((v) / (1.0f + EXP(-1.702f * (v))))
#define GELU(v)         (0.5f * (v) * (1.0f + ERF((v) * 0.70710678118654752f)))
#define GELU_TANH(v)    (0.5f * (v) * (1.0f + TANH((v) * (0.7978845608028654f + 0.035677408136300125f * (v) * (v)))))

// An input that the planner may have put where the output is written (the header's `inplace`): with INPLACE the output
// is read in its place. An element is read by the work-item that then stores it; by others only before a BARRIER_ALL
// that all of them pass.
#if INPLACE
#define OVERWRITTEN(input, output) output
#else
#define OVERWRITTEN(input, output) input
#endif

#define CACHE_LINE      (F16 ? 32 : 16)  // elements of 64 bytes

// Where row or column `i` of a picture that is repeated from `size` to `up` is stored (nearest neighbour). Of one that is
// not, the product could be beyond 32 bits: a film's pixels in one row.
#define NEAREST(i, size, up) ((up) == (size) ? (i) : (i) * (size) / (up))

// V vectors, as rows of a square, become its columns: log2(V) times every row takes turns with the one V / 2 further.
#define TRANSPOSE(rows)                                                             \
  UNROLL                                                                            \
  for (int od_step = 1; od_step < V; od_step *= 2) {                                \
    vec od_rows[V];                                                                 \
    UNROLL                                                                          \
    for (int od_r = 0; od_r < V / 2; od_r++)                                        \
      ZIP(od_rows[2 * od_r], od_rows[2 * od_r + 1], rows[od_r], rows[od_r + V / 2]) \
    UNROLL                                                                          \
    for (int od_r = 0; od_r < V; od_r++) rows[od_r] = od_rows[od_r];                \
  }
// What OP, of two vectors, makes of the lanes of each of `count` vectors, into floats. V of them at a time are halved
// together, so that both arrays have room for whole V.
#define PLUS(a, b)      ((a) + (b))
#define LANES_OF_ROWS(OP, to, rows, count)                                          \
  for (int od_from = 0; od_from < (count); od_from += V) {                          \
    vec od_some[V];                                                                 \
    UNROLL                                                                          \
    for (int od_r = 0; od_r < V; od_r++) od_some[od_r] = rows[od_from + od_r];      \
    UNROLL                                                                          \
    for (int od_step = V / 2; od_step > 0; od_step /= 2)                            \
      UNROLL                                                                        \
      for (int od_r = 0; od_r < od_step; od_r++) {                                  \
        vec od_low, od_high;                                                        \
        ZIP(od_low, od_high, od_some[od_r], od_some[od_r + od_step])                \
        od_some[od_r] = OP(od_low, od_high);                                        \
      }                                                                             \
    STOREP(to, od_from, od_some[0]);                                                \
  }
